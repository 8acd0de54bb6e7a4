"""SQLite's write-ahead log, for the catalog and for the small databases of serving and review."""

from __future__ import annotations

import sqlite3
import time

_PATIENCE_S = 60


def into_wal(connection: sqlite3.Connection) -> None:
    """WAL mode, which a new file gets by the first that opens it.

    Of several that do so at once, SQLite tells all but one that it is locked, without the patience that it has elsewhere: each
    holds a lock that the others wait for. Raises sqlite3.OperationalError for anything else, or after a minute.
    """
    until = time.monotonic() + _PATIENCE_S
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() >= until:
                raise
            time.sleep(0.01)
