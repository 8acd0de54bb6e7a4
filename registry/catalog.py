"""The catalog: what is registered, under which names, in SQL.

Records and versions are rows that never change; an alias is one row that moves, and every move is an event. What changes
something happens in one transaction with its event.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import sqlalchemy as sa

from registry.database import Database
from registry.errors import ExistsError, NotFoundError, OvertakenError, RegistryError
from registry.records import EventRecord, canonical, digest_of
from registry.rows import Name, Row, Snapshot, Version, as_bytes, now, read_row
from registry.statements import ALIASED, NEWEST, NUMBERED, RECORD, STARTING
from registry.tables import aliases, events, records, versions


class Catalog:
    """What the tables of one database say. Raises RegistryError when the database refuses."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def snapshot(self) -> Snapshot:
        """Everything, as it is at one moment."""

        def ask(db: sa.Connection) -> Snapshot:
            return Snapshot(
                [read_row(row) for row in db.execute(sa.select(records).order_by(records.c.created))],
                [Version(*row) for row in db.execute(sa.select(versions))],
                {(row.name, row.alias): row.version for row in db.execute(sa.select(aliases))},
                [
                    (row.digest, as_bytes(row.body))
                    for row in db.execute(sa.select(events.c.digest, events.c.body).order_by(events.c.id))
                ],
            )

        return self.database.look(ask)

    # Records ------------------------------------------------------------------------------------------------------

    def add_record(self, row: Row, check: Callable[[], None] = lambda: None) -> bool:
        """Keep a record; False when it is known already: then only `renewed` changes.

        `check` runs while no clean-up can: what it finds there stays there.
        """
        with self.database.writing() as db:
            check()
            return _add(db, row)

    def record(self, digest: str) -> Row | None:
        """One record by its whole digest."""
        row = self.database.look(lambda db: db.execute(RECORD, {"digest": digest}).first())
        return None if row is None else read_row(row)

    def records(self, kind: str | None = None, subject: str | None = None) -> list[Row]:
        """All records (of a kind, about a subject), oldest first."""
        query = sa.select(records).order_by(records.c.created, records.c.digest)
        if kind is not None:
            query = query.where(records.c.kind == kind)
        if subject is not None:
            query = query.where(records.c.subject == subject)
        return self.database.look(lambda db: [read_row(row) for row in db.execute(query)])

    def starting_with(self, prefix: str) -> list[str]:
        """Digests of records that begin with `prefix`, five at most."""
        ends = {"prefix": prefix, "end": prefix + "g"}
        return self.database.look(lambda db: list(db.execute(STARTING, ends).scalars()))

    def delete_records(self, choose: Callable[[], Iterable[str]], actor: str) -> list[str]:
        """Delete the records that `choose` names, asked while nobody else can register."""
        with self.database.writing() as db:
            chosen = sorted(choose())
            for start in range(0, len(chosen), 500):
                db.execute(records.delete().where(records.c.digest.in_(chosen[start : start + 500])))
            if chosen:
                _log(db, actor, "gc", "", {"records": chosen})
        return chosen

    # Versions -----------------------------------------------------------------------------------------------------

    def add_version(self, name: str, digest: str, actor: str, note: str, after: int | None = None) -> Version:
        """The next version of a name; numbers have no gaps, however many processes ask at once.

        after: the number that must still be the newest, 0 when there must be none. Raises OvertakenError when it is not.
        """
        with self.database.writing() as db:
            _must_be_here(db, digest)
            newest = db.execute(sa.select(sa.func.max(versions.c.version)).where(versions.c.name == name))
            last = newest.scalar() or 0
            if after is not None and last != after:
                raise OvertakenError(
                    f"expected {name}:{after} to be the newest version still, {name}:{last} came meanwhile; look at it, "
                    "then register again"
                )
            row = Version(name, last + 1, digest, now(), note)
            db.execute(versions.insert().values(**row.__dict__))
            _log(db, actor, "register", name, {"version": row.version, "digest": digest})
        return row

    def adopt(
        self, rows: Iterable[Row], version: Version | None, actor: str, origin: str, check: Callable[[], None]
    ) -> bool:
        """Take in records from elsewhere, and a version under the number it has there; False when all was here.

        Raises ExistsError when that number means something else here.
        """
        with self.database.writing() as db:
            check()
            added = [row.digest for row in rows if _add(db, row)]
            new = version is not None and not _is_here(db, version)
            if version is not None and new:
                db.execute(versions.insert().values(**version.__dict__))
            if added or new:
                named = {"version": version.version, "digest": version.digest} if version else {}
                _log(db, actor, "adopt", version.name if version else "", {**named, "origin": origin})
        return bool(added or new)

    def versions(self, name: str | None = None, digest: str | None = None) -> list[Version]:
        """All versions (of a name, of a model), by name and number."""
        query = sa.select(versions).order_by(versions.c.name, versions.c.version)
        if name is not None:
            query = query.where(versions.c.name == name)
        if digest is not None:
            query = query.where(versions.c.digest == digest)
        return self.database.look(lambda db: [Version(*row) for row in db.execute(query)])

    def version(self, name: str, number: int | None = None) -> Version:
        """One version of a name, by default the newest. Raises NotFoundError."""
        one = NEWEST if number is None else NUMBERED
        row = self.database.look(lambda db: db.execute(one, {"of": name, "number": number}).first())
        if row is None:
            wanted = name if number is None else f"{name}:{number}"
            raise NotFoundError(
                f"expected a registered model, got {wanted!r}; `ctune registry list` names them"
            )
        return Version(*row)

    def names(self) -> list[Name]:
        """Every name at a glance."""
        newest = (
            sa.select(
                versions.c.name, sa.func.max(versions.c.version).label("last"), sa.func.count().label("n")
            )
            .group_by(versions.c.name)
            .subquery()
        )
        same = (versions.c.name == newest.c.name) & (versions.c.version == newest.c.last)
        query = sa.select(versions, newest.c.n).join(newest, same).order_by(versions.c.name)
        found = self.database.look(lambda db: [(Version(*row[:5]), row[5]) for row in db.execute(query)])
        pointing: dict[str, dict[str, int]] = {}
        for (name, alias), number in self.aliases().items():
            pointing.setdefault(name, {})[alias] = number
        return [Name(latest.name, count, latest, pointing.get(latest.name, {})) for latest, count in found]

    # Aliases ------------------------------------------------------------------------------------------------------

    def move_alias(
        self,
        name: str,
        alias: str,
        version: int,
        *,
        actor: str,
        action: str = "alias",
        details: Mapping[str, Any] | None = None,
        expected: int | None = -1,
    ) -> None:
        """Point an alias at a version; where it pointed before stays in the events.

        Raises RegistryError when it no longer points at `expected` (None: nowhere; -1: anywhere), NotFoundError.
        """
        self.version(name, version)
        here = (aliases.c.name == name) & (aliases.c.alias == alias)
        with self.database.writing() as db:
            before = db.execute(sa.select(aliases.c.version).where(here)).scalar()
            if expected not in (-1, before):
                raise RegistryError(
                    f"expected {name}@{alias} to point at version {expected} still, it was moved to {before} meanwhile; "
                    "look at `ctune registry log --events` and decide again"
                )
            if before is None:
                db.execute(aliases.insert().values(name=name, alias=alias, version=version))
            else:
                db.execute(aliases.update().where(here).values(version=version))
            _log(db, actor, action, name, {"alias": alias, "from": before, "to": version, **(details or {})})

    def aliased(self, name: str, alias: str) -> Version | None:
        """The version that ``name@alias`` points at."""
        row = self.database.look(lambda db: db.execute(ALIASED, {"of": name, "alias": alias}).first())
        return None if row is None else Version(*row)

    def aliases(self, name: str | None = None) -> dict[tuple[str, str], int]:
        """{(name, alias): version}."""
        query = sa.select(aliases).order_by(aliases.c.name, aliases.c.alias)
        if name is not None:
            query = query.where(aliases.c.name == name)
        return self.database.look(
            lambda db: {(row.name, row.alias): row.version for row in db.execute(query)}
        )

    # Events -------------------------------------------------------------------------------------------------------

    def event_bodies(self, name: str | None = None) -> list[tuple[str, bytes]]:
        """(digest, canonical JSON) of what happened (to a name), oldest first."""
        query = sa.select(events.c.digest, events.c.body).order_by(events.c.id)
        if name is not None:
            query = query.where(events.c.name == name)
        return self.database.look(lambda db: [(row.digest, as_bytes(row.body)) for row in db.execute(query)])

    def events(self, name: str | None = None) -> list[EventRecord]:
        """Everything that happened (to a name), oldest first."""
        return [EventRecord.model_validate_json(body) for _, body in self.event_bodies(name)]


