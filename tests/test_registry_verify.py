"""Verify finds every kind of damage, and only damage."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
import small_registry as small

from registry import BaseRecord, HeadRecord, Registry
from registry.errors import IntegrityError


@pytest.fixture
def filled(tmp_path: Path) -> Registry:
    registry = Registry.open(tmp_path)
    small.rounds(registry)
    small.evaluate(registry, registry.resolve("abdomen"), {"liver": [0.9]})
    registry.set_alias("abdomen", "production", 2)
    return registry


def blob_of(registry: Registry, organ: str) -> str:
    return registry.load("abdomen").heads[organ].weights


def change(registry: Registry, statement: str) -> None:
    """Change the catalog behind the registry's back."""
    with sqlite3.connect(str(registry.catalog.database.file)) as db:
        assert db.execute(statement).rowcount >= 1


def test_a_sound_registry_is_clean(filled: Registry) -> None:
    report = filled.verify()
    assert report.clean and (report.blobs, report.records, report.versions, report.events) == (6, 10, 3, 4)
    assert report.orphans == () and report.leftovers == 0


@pytest.mark.parametrize(
    ("damage", "text"),
    [
        (lambda p: p.write_bytes(p.read_bytes()[:-1] + b"\0"), "bytes of sha256:"),
        (lambda p: p.write_bytes(p.read_bytes()[:100]), "got 100 bytes of sha256:"),
        (lambda p: p.unlink(), "head sha256:"),
    ],
    ids=["flipped", "truncated", "deleted"],
)
def test_a_damaged_blob_is_named(
    filled: Registry, tmp_path: Path, damage: Callable[[Path], object], text: str
) -> None:
    digest = blob_of(filled, "aorta")
    path = small.blob_path(filled, tmp_path, digest)
    path.chmod(0o644)
    damage(path)
    (problem,) = filled.verify().problems
    assert digest[:12] in problem and text in problem
    with pytest.raises(IntegrityError, match=f"expected the blob sha256:{digest[:12]}"):
        filled.load("abdomen").head_weights("aorta")
    assert filled.load("abdomen").head_weights("liver")  # nothing else is touched
    filled.put(small.weights(2002))
    assert filled.verify().clean


def test_blobs_that_no_record_needs_are_counted_and_harmless(filled: Registry) -> None:
    digest = filled.put(b"nobody's")
    report = filled.verify()
    assert report.clean and report.orphans == (digest,)


@pytest.mark.parametrize(
    ("statement", "text"),
    [
        ("UPDATE records SET body = body || x'20' WHERE kind = 'base'", "expected the record sha256:"),
        ("UPDATE records SET subject = 'spleen' WHERE subject = 'liver'", "to be filed as head of liver, it is filed as head of"),
        ("DELETE FROM records WHERE kind = 'base'", "which is missing"),
        ("DELETE FROM records WHERE kind = 'head' AND subject = 'liver'", "which is missing"),
        ("UPDATE versions SET digest = (SELECT digest FROM versions WHERE version = 1) WHERE version = 2",
         "abdomen:2: the events say it was registered as sha256:"),
        ("UPDATE versions SET digest = (SELECT digest FROM records WHERE kind = 'base') WHERE version = 2",
         "abdomen:2: its model sha256:"),
        ("DELETE FROM versions WHERE version = 3", "abdomen:3: the events say it was registered, it is not there"),
        ("INSERT INTO versions SELECT name, 9, digest, created, note FROM versions WHERE version = 1",
         "abdomen:9: the events say it was registered as nothing"),
        ("UPDATE aliases SET version = 1", "abdomen@production: the events say version 2, it points at 1"),
        ("UPDATE aliases SET version = 7", "abdomen@production: points at version 7, which is not there"),
        ("DELETE FROM aliases", "abdomen@production: the events say version 2, it points at None"),
        ("DELETE FROM events WHERE id = 2", "event 2: it or the one before it was changed or removed"),
        ("UPDATE events SET body = CAST(replace(CAST(body AS TEXT), 'abdomen', 'chest') AS BLOB) WHERE id = 1",
         "event 1: it or the one before it was changed"),
    ],
)  # fmt: skip
def test_a_changed_catalog_is_seen(filled: Registry, statement: str, text: str) -> None:
    change(filled, statement)
    assert any(text in problem for problem in filled.verify().problems), filled.verify().problems


def test_a_damaged_database_is_told(filled: Registry, tmp_path: Path) -> None:
    filled.catalog.database.engine.dispose()
    file = tmp_path / "catalog.sqlite"
    data = bytearray(file.read_bytes())
    for at in range(5000, len(data), 7):
        data[at] ^= 0x55
    file.write_bytes(data)
    try:
        problems = Registry.open(tmp_path).verify().problems
    except IntegrityError as error:
        assert error.exit_code == 4 and "restore it from a backup" in str(error)
    else:
        assert problems


def test_fingerprints_are_taken_anew(filled: Registry) -> None:
    def fingerprint_of(record: BaseRecord | HeadRecord, data: bytes) -> str:
        assert len(data) > 4000
        return "e" * 64 if record.kind == "head" and record.class_name == "liver" else record.fingerprint

    (problem,) = filled.verify(fingerprint_of).problems
    assert "of a head: expected the fingerprint 000000000000, got eeeeeeeeeeee" in problem


def test_verify_changes_nothing(filled: Registry, tmp_path: Path) -> None:
    filled.catalog.database.engine.dispose()
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*") if p.is_file() and "sqlite" not in p.name}
    filled.verify()
    assert {p: p.stat().st_mtime_ns for p in before} == before
