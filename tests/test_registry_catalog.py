"""The catalog: numbers without gaps, one history, old databases brought up to date, newer ones refused."""

from __future__ import annotations

import multiprocessing
import os
import sqlite3
import warnings
from contextlib import closing
from pathlib import Path

import pytest
import small_registry as small
import sqlalchemy as sa

from registry import Registry, database
from registry.errors import (
    IntegrityError,
    NetworkFileSystemWarning,
    NewerCatalogError,
    NotFoundError,
    OvertakenError,
    RegistryError,
)
from registry.mounts import network_file_system
from registry.places import read_places

OLD = """
CREATE TABLE records (digest VARCHAR(64) PRIMARY KEY, kind VARCHAR(16) NOT NULL, subject VARCHAR, body BLOB NOT NULL,
    measured JSON NOT NULL, created VARCHAR(32) NOT NULL, renewed VARCHAR(32) NOT NULL);
CREATE TABLE versions (name VARCHAR(128), version INTEGER, digest VARCHAR(64) NOT NULL REFERENCES records(digest),
    created VARCHAR(32) NOT NULL, note VARCHAR NOT NULL, PRIMARY KEY (name, version));
CREATE TABLE aliases (name VARCHAR(128), alias VARCHAR(128), version INTEGER NOT NULL, PRIMARY KEY (name, alias));
CREATE TABLE events (id INTEGER PRIMARY KEY AUTOINCREMENT, time VARCHAR(32) NOT NULL, actor VARCHAR NOT NULL,
    action VARCHAR(32) NOT NULL, name VARCHAR(128) NOT NULL, details JSON NOT NULL);
CREATE TABLE alembic_version (version_num VARCHAR(32) PRIMARY KEY);
INSERT INTO alembic_version VALUES ('0001');
"""


def old_catalog(folder: Path) -> None:
    """A registry of revision 0001 with two versions and an alias."""
    registry = Registry.open(folder)
    small.rounds(registry, count=2)
    registry.set_alias("abdomen", "production", 2, actor="ada")
    rows = registry.catalog.snapshot()
    registry.catalog.database.engine.dispose()
    for file in folder.glob("catalog.sqlite*"):
        file.unlink()
    with sqlite3.connect(folder / "catalog.sqlite") as db:
        db.executescript(OLD)
        for r in rows.records:
            db.execute(
                "INSERT INTO records VALUES (?, ?, ?, ?, '{}', ?, ?)",
                (r.digest, r.kind, r.subject, r.body, r.created, r.renewed),
            )
        for v in rows.versions:
            db.execute(
                "INSERT INTO versions VALUES (?, ?, ?, ?, ?)",
                (v.name, v.version, v.digest, v.created, v.note),
            )
            details = f'{{"version": {v.version}, "digest": "{v.digest}"}}'
            db.execute(
                "INSERT INTO events (time, actor, action, name, details) VALUES (?, 'ada', 'register', ?, ?)",
                (v.created, v.name, details),
            )
        db.execute("INSERT INTO aliases VALUES ('abdomen', 'production', 2)")
        db.execute(
            "INSERT INTO events (time, actor, action, name, details) VALUES "
            """('2024', 'Ærø', 'alias', 'abdomen', '{"alias": "production", "from": null, "to": 2}')"""
        )


def revision(file: Path) -> str:
    # `with sqlite3.connect` does not close: the files beside a catalog in WAL mode would stay until it is collected.
    with closing(sqlite3.connect(file)) as db:
        return str(db.execute("SELECT version_num FROM alembic_version").fetchone()[0])


def test_versions_count_up_and_stay(tmp_path: Path) -> None:
    registry = Registry.open(tmp_path)
    made = small.rounds(registry)
    assert [(v.version, v.digest) for v in registry.versions("abdomen")] == list(enumerate(made, start=1))
    assert registry.resolve("abdomen") == registry.resolve("abdomen:3") == made[2]
    with pytest.raises(
        NotFoundError, match="expected a registered model, got 'abdomen:4'; `ctune registry list` names"
    ):
        registry.resolve("abdomen:4")


def test_an_alias_moves_and_keeps_its_history(tmp_path: Path) -> None:
    registry = Registry.open(tmp_path)
    small.rounds(registry)
    for version in (1, 3, 2):
        registry.set_alias("abdomen", "production", version, actor="ada")
    assert registry.resolve("abdomen@production") == registry.resolve("abdomen:2")
    moves = [
        (e.actor, e.details["from"], e.details["to"])
        for e in registry.events("abdomen")
        if e.action == "alias"
    ]
    assert moves == [("ada", None, 1), ("ada", 1, 3), ("ada", 3, 2)]
    with pytest.raises(
        NotFoundError, match="expected an alias of abdomen, got 'staging'; `ctune registry alias abdomen`"
    ):
        registry.resolve("abdomen@staging")
    with pytest.raises(NotFoundError):
        registry.set_alias("abdomen", "production", 9)


