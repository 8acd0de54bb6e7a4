"""What the review page remembers between requests and restarts: leases, sessions, verdicts, seconds, drafts."""

from __future__ import annotations

import hashlib
import secrets
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ctune.data.nifti import read_mask, write_mask
from ctune.errors import PoolError
from ctune.review.tokens import Expert, hashed
from ctune.types import Grid, Mask
from registry.wal import into_wal

LEASE_SECONDS = 300.0
SESSION_SECONDS = 12 * 3600.0
_DRAFTS_KEPT = 20
_TABLES = """
create table if not exists lease (case_id text primary key, expert text not null, until real not null);
create table if not exists session (sha256 text primary key, expert text not null, role text not null, until real not null,
                                    token text not null default '');
create table if not exists ticket (sha256 text primary key, case_id text not null, until real not null);
create table if not exists seconds (case_id text, expert text, round integer, active real not null,
                                    counted real not null default 0, primary key (case_id, expert, round));
create table if not exists verdict (case_id text, expert text, round integer, verdict text not null,
                                    comment text not null, at real not null);
"""


@dataclass(frozen=True)
class Lease:
    case_id: str
    expert: str
    until: float
    """Seconds since 1970."""


@dataclass(frozen=True)
class Verdict:
    case_id: str
    expert: str
    round: int
    verdict: str
    """accepted, edited or cannot_judge."""
    comment: str
    at: float


class LeasedError(PoolError):
    """Another expert has the case."""


