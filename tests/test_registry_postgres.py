"""The catalog in PostgreSQL: a real server, started from Debian's package."""

from __future__ import annotations

import multiprocessing
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest
import small_registry as small
from small_postgres import Server, running

from registry import Registry
from registry.errors import NewerCatalogError, RegistryError
from registry.migrate import backup


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """On a socket in a folder of its own."""
    with running() as found:
        yield found


@pytest.fixture
def catalog(server: Server) -> str:
    """The URL of an empty database."""
    import psycopg

    name = f"db{uuid4().hex}"
    with psycopg.connect(server.url, autocommit=True) as db:
        db.execute(f'CREATE DATABASE "{name}"')  # type: ignore[arg-type]
    return server.url.replace("/postgres?", f"/{name}?")


def test_everything_works_as_in_sqlite(tmp_path: Path, catalog: str) -> None:
    registry = Registry.open(tmp_path, catalog=catalog)
    made = small.rounds(registry)
    assert registry.resolve("abdomen") == made[2] == registry.resolve(f"sha256:{made[2][:8]}")
    registry.promote("abdomen:1", "production")
    registry.promote("abdomen:3", "production")
    assert registry.rollback("abdomen@production").after == 1
    composed = registry.compose("abdomen:1", {"aorta": "abdomen:2"})
    assert registry.collect(grace_s=0.0).records == (composed,)
    assert registry.collect(dry=False, grace_s=0.0).records == (composed,)
    report = Registry.open(tmp_path, catalog=catalog).verify()
    assert report.clean and report.versions == 3, report.problems
    assert [n.versions for n in registry.names()] == [3]
    assert not (tmp_path / "catalog.sqlite").exists()


def _register(root: Path, catalog: str) -> None:
    small.rounds(Registry.open(root, catalog=catalog), count=1)


def test_sixteen_processes_at_once_get_sixteen_numbers(tmp_path: Path, catalog: str) -> None:
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_register, args=(tmp_path, catalog)) for _ in range(16)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(120)
    assert [worker.exitcode for worker in workers] == [0] * 16
    registry = Registry.open(tmp_path, catalog=catalog)
    assert [v.version for v in registry.versions()] == list(range(1, 17)) and registry.verify().clean


def test_an_old_catalog_is_brought_up_to_date_after_a_backup(tmp_path: Path, catalog: str) -> None:
    import psycopg
    from test_registry_catalog import OLD

    with psycopg.connect(catalog) as db:
        old = OLD.replace("BLOB", "BYTEA").replace(
            "id INTEGER PRIMARY KEY AUTOINCREMENT", "id SERIAL PRIMARY KEY"
        )
        db.execute(old)  # type: ignore[arg-type]
        db.execute(
            "INSERT INTO events (time, actor, action, name, details) VALUES "
            """('2024', 'ada', 'gc', '', '{"records": []}')"""
        )
    registry = Registry.open(tmp_path, catalog=catalog)
    assert registry.verify().clean and [e.actor for e in registry.events()] == ["ada"]
    (file,) = (tmp_path / "backups").iterdir()
    assert file.suffix == ".jsonl" and '"actor": "ada"' in file.read_text()
    assert "event" in backup(registry.catalog.database, tmp_path / "again").read_text()


def test_a_newer_catalog_is_refused(tmp_path: Path, catalog: str) -> None:
    import psycopg

    Registry.open(tmp_path, catalog=catalog)
    with psycopg.connect(catalog) as db:
        db.execute("UPDATE alembic_version SET version_num = '0099'")
    with pytest.raises(NewerCatalogError, match="got 0099: a newer ctune has used it"):
        Registry.open(tmp_path, catalog=catalog)


def test_a_server_that_restarts_is_waited_for(tmp_path: Path, server: Server, catalog: str) -> None:
    registry = Registry.open(tmp_path, catalog=catalog)
    made = small.rounds(registry, count=1)
    server.stop()
    back = threading.Thread(target=lambda: (time.sleep(1.5), server.start()))
    back.start()
    assert registry.resolve("abdomen") == made[0]
    back.join()
    server.stop()
    back = threading.Thread(target=lambda: (time.sleep(1.5), server.start()))
    back.start()
    registry.promote("abdomen:1", "production")
    back.join()
    assert registry.resolve("abdomen@production") == made[0] and registry.verify().clean


def test_a_server_that_does_not_answer_is_told_without_its_password(tmp_path: Path) -> None:
    pytest.importorskip("psycopg", reason="the extra `postgres` is not installed")
    with pytest.raises(RegistryError, match="expected to use the catalog") as told:
        Registry.open(tmp_path, catalog=f"postgresql://ada:secret@/x?host={tmp_path}")
    assert "secret" not in str(told.value)


def test_many_workers_keep_no_connection_and_wait_for_room(tmp_path: Path, catalog: str) -> None:
    """A server of Debian's takes a hundred; here a role that may have two."""
    import psycopg

    Registry.open(tmp_path, catalog=catalog)
    with psycopg.connect(catalog, autocommit=True) as db:
        db.execute("DROP ROLE IF EXISTS few")
        db.execute("CREATE ROLE few LOGIN CONNECTION LIMIT 2")
        db.execute("GRANT SELECT ON ALL TABLES IN SCHEMA public TO few")
        few = catalog.replace("ctune@", "few@")
        kept = [Registry.open(tmp_path, catalog=few) for _ in range(5)]
        for _ in range(100):  # the server notices a moment later that its client has gone
            found = db.execute("SELECT count(*) FROM pg_stat_activity WHERE usename = 'few'").fetchone()
            if found == (0,):
                break
            time.sleep(0.1)
        assert kept and found == (0,), "none of five keeps a connection"
        full = [psycopg.connect(few) for _ in range(2)]
        timer = threading.Timer(1.5, lambda: [one.close() for one in full])
        timer.start()
        began = time.monotonic()
        assert Registry.open(tmp_path, catalog=few).names() == [] and kept[0].names() == []
        assert time.monotonic() - began > 1.0, "it waited"
        timer.join()
