"""Volumes that take longer than one likes to wait for: kept in a table and files of our own, over restarts and kills.

Order of writing: the upload, then its row; the result, then the row that says done. So a row never lacks its file, and what a
killed process leaves without a row is removed at the next start. What it was at work on is done again, at most three times.
"""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, BinaryIO
from uuid import uuid4

from ctune.data.files import sync_folder
from ctune.serve.faults import Refused
from registry.wal import into_wal

ATTEMPTS = 3
_TABLE = """
CREATE TABLE IF NOT EXISTS jobs (
  id TEXT PRIMARY KEY, owner TEXT NOT NULL, state TEXT NOT NULL, fields TEXT NOT NULL, created REAL NOT NULL,
  started REAL, finished REAL, attempts INTEGER NOT NULL DEFAULT 0, status INTEGER, error TEXT, media_type TEXT, about TEXT
) STRICT
"""
_BLOCK = 2**20


class State(StrEnum):
    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"


@dataclass(frozen=True)
class JobRow:
    """One job. Times are seconds since 1970. fields: what the client asked for. status, error: of one that failed."""

    id: str
    owner: str
    state: State
    fields: Mapping[str, str]
    created: float
    started: float | None
    finished: float | None
    attempts: int
    status: int | None
    error: str | None
    media_type: str | None
    about: Mapping[str, Any] | None


