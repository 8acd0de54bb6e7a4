"""Disks that are full or read-only, under the blobs and under the catalog: told in a line, nothing lost, nothing half-written."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import small_registry as small
import sqlalchemy as sa

from registry import Registry
from registry.archive import export, import_archive
from registry.errors import RegistryError
from registry.folder import FolderStore
from registry.mirror import push

DATA = b"a head of the aorta" * 100


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 1 MiB in memory."""
    folder = tmp_path / "disk"
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], capture_output=True, check=False
    )
    if done.returncode != 0:
        pytest.skip(f"mounting a small disk is not allowed here: {done.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", "-l", folder], check=False)


def test_a_full_disk_is_told_and_leaves_nothing(small_disk: Path) -> None:
    store = FolderStore(small_disk)
    small = store.put(b"small")
    with pytest.raises(
        RegistryError, match=r"expected to write below .*, got: the disk is full; nothing half-written"
    ):
        store.put(os.urandom(3 << 20))
    assert list(store.digests()) == [small] and list(store.incoming.iterdir()) == []
    assert store.get(store.put(b"there is room again")) == b"there is room again"


def test_a_read_only_disk_is_told_and_can_be_read(small_disk: Path) -> None:
    store = FolderStore(small_disk)
    digest = store.put(DATA)
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    with pytest.raises(RegistryError, match="the disk is read-only"):
        store.put(b"more")
    assert store.get(digest) == DATA and store.put(DATA) == digest


def fill(disk: Path) -> Path:
    """A file that takes all the room there is."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file:
        for size in (4096, 1):
            try:
                while file.write(b"x" * size):
                    pass
            except OSError:
                continue
    return filler


def contents(registry: Registry) -> tuple[object, ...]:
    return registry.versions(), registry.aliases(), [e.action for e in registry.events()]


def test_a_full_disk_under_the_catalog_is_told_and_the_same_again_succeeds(
    small_disk: Path, tmp_path: Path
) -> None:
    # The blobs have room elsewhere: it is the catalog's own transaction that does not fit.
    registry = Registry.open(small_disk, blobs=str(tmp_path / "blobs"))
    made = small.rounds(registry)
    before, filler = contents(registry), fill(small_disk)
    done = 0
    with pytest.raises(
        RegistryError, match=r"expected to use the catalog .* nothing was half-written"
    ) as told:
        for done in range(2000):  # noqa: B007  # the log beside the catalog has some room left
            registry.add_version("abdomen", made[0], note="x" * 400)
    assert told.value.exit_code in (1, 4) and "is full" in str(told.value)
    filler.unlink()
    again = Registry.open(small_disk, blobs=str(tmp_path / "blobs"))
    assert again.versions()[:3] == before[0] and len(again.versions()) == 3 + done
    assert again.verify().problems == ()
    assert again.add_version("abdomen", made[1]).version == 4 + done


def test_a_full_disk_stops_each_way_in_and_leaves_nothing(small_disk: Path, tmp_path: Path) -> None:
    other = Registry.open(tmp_path / "other")
    small.rounds(other)
    export(other, "abdomen:3", tmp_path / "model.ctune")
    registry = Registry.open(small_disk)
    on = small.base(registry)
    known, filler = sorted(registry.store.digests()), fill(small_disk)
    before = contents(registry)
    for work in (
        lambda: registry.put(os.urandom(20_000)),
        lambda: import_archive(registry, tmp_path / "model.ctune", actor="ada"),
        lambda: export(other, "abdomen:3", small_disk / "model.ctune"),
        lambda: push(other, small_disk / "mirror"),
    ):
        with pytest.raises(RegistryError, match=r"the disk is full|is full") as told:
            work()
        assert told.value.exit_code == 1
    assert sorted(registry.store.digests()) == known and contents(registry) == before
    assert [p.name for p in small_disk.rglob("*.tmp")] == [] and not (small_disk / "model.ctune").exists()
    filler.unlink()
    assert import_archive(registry, tmp_path / "model.ctune", actor="ada").version == 3
    assert registry.verify().problems == () and registry.known(on) is not None


def test_the_command_line_on_a_read_only_disk(small_disk: Path) -> None:
    registry = Registry.open(small_disk)
    small.rounds(registry)
    registry.catalog.database.engine.dispose()
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)

    def ctune(*words: str) -> tuple[int, str]:
        command = [sys.executable, "-m", "cli.main", "registry", *words, "--registry", str(small_disk)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return done.returncode, done.stderr

    assert ctune("show", "abdomen:3", "--json")[0] == 0 and ctune("verify", "--json")[0] == 0
    for words in (["alias", "abdomen:1", "old"], ["gc", "--delete"]):
        code, told = ctune(*words)
        assert code == 1 and "read-only" in told and "Traceback" not in told


def test_a_catalog_that_may_not_grow_keeps_what_it_has(tmp_path: Path) -> None:
    # SQLite's own limit says the same as a full disk, also where no disk can be mounted.
    registry = Registry.open(tmp_path)
    made = small.rounds(registry)

    def limit(connection: Any, *_: object) -> None:
        pages = connection.execute("PRAGMA page_count").fetchone()[0]
        connection.execute(f"PRAGMA max_page_count = {pages}")

    registry.catalog.database.engine.dispose()
    sa.event.listen(registry.catalog.database.engine, "connect", limit)
    with pytest.raises(
        RegistryError, match="is full; nothing was half-written; check that it can be reached"
    ):
        while True:
            registry.add_version("abdomen", made[0], note="x" * 400)
    here = registry.versions()
    registry.catalog.database.engine.dispose()
    again = Registry.open(tmp_path)
    assert again.versions() == here and again.verify().problems == ()
    assert again.add_version("abdomen", made[0]).version == len(here) + 1
