"""The database behind a catalog: SQLite in WAL mode or PostgreSQL, brought to the present form when it is opened.

Writers take one lock for their whole transaction, in both databases: what a writer has read is still so when it writes.
"""

from __future__ import annotations

import os
import sqlite3
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import sqlalchemy as sa

from registry.errors import IntegrityError, NetworkFileSystemWarning, NewerCatalogError, RegistryError
from registry.mounts import network_file_system
from registry.tables import REVISION
from registry.wal import into_wal

_T = TypeVar("_T")
_LOCK = 0x6374756E65
"""Key of the advisory lock of writers in PostgreSQL."""
_PATIENCE_S = 60
_AWAY_S = 60.0
"""How long a server that was there may be away, or one may have no room."""
_LOOKS = 10
_BETWEEN_LOOKS_S = 0.02
_PASSING = (
    "too many clients",
    "too many connections",
    "remaining connection slots",
    "the database system is",
)
"""In what PostgreSQL says to a newcomer when it is full, starting or stopping."""


class _State(NamedTuple):
    """alone: nobody has the file open to write it. stamp: of the file."""

    alone: bool
    stamp: tuple[int, ...]


class Database:
    """Connections to one catalog.

    Raises NewerCatalogError for a catalog of a newer ctune, IntegrityError for a file that is no catalog, RegistryError when
    it cannot be reached. `backups` is where a copy goes before tables change.
    """

    def __init__(self, url: str, backups: Path) -> None:
        self.url = _url(url)
        on_disk = self._is_sqlite and self.url.database not in (None, "", ":memory:")
        self.file = Path(str(self.url.database)).resolve() if on_disk else None
        self.read_only = self.file is not None and not _may_write(self.file)
        if self.file and (kind := network_file_system(self.file)):
            warnings.warn(
                f"the catalog {self.file} lies on a network file system ({kind}), whose locks SQLite cannot rely on: keep "
                "it on a local disk, or give a PostgreSQL URL as the catalog",
                NetworkFileSystemWarning,
                stacklevel=2,
            )
        self._was_there = False
        self.engine = self._engine()
        found = self._revision()
        if found != REVISION:
            from registry.migrate import migrate

            with self._clear_errors():
                migrate(self, found, backups)

    @property
    def _is_sqlite(self) -> bool:
        return self.url.get_backend_name() == "sqlite"

    @property
    def _writer(self) -> dict[str, Any]:
        return {} if self._is_sqlite else {"isolation_level": "READ COMMITTED"}

    def sound(self) -> str | None:
        """What SQLite finds wrong with its own file, or None."""
        if not self._is_sqlite:
            return None
        found = self.look(lambda db: str(db.exec_driver_sql("PRAGMA quick_check(1)").scalar()))
        return None if found == "ok" else found

    def look(self, ask: Callable[[sa.Connection], _T]) -> _T:
        """What `ask` finds in one state of the catalog; it may be asked again, and must change nothing.

        Who may not write reads a file that nobody has open without locks: a look during which a writer came is one at two
        states, and is taken again.
        """
        for left in reversed(range(_LOOKS)):
            before = self._state()
            try:
                with self.reading() as db:
                    found = ask(db)
            except RegistryError:
                if not left or self._state() == before:
                    raise
            else:
                after = self._state()
                if before == after or (not (before and before.alone) and not (after and after.alone)):
                    return found
            time.sleep(_BETWEEN_LOOKS_S)
        raise RegistryError(
            f"expected a moment in which nobody writes the catalog {self.file}, which is read-only here, got none in {_LOOKS} "
            "looks; ask again, or copy the registry to a place of your own"
        )

    def _state(self) -> _State | None:
        """Of a file that is only read here: what a change of it would change; None where locks hold writers off."""
        if not self.read_only or self.file is None:
            return None
        try:
            found = self.file.stat()
        except OSError:
            return None
        wal = self.file.with_name(self.file.name + "-wal").exists()
        return _State(not wal, (found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns))

    @contextmanager
    def reading(self) -> Iterator[sa.Connection]:
        """A connection that sees one state of the catalog."""
        with self._clear_errors(), self._connected() as db:
            yield db

    @contextmanager
    def writing(self) -> Iterator[sa.Connection]:
        """A transaction that no other writer interleaves with; it is kept whole or, on an error, not at all."""
        if self.read_only:
            raise RegistryError(
                f"expected to write the catalog {self.file}, but it is read-only here; nothing was changed; get "
                "access, or copy the registry to a place of your own"
            )
        with self._clear_errors(), self._connected() as connection:
            db = connection.execution_options(ctune_writes=True, **self._writer)
            with db.begin():
                if not self._is_sqlite:
                    db.execute(sa.select(sa.func.pg_advisory_xact_lock(_LOCK)))
                yield db

    @contextmanager
    def _connected(self) -> Iterator[sa.Connection]:
        """A connection. A server that was there and is away, restarting or failing over, is waited for, and one that has no room
        or is starting: nothing has been said to it yet, so nothing is done twice."""
        until = time.monotonic() + _AWAY_S
        while True:
            try:
                connection = self.engine.connect()
                break
            except sa.exc.OperationalError as error:
                there = self._was_there or any(text in str(error.orig) for text in _PASSING)
                if self._is_sqlite or not there or time.monotonic() >= until:
                    raise
                time.sleep(0.5)
        self._was_there = True
        with connection:
            yield connection

    def _engine(self) -> sa.Engine:
        if not self._is_sqlite:
            # As in SQLite: a reader sees one moment, a writer what the last one left when the lock became free. No connection
            # is kept: a hundred workers that compute would take all that a server has (100 by default).
            return sa.create_engine(self.url, isolation_level="REPEATABLE READ", poolclass=sa.pool.NullPool)
        if self.read_only:
            # A connection for each look: what is true of the file now need not be so at the next.
            engine = sa.create_engine(self.url, creator=self._read_only, poolclass=sa.pool.NullPool)
        else:
            engine = sa.create_engine(self.url, connect_args={"timeout": _PATIENCE_S})
            sa.event.listen(engine, "connect", _on_connect)
        sa.event.listen(engine, "begin", _begin)
        return engine

    def _read_only(self) -> sqlite3.Connection:
        """Without the right to write, SQLite reads a WAL database only when told that nobody changes it, unless the files of
        a living writer are there: then it reads what that one has written, with its locks."""
        state = self._state()
        how = "mode=ro&immutable=1" if state is None or state.alone else "mode=ro"
        assert self.file is not None
        return sqlite3.connect(
            f"{self.file.as_uri()}?{how}",
            uri=True,
            timeout=_PATIENCE_S,
            isolation_level=None,
            check_same_thread=False,
        )

    def _revision(self) -> str | None:
        """The form of the tables that are there; None for an empty database."""

        def ask(db: sa.Connection) -> str | None:
            present = set(sa.inspect(db).get_table_names())
            if "alembic_version" not in present:
                if present & {"records", "versions"}:
                    raise NewerCatalogError(
                        f"expected a catalog that ctune made in {self.url!r}, got tables without a revision; move it "
                        "aside and pull or import its models anew"
                    )
                return None
            return db.execute(sa.text("SELECT version_num FROM alembic_version")).scalar()

        return self.look(ask)

    @contextmanager
    def _clear_errors(self) -> Iterator[None]:
        try:
            yield
        except (sa.exc.OperationalError, sa.exc.InterfaceError) as error:
            raise RegistryError(
                f"expected to use the catalog {self.url!r}, got: {_first_line(error)}; nothing was half-written; check "
                "that it can be reached and written and that its disk has room, and run the same again"
            ) from None
        except sa.exc.DatabaseError as error:
            if isinstance(error, sa.exc.IntegrityError):
                raise
            raise IntegrityError(
                f"expected a sound catalog in {self.url!r}, got: {_first_line(error)}; restore it from a backup"
            ) from None