def test_a_digest_is_found_by_its_beginning(tmp_path: Path) -> None:
    registry = Registry.open(tmp_path)
    made = small.rounds(registry)
    assert registry.resolve(f"sha256:{made[0][:8]}") == made[0] == registry.resolve(f"sha256:{made[0]}")
    with pytest.raises(NotFoundError, match="found none; `ctune registry list` shows digests"):
        registry.resolve("sha256:00000000")


def test_names_at_a_glance(tmp_path: Path) -> None:
    registry = Registry.open(tmp_path)
    small.rounds(registry, "chest", 1)
    small.rounds(registry, "abdomen", 3)
    registry.set_alias("abdomen", "production", 2)
    found = [(n.name, n.versions, n.latest.version, dict(n.aliases)) for n in registry.names()]
    assert found == [("abdomen", 3, 3, {"production": 2}), ("chest", 1, 1, {})]


def _register(root: Path, digest: str, ready: object) -> None:
    ready.wait()  # type: ignore[attr-defined]
    Registry.open(root).add_version("abdomen", digest)


@pytest.mark.parametrize("fresh", [False, True], ids=["one model", "a new registry each"])
def test_sixteen_processes_at_once_get_sixteen_numbers(tmp_path: Path, fresh: bool) -> None:
    context = multiprocessing.get_context("fork")
    ready = context.Barrier(16)
    if fresh:
        target, arguments = _open_and_register, (tmp_path, ready)
    else:
        registry = Registry.open(tmp_path)
        on = small.base(registry)
        digest = small.model(registry, on, {"liver": small.head(registry, on, "liver", 0)})
        registry.catalog.database.engine.dispose()
        target, arguments = _register, (tmp_path, digest, ready)  # type: ignore[assignment]
    workers = [context.Process(target=target, args=arguments) for _ in range(16)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(120)
    assert [worker.exitcode for worker in workers] == [0] * 16
    registry = Registry.open(tmp_path)
    assert [v.version for v in registry.versions("abdomen")] == list(range(1, 17))
    report = registry.verify()
    assert report.clean and report.versions == 16 and report.events == 16, report.problems


def _open_and_register(root: Path, ready: object) -> None:
    # All of them find no registry and make it, and put the same blobs at once.
    ready.wait()  # type: ignore[attr-defined]
    small.rounds(Registry.open(root), count=1)


def test_an_old_catalog_is_brought_up_to_date_after_a_backup(tmp_path: Path) -> None:
    old_catalog(tmp_path)
    registry = Registry.open(tmp_path)
    report = registry.verify()
    assert report.clean and (report.versions, report.events) == (2, 3), report.problems
    assert registry.resolve("abdomen@production") == registry.resolve("abdomen:2")
    assert [(e.actor, e.action) for e in registry.events()][-1] == ("Ærø", "alias")
    (backup,) = (tmp_path / "backups").iterdir()
    assert backup.name.startswith("catalog-0001-") and revision(backup) == "0001"
    assert revision(tmp_path / "catalog.sqlite") == "0002"
    registry.add_version("abdomen", registry.resolve("abdomen:1"))
    Registry.open(tmp_path)
    assert len(list((tmp_path / "backups").iterdir())) == 1 and registry.verify().clean


def test_a_version_that_must_follow_another_is_refused_when_one_came_between(tmp_path: Path) -> None:
    registry = Registry.open(tmp_path)
    small.rounds(registry, count=2)
    digest = registry.resolve("abdomen:1")
    assert registry.add_version("abdomen", digest, after=2).version == 3
    assert registry.add_version("new", digest, after=0).version == 1
    with pytest.raises(
        OvertakenError, match=r"expected abdomen:2 to be the newest version still, abdomen:3 came"
    ):
        registry.add_version("abdomen", digest, after=2)
    with pytest.raises(OvertakenError):
        registry.add_version("new", digest, after=0)
    assert len(registry.versions("abdomen")) == 3 and len(registry.versions("new")) == 1


def test_the_tables_are_those_that_the_migrations_make(tmp_path: Path) -> None:
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    from registry.tables import metadata

    with Registry.open(tmp_path).catalog.database.reading() as db:
        assert compare_metadata(MigrationContext.configure(db), metadata) == []


def test_a_newer_catalog_is_refused_and_left_alone(tmp_path: Path) -> None:
    Registry.open(tmp_path).catalog.database.engine.dispose()
    with sqlite3.connect(tmp_path / "catalog.sqlite") as db:
        db.execute("UPDATE alembic_version SET version_num = '0099'")
    with pytest.raises(
        NewerCatalogError, match=r"revision 0002 or older in .*, got 0099: a newer ctune has used it; update"
    ):
        Registry.open(tmp_path)
    assert revision(tmp_path / "catalog.sqlite") == "0099" and not (tmp_path / "backups").exists()


def test_tables_without_a_revision_are_refused(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "catalog.sqlite") as db:
        db.execute("CREATE TABLE records (digest TEXT)")
    with pytest.raises(NewerCatalogError, match="tables without a revision; move it aside"):
        Registry.open(tmp_path)


def test_a_file_that_is_no_database_is_told(tmp_path: Path) -> None:
    (tmp_path / "catalog.sqlite").write_bytes(b"not a database at all" * 200)
    with pytest.raises(
        IntegrityError, match=r"expected a sound catalog in .*, got: file is not a database; restore it"
    ):
        Registry.open(tmp_path)


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("no url", "expected an SQLAlchemy URL of the catalog, got 'no url'"),
        ("mysql://host/db", "expected a catalog in SQLite or PostgreSQL, got mysql"),
        ("sqlite:////nosuch/folder/x.sqlite", "unable to open database file; nothing was half-written"),
    ],
)
def test_a_catalog_that_cannot_be_is_told(tmp_path: Path, url: str, text: str) -> None:
    with pytest.raises(RegistryError, match=text):
        Registry.open(tmp_path, catalog=url)