class Jobs:
    """The table, and the folder of uploads and results beside it. most: jobs that may wait; keep_seconds: after the end."""

    def __init__(self, folder: Path, most: int, keep_seconds: float) -> None:
        self._files, self.most, self.keep_seconds = folder / "jobs", most, keep_seconds
        self._files.mkdir(parents=True, exist_ok=True)
        self._lock = threading.RLock()
        self._rows = sqlite3.connect(folder / "jobs.sqlite", check_same_thread=False, isolation_level=None)
        self._rows.row_factory = sqlite3.Row
        # Said to be kept is kept, also when the machine loses power.
        into_wal(self._rows)
        self._rows.executescript(f"PRAGMA synchronous=FULL; {_TABLE}")
        self._after_a_stop()

    def close(self) -> None:
        self._rows.close()

    @property
    def waiting(self) -> int:
        """Jobs that nobody has begun."""
        with self._lock:
            return int(self._rows.execute("SELECT count(*) FROM jobs WHERE state = 'queued'").fetchone()[0])

    def add(self, upload: BinaryIO, fields: Mapping[str, str], owner: str) -> str:
        """Keep a job and return its id; it is on the disk then. Raises Refused (429) when too many wait.

        When the disk or the table refuses it, nothing of it stays: it is the CT of a patient.
        """
        if self.waiting >= self.most:
            raise Refused(
                429, f"expected at most {self.most} jobs that wait, there are as many; ask again later", Retry_After="60"
            )  # fmt: skip
        job_id = uuid4().hex
        try:
            self._keep(upload, self.folder(job_id) / "upload")
            with self._changing() as rows:
                rows.execute(
                    "INSERT INTO jobs (id, owner, state, fields, created) VALUES (?, ?, 'queued', ?, ?)",
                    (job_id, owner, json.dumps(dict(fields)), time.time()),
                )
        except BaseException:
            shutil.rmtree(self.folder(job_id), ignore_errors=True)
            raise
        return job_id

    def find(self, job_id: str, owner: str) -> JobRow:
        """A job of `owner`. Raises Refused (404): another's job is not there."""
        with self._lock:
            row = self._rows.execute(
                "SELECT * FROM jobs WHERE id = ? AND owner = ?", (job_id, owner)
            ).fetchone()
        if row is None:
            raise Refused(404, "expected the id of a job of yours, there is none; it may have expired")
        return _job(row)

    def folder(self, job_id: str) -> Path:
        """Where the files of a job of the table lie."""
        return self._files / job_id

    def begin(self) -> JobRow | None:
        """The oldest job that waits, now running; None when none does. Only who works on no other may ask."""
        with self._changing() as rows:
            # What still says that it runs has ended without the table taking it down: its disk was full, say.
            _put_back(rows)
            row = rows.execute(
                "UPDATE jobs SET state = 'running', attempts = attempts + 1, started = ? WHERE id = "
                "(SELECT id FROM jobs WHERE state = 'queued' ORDER BY created, id LIMIT 1) RETURNING *",
                (time.time(),),
            ).fetchone()
        return None if row is None else _job(row)

    def done(self, job_id: str, result: BinaryIO, media_type: str, about: Mapping[str, Any]) -> None:
        """Keep the result of a job; one that was deleted meanwhile stays deleted."""
        with self._lock:
            if self._is_there(job_id):
                self._keep(result, self.folder(job_id) / "result")
                self._end(job_id, State.DONE, media_type=media_type, about=json.dumps(about))

    def failed(self, job_id: str, status: int, error: str) -> None:
        """Keep why there is no result."""
        self._end(job_id, State.FAILED, status=status, error=error)

    def again(self, job_id: str) -> None:
        """A job that was stopped because the service ends: it waits for the next start."""
        with self._changing() as rows:
            rows.execute(
                "UPDATE jobs SET state = 'queued', attempts = attempts - 1 WHERE id = ? AND state = 'running'", (job_id,)
            )  # fmt: skip

    def delete(self, job_id: str) -> None:
        """Forget a job and its files."""
        with self._changing() as rows:
            rows.execute("DELETE FROM jobs WHERE id = ?", (job_id,))
        shutil.rmtree(self.folder(job_id), ignore_errors=True)

    def expire(self) -> None:
        """Forget what ended longer ago than it is kept."""
        with self._lock:
            old = self._rows.execute(
                "SELECT id FROM jobs WHERE finished < ?", (time.time() - self.keep_seconds,)
            ).fetchall()
        for row in old:
            self.delete(row["id"])

    def _is_there(self, job_id: str) -> bool:
        return self._rows.execute("SELECT 1 FROM jobs WHERE id = ?", (job_id,)).fetchone() is not None

    def _end(self, job_id: str, state: State, **values: Any) -> None:
        named = ", ".join(f"{name} = :{name}" for name in values)
        with self._changing() as rows:
            rows.execute(
                f"UPDATE jobs SET state = :state, finished = :now, {named} WHERE id = :id",
                {"state": state, "now": time.time(), "id": job_id, **values},
            )
        # The CT is needed no more: what is not there cannot be lost.
        (self.folder(job_id) / "upload").unlink(missing_ok=True)

    def _after_a_stop(self) -> None:
        with self._changing() as rows:
            _put_back(rows)
            known = {row["id"] for row in rows.execute("SELECT id FROM jobs")}
        for folder in self._files.iterdir():
            if folder.name not in known:
                shutil.rmtree(folder, ignore_errors=True)
        self.expire()

    @contextmanager
    def _changing(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            self._rows.execute("BEGIN IMMEDIATE")
            try:
                yield self._rows
                self._rows.execute("COMMIT")
            except BaseException:
                # Of some errors, as of a full disk, SQLite has rolled back by itself.
                if self._rows.in_transaction:
                    self._rows.execute("ROLLBACK")
                raise

    @staticmethod
    def _keep(source: BinaryIO, path: Path) -> None:
        path.parent.mkdir(exist_ok=True)
        temporary = path.with_suffix(".tmp")
        try:
            with temporary.open("wb") as file:
                shutil.copyfileobj(source, file, _BLOCK)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        sync_folder(path.parent)
        sync_folder(path.parent.parent)


def _put_back(rows: sqlite3.Connection) -> None:
    """Let what was at work wait again, unless it was so too often."""
    rows.execute(
        "UPDATE jobs SET state = 'failed', finished = ?, status = 500, error = ? WHERE state = 'running' AND attempts >= ?",
        (time.time(), f"the service ended {ATTEMPTS} times while it worked on it", ATTEMPTS),
    )
    rows.execute("UPDATE jobs SET state = 'queued' WHERE state = 'running'")


def _job(row: sqlite3.Row) -> JobRow:
    values = dict(row)
    values["state"], values["fields"] = State(values["state"]), json.loads(values["fields"])
    values["about"] = json.loads(values["about"]) if values["about"] else None
    return JobRow(**values)