class ReviewState:
    """``review/review.db`` and ``review/drafts/`` of a project; safe for several threads and processes."""

    def __init__(self, root: Path, clock: Callable[[], float] = time.time) -> None:
        self.root, self.clock = root, clock
        root.mkdir(parents=True, exist_ok=True)
        with self._open() as db:
            db.executescript(_TABLES)
            db.execute("begin immediate")  # one of several that open it at once adds the columns
            if "token" not in _columns(db, "session"):
                # Of an earlier version, whose sessions did not say which token began them: they end.
                db.execute("delete from session")
                db.execute("alter table session add column token text not null default ''")
            if "counted" not in _columns(db, "seconds"):
                # Of an earlier version, whose verdicts counted all seconds each time.
                db.execute("alter table seconds add column counted real not null default 0")
                db.execute(
                    "update seconds set counted = active where (case_id, expert, round) in "
                    "(select case_id, expert, round from verdict)"
                )

    # Leases ---------------------------------------------------------------------------------------------------------

    def lease(self, case_id: str, expert: str, seconds: float = LEASE_SECONDS) -> Lease:
        """Take or renew the case for some seconds. Raises LeasedError while another expert has it."""
        with self._open() as db:
            db.execute("begin immediate")
            row = db.execute("select expert, until from lease where case_id = ?", (case_id,)).fetchone()
            if row and row[0] != expert and row[1] > self.clock():
                left = max(1, round((row[1] - self.clock()) / 60))
                raise LeasedError(
                    f"case {case_id}: expected it to be free, {row[0]} is working on it (for {left} more min unless "
                    "renewed); take the next case, or only look"
                )
            until = self.clock() + seconds
            db.execute("insert or replace into lease values (?, ?, ?)", (case_id, expert, until))
        return Lease(case_id, expert, until)

    def release(self, case_id: str, expert: str) -> None:
        """Give the case back; somebody else's lease stays."""
        with self._open() as db:
            db.execute("delete from lease where case_id = ? and expert = ?", (case_id, expert))

    def leases(self) -> dict[str, Lease]:
        """The leases that hold now, by case."""
        with self._open() as db:
            rows = db.execute("select case_id, expert, until from lease where until > ?", (self.clock(),))
            return {row[0]: Lease(*row) for row in rows}

    # Sessions -------------------------------------------------------------------------------------------------------

    def new_session(self, expert: Expert, token: str = "") -> str:
        """A secret that stands for the expert until SESSION_SECONDS are over, also after a restart.

        token: the hash of the token that began it, "" for the one-time link.
        """
        secret = secrets.token_urlsafe(32)
        with self._open() as db:
            db.execute("delete from session where until < ?", (self.clock(),))
            row = (hashed(secret), expert.name, expert.role, self.clock() + SESSION_SECONDS, token)
            db.execute("insert into session values (?, ?, ?, ?, ?)", row)
        return secret

    def session(self, secret: str) -> tuple[Expert, str] | None:
        """Whose session it is and the hash of its token, None for no session or one that is over."""
        with self._open() as db:
            row = db.execute(
                "select expert, role, token from session where sha256 = ? and until > ?",
                (hashed(secret), self.clock()),
            ).fetchone()
        return (Expert(row[0], row[1]), str(row[2])) if row else None

    # Tickets --------------------------------------------------------------------------------------------------------

    def new_ticket(self, case_id: str, seconds: float) -> str:
        """A secret that fetches one CT for some seconds, for clients whose download cannot sign in."""
        secret = secrets.token_urlsafe(16)
        with self._open() as db:
            db.execute("delete from ticket where until < ?", (self.clock(),))
            db.execute(
                "insert into ticket values (?, ?, ?)", (hashed(secret), case_id, self.clock() + seconds)
            )
        return secret

    def ticket(self, case_id: str, secret: str) -> bool:
        """Whether it fetches the CT of this case, still."""
        with self._open() as db:
            query = "select 1 from ticket where sha256 = ? and case_id = ? and until > ?"
            return db.execute(query, (hashed(secret), case_id, self.clock())).fetchone() is not None

    # Seconds and verdicts ---------------------------------------------------------------------------------------------

    def add_seconds(self, case_id: str, expert: str, round_number: int, more: float) -> float:
        """Add active seconds and return their sum for this expert, case and round."""
        key = (case_id, expert, round_number)
        with self._open() as db:
            db.execute(
                "insert into seconds (case_id, expert, round, active) values (?, ?, ?, ?) "
                "on conflict do update set active = active + ?",
                (*key, more, more),
            )
            row = db.execute(
                "select active from seconds where case_id = ? and expert = ? and round = ?", key
            ).fetchone()
        return float(row[0])

    def new_seconds(self, case_id: str, expert: str, round_number: int) -> float:
        """Active seconds that no verdict of this expert on the case in that round has counted yet."""
        with self._open() as db:
            return _new_seconds(db, (case_id, expert, round_number))

    def carry_seconds(self, case_id: str, expert: str, since: int, to: int) -> None:
        """What no verdict of round `since` has counted is counted in round `to`: the expert goes on with that draft there."""
        with self._open() as db:
            db.execute("begin immediate")
            more = _new_seconds(db, (case_id, expert, since))
            where = "where case_id = ? and expert = ? and round = ?"
            db.execute(f"update seconds set counted = active {where}", (case_id, expert, since))
            db.execute(
                "insert into seconds (case_id, expert, round, active) values (?, ?, ?, ?) "
                "on conflict do update set active = active + ?",
                (case_id, expert, to, more, more),
            )

    def judge(
        self, case_id: str, expert: str, round_number: int, verdict: str, comment: str, seconds: float | None = None
    ) -> None:  # fmt: skip
        """Keep a verdict; earlier ones stay. `seconds` of ``new_seconds`` are counted with it, by default all."""
        with self._open() as db:
            row = (case_id, expert, round_number, verdict, comment, self.clock())
            db.execute("insert into verdict values (?, ?, ?, ?, ?, ?)", row)
            db.execute(
                "update seconds set counted = min(active, counted + coalesce(?, active)) "
                "where case_id = ? and expert = ? and round = ?",
                (seconds, case_id, expert, round_number),
            )

    def verdicts(self, round_number: int) -> list[Verdict]:
        """All verdicts of a round, oldest first."""
        with self._open() as db:
            return [
                Verdict(*row)
                for row in db.execute("select * from verdict where round = ? order by at", (round_number,))
            ]

    # Drafts -----------------------------------------------------------------------------------------------------------

    def save_draft(
        self, case_id: str, expert: str, round_number: int, name: str, mask: Mask, grid: Grid
    ) -> int:
        """Write the next version of one class's draft and return its number; the last _DRAFTS_KEPT are kept."""
        folder = self._drafts(case_id, expert, round_number)
        known = self._versions(folder, name)
        number = max(known, default=0) + 1
        write_mask(folder / f"{name}-{number:05d}.nii.gz", mask, grid)
        for old in sorted(known)[: -_DRAFTS_KEPT + 1]:
            known[old].unlink(missing_ok=True)
        return number

    def drafts(self, case_id: str, expert: str, round_number: int) -> dict[str, int]:
        """{class: newest version} of an expert's drafts."""
        folder = self._drafts(case_id, expert, round_number)
        names = {path.name.rpartition("-")[0] for path in folder.glob("[!.]*-*.nii.gz")}
        return {name: max(self._versions(folder, name)) for name in sorted(names)}

    def unjudged_drafts(self, case_id: str, expert: str, round_number: int) -> list[str]:
        """Classes of an expert's drafts that are newer than this expert's last verdict on the case in that round."""
        found = self.drafts(case_id, expert, round_number)
        if not found:
            return []
        mine = [v.at for v in self.verdicts(round_number) if (v.case_id, v.expert) == (case_id, expert)]
        folder, since = self._drafts(case_id, expert, round_number), max(mine, default=0.0)
        return [
            n for n, version in found.items() if self._versions(folder, n)[version].stat().st_mtime > since
        ]

    def read_draft(self, case_id: str, expert: str, round_number: int, name: str, grid: Grid) -> Mask | None:
        """The newest draft of a class, or None."""
        versions = self._versions(self._drafts(case_id, expert, round_number), name)
        return read_mask(versions[max(versions)], grid, f"case {case_id}, {name}") if versions else None

    def _drafts(self, case_id: str, expert: str, round_number: int) -> Path:
        # An expert's name may hold anything: the folder is named after its hash.
        who = hashlib.sha256(expert.encode()).hexdigest()[:16]
        return self.root / "drafts" / f"{round_number:03d}" / case_id / who

    def _versions(self, folder: Path, name: str) -> dict[int, Path]:
        return {int(p.name[len(name) + 1 :].split(".")[0]): p for p in folder.glob(f"{name}-[0-9]*.nii.gz")}

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        db = sqlite3.connect(self.root / "review.db", timeout=10.0)
        try:
            into_wal(db)
            with db:
                yield db
        finally:
            db.close()


def _columns(db: sqlite3.Connection, table: str) -> set[str]:
    return {row[1] for row in db.execute(f"pragma table_info({table})")}


def _new_seconds(db: sqlite3.Connection, key: tuple[str, str, int]) -> float:
    query = "select active - counted from seconds where case_id = ? and expert = ? and round = ?"
    row = db.execute(query, key).fetchone()
    return float(row[0]) if row else 0.0


def open_leases(project_root: Path) -> set[str]:
    """The cases of a project that experts have open now; none where nobody ever reviewed."""
    root = project_root / "review"
    return set(ReviewState(root).leases()) if (root / "review.db").exists() else set()
