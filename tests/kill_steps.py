"""Kill a process at each of its write steps, one run a step, and see what is left.

A step is every call that changes a file (open for writing, fsync, rename, unlink, mkdir, chmod, utime) and every statement
and commit that changes the catalog. The process is killed just before it; before an fsync half of the file is cut off
first, as a power cut would. The last step's successor is the end, so "before each" is "after each" too.
"""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import sqlalchemy as sa

FILE_EVENTS = ("os.rename", "os.remove", "os.mkdir", "os.chmod", "os.utime", "os.link")
FSYNC = os.fsync


class Steps:
    """Counts write steps and kills this process when `fatal` comes."""

    def __init__(self, fatal: int | None) -> None:
        self.fatal, self.seen = fatal, list[str]()

    def step(self, what: str, torn: int | None = None) -> None:
        if what == "os.mkdir" and self.seen[-4:] == [what] * 4:
            return  # a new store makes 256 folders in a row: killing at the first four is as good
        self.seen.append(what)
        if len(self.seen) == self.fatal:
            if torn is not None:
                tear(torn)
            os.kill(os.getpid(), signal.SIGKILL)

    def watch(self) -> None:
        sys.addaudithook(self._audit)
        os.fsync = self._fsync
        sa.event.listen(sa.Engine, "before_cursor_execute", self._statement)
        sa.event.listen(sa.Engine, "commit", lambda _: self.step("before commit"))

    def _audit(self, event: str, details: tuple[object, ...]) -> None:
        if event in FILE_EVENTS:
            self.step(event)
        elif event == "open" and isinstance(details[1], str) and set(details[1]) & set("wxa+"):
            self.step("open")

    def _fsync(self, handle: int) -> None:
        self.step("fsync", handle)
        FSYNC(handle)

    def _statement(self, connection: object, cursor: object, statement: str, *_: object) -> None:
        if not statement.lstrip().upper().startswith(("SELECT", "PRAGMA")):
            self.step(statement.split(maxsplit=1)[0])


def tear(handle: int) -> None:
    """Cut off half of an open file, where it is one that can be written."""
    with suppress(OSError):  # a folder, or opened for reading
        os.ftruncate(handle, os.fstat(handle).st_size // 2)


def run_killed(work: Callable[[], object], fatal: int | None, log: Path) -> bool:
    """Run `work` in a forked process; True when it was killed at step `fatal`, False when it ended before.

    Its steps are written to `log` when it ends. Any other failure raises AssertionError.
    """
    child = os.fork()
    if child == 0:
        code = 1
        try:
            steps = Steps(fatal)
            steps.watch()
            work()
            steps.fatal = None
            log.write_text("\n".join(steps.seen))
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return True
    assert os.WEXITSTATUS(status) == 0, "the work failed, see above"
    return False


def each_kill(
    prepare: Callable[[], Callable[[], object]], check: Callable[[], None], log: Path
) -> tuple[int, list[str]]:
    """Kill at step 1, 2, ... until the work gets through; `prepare` makes a fresh start and returns the work.

    `check` runs after every kill, and after the work was run again to its end. Returns (kills, steps of a whole run).
    """
    fatal = 0
    while True:
        fatal += 1
        work = prepare()
        killed = run_killed(work, fatal, log)
        check()
        if not killed:
            return fatal - 1, log.read_text().splitlines()
        assert not run_killed(work, None, log), "the same again must succeed"
        check()