def _add(db: sa.Connection, row: Row) -> bool:
    here = records.c.digest == row.digest
    if db.execute(sa.select(records.c.digest).where(here)).first():
        db.execute(records.update().where(here).values(renewed=row.renewed))
        return False
    db.execute(records.insert().values(**row.__dict__))
    return True


def _must_be_here(db: sa.Connection, digest: str) -> None:
    if not db.execute(sa.select(records.c.digest).where(records.c.digest == digest)).first():
        raise NotFoundError(
            f"expected a registered record, got sha256:{digest[:12]}; register it again, then name it"
        )


def _is_here(db: sa.Connection, version: Version) -> bool:
    here = (versions.c.name == version.name) & (versions.c.version == version.version)
    found = db.execute(sa.select(versions.c.digest).where(here)).scalar()
    if found not in (None, version.digest):
        raise ExistsError(
            f"expected {version} to be free or sha256:{version.digest[:12]}, here it is sha256:{found[:12]}; a version "
            "never changes: take it in under another name"
        )
    return found is not None


def _log(db: sa.Connection, actor: str, action: str, name: str, details: Mapping[str, Any]) -> None:
    previous = db.execute(sa.select(events.c.digest).order_by(events.c.id.desc()).limit(1)).scalar()
    event = EventRecord(
        time=now(), actor=actor, action=action, name=name, details=dict(details), previous=previous
    )
    body = canonical(event)
    db.execute(events.insert().values(name=name, body=body, digest=digest_of(body)))
