"""The catalog: what is registered, under which names, in SQL.

SQLite in WAL mode by default; any SQLAlchemy URL works. Versions are rows that never change; an alias is one row that
moves, and every move is an event.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError as SQLIntegrityError

from registry.errors import NewerCatalogError, NotFoundError, RegistryError

SCHEMA = 1
"""Version of the tables below."""

_tables = sa.MetaData()
meta = sa.Table(
    "meta",
    _tables,
    sa.Column("key", sa.String, primary_key=True),
    sa.Column("value", sa.String, nullable=False),
)
records = sa.Table(
    "records",
    _tables,
    sa.Column("digest", sa.String(64), primary_key=True),
    sa.Column("kind", sa.String(16), nullable=False),
    sa.Column("subject", sa.String(64), index=True),
    sa.Column("created", sa.String, nullable=False),
    sa.Column("measured", sa.JSON, nullable=False),
)
versions = sa.Table(
    "versions",
    _tables,
    sa.Column("name", sa.String(128), primary_key=True),
    sa.Column("version", sa.Integer, primary_key=True),
    sa.Column("digest", sa.String(64), sa.ForeignKey("records.digest"), nullable=False, index=True),
    sa.Column("created", sa.String, nullable=False),
    sa.Column("note", sa.String, nullable=False),
)
aliases = sa.Table(
    "aliases",
    _tables,
    sa.Column("name", sa.String(128), primary_key=True),
    sa.Column("alias", sa.String(128), primary_key=True),
    sa.Column("version", sa.Integer, nullable=False),
)
events = sa.Table(
    "events",
    _tables,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("time", sa.String, nullable=False),
    sa.Column("actor", sa.String, nullable=False),
    sa.Column("action", sa.String(32), nullable=False),
    sa.Column("name", sa.String(128), nullable=False),
    sa.Column("details", sa.JSON, nullable=False),
)


@dataclass(frozen=True)
class Version:
    """One version of a name; never changes."""

    name: str
    version: int
    digest: str
    created: str
    note: str


@dataclass(frozen=True)
class Event:
    """One thing that happened: who did what to which name, when."""

    time: str
    actor: str
    action: str
    name: str
    details: dict[str, Any]


class Catalog:
    """The tables behind one URL; made when they are not there."""

    def __init__(self, url: str) -> None:
        self.engine = sa.create_engine(url)
        if self.engine.dialect.name == "sqlite":
            sa.event.listen(self.engine, "connect", _on_connect)
            sa.event.listen(self.engine, "begin", _begin_immediate)
        with self._writing() as db:
            _tables.create_all(db)
            found = db.execute(sa.select(meta.c.value).where(meta.c.key == "schema")).scalar()
            if found is None:
                db.execute(meta.insert().values(key="schema", value=str(SCHEMA)))
            elif int(found) > SCHEMA:
                raise NewerCatalogError(
                    f"expected a catalog of schema {SCHEMA} or older, got {found}; it was written by a newer ctune: update this one"
                )

    @contextmanager
    def _writing(self) -> Iterator[sa.Connection]:
        try:
            with self.engine.begin() as db:
                yield db
        except sa.exc.OperationalError as error:
            raise RegistryError(
                f"expected to write the catalog {self.engine.url!r}, got: {error.orig}; "
                "check that the disk has room and may be written, and try again"
            ) from None

    # Records ------------------------------------------------------------------------------------------------------

    def add_record(self, digest: str, kind: str, subject: str | None, measured: dict[str, Any]) -> bool:
        """Note a record; False when it was known already (then `measured` of the first time stays)."""
        with self._writing() as db:
            if db.execute(sa.select(records.c.digest).where(records.c.digest == digest)).first():
                return False
            row = {
                "digest": digest,
                "kind": kind,
                "subject": subject,
                "created": _now(),
                "measured": measured,
            }
            db.execute(records.insert().values(row))
            return True

    def digests(self, kind: str | None = None, subject: str | None = None) -> list[str]:
        """Digests of all records (of a kind, about a subject), oldest first."""
        query = sa.select(records.c.digest).order_by(records.c.created, records.c.digest)
        if kind:
            query = query.where(records.c.kind == kind)
        if subject:
            query = query.where(records.c.subject == subject)
        with self.engine.connect() as db:
            return list(db.execute(query).scalars())

    def starting_with(self, prefix: str) -> list[str]:
        """Digests of records that begin with `prefix`."""
        query = (
            sa.select(records.c.digest).where(records.c.digest.startswith(prefix, autoescape=True)).limit(5)
        )
        with self.engine.connect() as db:
            return list(db.execute(query).scalars())

    def measured(self, digest: str) -> dict[str, Any]:
        """What was measured when the record was first registered."""
        with self.engine.connect() as db:
            found = db.execute(sa.select(records.c.measured).where(records.c.digest == digest)).scalar()
        return dict(found or {})

    # Versions and aliases -----------------------------------------------------------------------------------------

    def add_version(self, name: str, digest: str, actor: str, note: str) -> Version:
        """The next version of a name; numbers have no gaps, however many processes ask at once."""
        for _ in range(100):
            try:
                with self._writing() as db:
                    last = db.execute(
                        sa.select(sa.func.max(versions.c.version)).where(versions.c.name == name)
                    ).scalar()
                    row = Version(name, (last or 0) + 1, digest, _now(), note)
                    db.execute(versions.insert().values(**row.__dict__))
                    _log(db, actor, "register", name, {"version": row.version, "digest": digest})
                return row
            except SQLIntegrityError:
                # Another process took the number (databases without a write lock at the transaction's start).
                continue
        raise RegistryError(
            f"expected to add a version of {name}, lost the race for its number 100 times; try again"
        )

    def versions(self, name: str | None = None) -> list[Version]:
        """All versions (of a name), by name and number."""
        query = sa.select(versions).order_by(versions.c.name, versions.c.version)
        if name:
            query = query.where(versions.c.name == name)
        with self.engine.connect() as db:
            return [Version(**row._mapping) for row in db.execute(query)]

    def version(self, name: str, number: int | None = None) -> Version:
        """One version of a name, by default the newest. Raises NotFoundError."""
        query = (
            sa.select(versions).where(versions.c.name == name).order_by(versions.c.version.desc()).limit(1)
        )
        if number is not None:
            query = query.where(versions.c.version == number)
        with self.engine.connect() as db:
            row = db.execute(query).first()
        if row is None:
            wanted = name if number is None else f"{name}:{number}"
            raise NotFoundError(
                f"expected a registered model, got {wanted!r}; `ctune registry list` names them"
            )
        return Version(**row._mapping)

    def set_alias(self, name: str, alias: str, version: int, actor: str) -> None:
        """Point an alias at a version; where it pointed before stays in the events. Raises NotFoundError."""
        self.version(name, version)
        here = (aliases.c.name == name) & (aliases.c.alias == alias)
        with self._writing() as db:
            before = db.execute(sa.select(aliases.c.version).where(here)).scalar()
            if before is None:
                db.execute(aliases.insert().values(name=name, alias=alias, version=version))
            else:
                db.execute(aliases.update().where(here).values(version=version))
            _log(db, actor, "alias", name, {"alias": alias, "from": before, "to": version})

    def aliases(self, name: str | None = None) -> dict[tuple[str, str], int]:
        """{(name, alias): version}."""
        query = sa.select(aliases).order_by(aliases.c.name, aliases.c.alias)
        if name:
            query = query.where(aliases.c.name == name)
        with self.engine.connect() as db:
            return {(row.name, row.alias): row.version for row in db.execute(query)}

    def events(self, name: str | None = None) -> list[Event]:
        """Everything that happened (to a name), oldest first."""
        query = sa.select(events).order_by(events.c.id)
        if name:
            query = query.where(events.c.name == name)
        with self.engine.connect() as db:
            return [Event(r.time, r.actor, r.action, r.name, dict(r.details)) for r in db.execute(query)]


def _log(db: sa.Connection, actor: str, action: str, name: str, details: dict[str, Any]) -> None:
    db.execute(events.insert().values(time=_now(), actor=actor, action=action, name=name, details=details))


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds")


def _on_connect(connection: Any, _: Any) -> None:
    # SQLAlchemy begins transactions itself (see below); sqlite3's own late BEGIN would let two writers read first.
    connection.isolation_level = None
    for pragma in ("journal_mode = WAL", "synchronous = FULL", "busy_timeout = 30000", "foreign_keys = ON"):
        connection.execute(f"PRAGMA {pragma}")


def _begin_immediate(db: sa.Connection) -> None:
    # A writer takes its lock before it reads, so that the number it reads is still the last when it writes.
    db.exec_driver_sql("BEGIN IMMEDIATE")