def test_places_are_read_from_the_registry_itself(tmp_path: Path) -> None:
    (tmp_path / "registry.toml").write_text(
        f'catalog = "sqlite:///{tmp_path}/models.db"\nblobs = "{tmp_path}/far"\n'
    )
    small.rounds(Registry.open(tmp_path), count=1)
    assert (tmp_path / "models.db").exists() and (tmp_path / "far" / "blobs").exists()
    (tmp_path / "registry.toml").write_text("catalogue = 3\n")
    with pytest.raises(
        RegistryError,
        match=r"expected `catalog`, `blobs` and `cache` as text.*registry.toml, got: .*catalogue",
    ):
        Registry.open(tmp_path)


def test_places_begin_in_the_registrys_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever opens it, wherever from."""
    root = tmp_path / "registry"
    (root / "elsewhere").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for catalog, blobs, at in (
        ("sqlite:///elsewhere/models.db", "weights", root / "weights"),
        ("sqlite:///elsewhere/models.db", "../beside", tmp_path / "beside"),
        (f"sqlite:///{root}/elsewhere/models.db", "~/far", tmp_path / "home" / "far"),
    ):
        (root / "registry.toml").write_text(f'catalog = "{catalog}"\nblobs = "{blobs}"\n')
        for cwd in (tmp_path, root / "elsewhere"):
            monkeypatch.chdir(cwd)
            opened = Registry.open(Path(os.path.relpath(root)))
            digest = opened.put(blobs.encode())
            assert (at / "blobs" / "sha256" / digest[:2] / digest).exists()
            assert opened.catalog.database.file == root / "elsewhere" / "models.db"
    (root / "registry.toml").write_text('blobs = "memory://weights"\ncatalog = "sqlite:///:memory:"\n')
    assert (read_places(root).blobs, read_places(root).catalog) == ("memory://weights", "sqlite:///:memory:")


@pytest.mark.parametrize("name", ["what?", "a#b", "100%41", "with space", "größe"])
def test_a_registry_lies_in_a_folder_of_any_name(tmp_path: Path, name: str) -> None:
    """Also where registry.toml names the catalog by a path of its own."""
    root = tmp_path / name
    small.rounds(Registry.open(root), count=1)
    assert [path.name for path in tmp_path.iterdir()] == [name] and (root / "catalog.sqlite").exists()
    assert Registry.open(root).names()
    (root / "registry.toml").write_text('catalog = "sqlite:///other.sqlite?timeout=5"\n', encoding="utf-8")
    small.rounds(Registry.open(root), count=1)
    assert (root / "other.sqlite").exists() and [path.name for path in tmp_path.iterdir()] == [name]


def test_a_folder_that_may_not_be_written_is_read(tmp_path: Path) -> None:
    small.rounds(Registry.open(tmp_path), count=1)
    tmp_path.chmod(0o555)
    for folder in tmp_path.parents[:3]:
        folder.chmod(0o755)  # pytest keeps its folders to their owner
    said = tmp_path.parent / "said"
    said.touch()
    said.chmod(0o666)
    child = os.fork()
    if child == 0:
        if os.getuid() == 0:
            os.setuid(65534)  # nobody; root may write everywhere
        registry = Registry.open(tmp_path)
        lines = [registry.load("abdomen:1").record.kind, str(registry.verify().clean)]
        for change in (lambda: registry.set_alias("abdomen", "production", 1), lambda: registry.put(b"x")):
            try:
                change()
            except RegistryError as error:
                lines.append(str(error))
        said.write_text("\n".join(lines))
        os._exit(0)
    os.waitpid(child, 0)
    tmp_path.chmod(0o755)
    kind, clean, first, second = said.read_text().splitlines()
    assert (kind, clean) == ("model", "True")
    assert (
        first.startswith("expected to write the catalog") and "read-only here; nothing was changed" in first
    )
    assert "got: no permission; nothing half-written was left" in second


@pytest.fixture
def reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    """A registry of two versions, the first in production, that is open in a process that may not write."""
    root = tmp_path / "a #1 100%"
    writer = Registry.open(root)
    small.rounds(writer, count=2)
    writer.set_alias("abdomen", "production", 1)
    gone(writer)
    with monkeypatch.context() as nobody:
        nobody.setattr(database, "_may_write", lambda _: False)
        reader = Registry.open(root)
    assert reader.catalog.database.read_only and str(reader.catalog.version("abdomen")) == "abdomen:2"
    return reader


def gone(registry: Registry) -> None:
    """Close it; the last one takes what SQLite has beside the file with it."""
    registry.catalog.database.engine.dispose()


def beside(registry: Registry) -> list[str]:
    file = registry.catalog.database.file
    assert file is not None
    return sorted(path.name.removeprefix(file.name) for path in file.parent.glob(f"{file.name}-*"))


def test_who_may_only_read_sees_what_others_write(reader: Registry) -> None:
    def seen() -> tuple[int, int]:
        return reader.catalog.version("abdomen", 1).version, reader.aliases()["abdomen", "production"]

    file = reader.catalog.database.file
    assert file is not None and seen() == (1, 1) and beside(reader) == []
    writer = Registry.open(file.parent)
    for version in (2, 1, 2):
        writer.set_alias("abdomen", "production", version)
        assert beside(reader) == ["-shm", "-wal"] and seen() == (1, version), "while the writer is there"
    gone(writer)
    assert beside(reader) == [] and seen() == (1, 2), "after it has gone"
    # So much that every page of the file is another one.
    for number in range(300):
        writer.set_alias("abdomen", f"x{number}", 2)
    gone(writer)
    assert seen() == (1, 2) and len(reader.aliases()) == 301 and len(reader.events()) == 304 + 2
    assert reader.verify().clean


def test_a_look_during_which_a_writer_came_is_taken_again(reader: Registry) -> None:
    file, asked = reader.catalog.database.file, []
    assert file is not None

    def ask(db: sa.Connection) -> int:
        asked.append(db.execute(sa.text("SELECT version FROM aliases")).scalar())
        if len(asked) == 1:
            writer = Registry.open(file.parent)
            writer.set_alias("abdomen", "production", 2)
            gone(writer)
        if len(asked) == fail:
            raise sa.exc.DatabaseError("", (), sqlite3.DatabaseError("database disk image is malformed"))
        return int(asked[-1])

    fail = 1
    assert reader.catalog.database.look(ask) == 2 and asked == [1, 2]
    fail = 3
    with pytest.raises(IntegrityError, match="malformed; restore it from a backup"):
        reader.catalog.database.look(ask)
    assert len(asked) == 3, "nobody came: it is so"


def test_a_reader_who_never_gets_a_moment_is_told(reader: Registry) -> None:
    file = reader.catalog.database.file
    assert file is not None

    def ask(_: sa.Connection) -> None:
        os.utime(file)

    with pytest.raises(
        RegistryError, match=r"expected a moment in which nobody writes the catalog .*; ask again"
    ):
        reader.catalog.database.look(ask)


MOUNTS = """/dev/vda / ext4 rw 0 0
server:/models /data/models nfs4 rw 0 0
//server/share /data/with\\040blank cifs rw 0 0
tmpfs /data/models/local tmpfs rw 0 0
me@host:/ /home/me/far fuse.sshfs rw 0 0
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/data/models/registry/catalog.sqlite", "nfs4"),
        ("/data/models", "nfs4"),
        ("/data/models/local/x", None),
        ("/data/models2/x", None),
        ("/data/with blank/x", "cifs"),
        ("/home/me/far/x", "fuse.sshfs"),
        ("/home/me/x", None),
    ],
)
def test_network_file_systems_are_told_apart(path: str, kind: str | None) -> None:
    assert network_file_system(Path(path), MOUNTS) == kind


def test_sqlite_on_a_network_file_system_warns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = tmp_path / "mounts"
    table.write_text(f"server:/x {tmp_path} nfs rw 0 0\n")
    monkeypatch.setattr("registry.mounts._MOUNTS", table)
    with pytest.warns(
        NetworkFileSystemWarning, match=r"lies on a network file system \(nfs\).*: keep it on a local disk"
    ):
        Registry.open(tmp_path / "registry")
    monkeypatch.undo()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Registry.open(tmp_path / "registry")