def _url(text: str) -> sa.URL:
    try:
        url = sa.make_url(text)
        backend = url.get_backend_name()
    except sa.exc.ArgumentError:
        raise RegistryError(
            f"expected an SQLAlchemy URL of the catalog, got {text!r}; write sqlite:///FILE or postgresql://..."
        ) from None
    if backend not in ("sqlite", "postgresql"):
        raise RegistryError(
            f"expected a catalog in SQLite or PostgreSQL, got {backend}; choose one of the two"
        )
    # psycopg 3 is the driver of the extra `postgres`; SQLAlchemy's default would be its predecessor.
    return url.set(drivername="postgresql+psycopg") if url.drivername == "postgresql" else url


def _may_write(file: Path) -> bool:
    if not file.exists():
        return True
    return os.access(file, os.W_OK) and os.access(file.parent, os.W_OK)


def _first_line(error: sa.exc.DBAPIError) -> str:
    return next(iter(str(error.orig).splitlines()), type(error.orig).__name__)


def _on_connect(connection: Any, _: Any) -> None:
    # SQLAlchemy begins transactions itself (see below); sqlite3's own late BEGIN would let two writers read first.
    connection.isolation_level = None
    into_wal(connection)
    for pragma in ("synchronous = FULL", "foreign_keys = ON"):
        connection.execute(f"PRAGMA {pragma}")


def _begin(db: sa.Connection) -> None:
    # A writer takes its lock before it reads, so that what it read is still so when it writes; readers take none.
    db.exec_driver_sql("BEGIN IMMEDIATE" if db.get_execution_options().get("ctune_writes") else "BEGIN")
