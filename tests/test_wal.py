"""Databases that several open at once for the first time, of which SQLite refuses some without waiting."""

from __future__ import annotations

import functools
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ctune.review.state import ReviewState
from ctune.serve.jobs import Jobs
from registry import Registry
from registry.wal import into_wal


class _Locked(sqlite3.Connection):
    """A connection to a real file that others are before: told `says` as often as `left`, then free."""

    left, asked, says = 0, 0, "database is locked"

    def execute(self, sql: str, *args: Any) -> sqlite3.Cursor:
        if "journal_mode" in sql.lower():
            _Locked.asked += 1
            if _Locked.asked <= _Locked.left:
                raise sqlite3.OperationalError(_Locked.says)
        return super().execute(sql, *args)

    def executescript(self, sql: str) -> sqlite3.Cursor:
        assert "journal_mode" not in sql.lower(), "asked without patience"
        return super().executescript(sql)


@pytest.fixture
def locked(monkeypatch: pytest.MonkeyPatch) -> type[_Locked]:
    monkeypatch.setattr(_Locked, "left", 3)
    monkeypatch.setattr(_Locked, "asked", 0)
    return _Locked


def test_a_new_file_that_others_open_too_is_waited_for(locked: type[_Locked], tmp_path: Path) -> None:
    """Of sixteen that opened one at once, about one in seventy was refused."""
    connection = sqlite3.connect(tmp_path / "new.db", factory=locked)
    into_wal(connection)
    assert locked.asked == 4
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    connection.close()


def test_what_is_not_about_locks_is_raised_at_once(
    locked: type[_Locked], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locked, "says", "disk I/O error")
    connection = sqlite3.connect(tmp_path / "new.db", factory=locked)
    with pytest.raises(sqlite3.OperationalError, match="disk I/O"):
        into_wal(connection)
    assert locked.asked == 1
    connection.close()


@pytest.mark.parametrize(
    "open_it",
    [ReviewState, lambda folder: Jobs(folder, 10, 60).close(), Registry.open],
    ids=["the experts' page", "the server's jobs", "the registry"],
)
def test_every_database_waits(
    open_it: Callable[[Path], object], locked: type[_Locked], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Six experts who opened a new page at once: three of 72 were refused before the page waited."""
    connect = functools.partial(sqlite3.connect, factory=locked)
    monkeypatch.setattr(sqlite3, "connect", connect)
    monkeypatch.setattr(sqlite3.dbapi2, "connect", connect)
    open_it(tmp_path / "new")
    assert locked.asked > locked.left
