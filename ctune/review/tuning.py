"""The live loop: the open round to its end and the next one to the expert's desk, in a process of its own.

The process goes on when the server is killed, and tells how far it is in ``review/tuning.json``; it holds a lock while it
lives. A server that starts and finds a tuning that nobody works on goes on with it.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from ctune.data.annotations import now
from ctune.data.files import read_json, write_json
from ctune.errors import CtuneError, RoundError
from ctune.project import Project, open_project
from ctune.review.state import open_leases
from ctune.round import RoundState, begun, folder_of, history, resume, rounds, start, unrevised
from ctune.select import lacking, read_csv
from ctune.types import Progress

_AFTER_EXPERT = ("revise", "hybrid", "tune", "evaluate", "register")
_EVERY = 0.3
"""Seconds between two notes of progress, at least."""
_BEGINS_WITHIN = 30.0
"""Seconds from the note of a new process to its lock, at most."""
_ENDS_WITHIN = 10.0
"""Seconds from the signal to the end of a process, at most."""
_CODE = "import sys; from ctune.review.tuning import work; work(*sys.argv[1:])"


class Tuner:
    """What the server knows of the tuning of a project, and how it begins and ends one."""

    def __init__(self, project: Project) -> None:
        self.project = project
        self.note = project.root / "review" / "tuning.json"
        self.process: subprocess.Popen[bytes] | None = None

    def newest(self) -> RoundState:
        """The newest round. Raises RoundError when there is none."""
        past = rounds(self.project)
        if not past:
            raise RoundError("expected a round, found none; begin one with `ctune round start MODEL`")
        return past[-1]

    @property
    def running(self) -> bool:
        if self.process is not None and self.process.poll() is None:
            return True
        return self._beginning() or not _free(self.note)

    def _beginning(self) -> bool:
        """Whether a process was begun, by this server or another, that has not come as far as its lock."""
        if not self.note.exists() or time.time() - self.note.stat().st_mtime > _BEGINS_WITHIN:
            return False
        found = read_json(self.note)
        return bool(found["state"] == "running" and found["pid"] == 0) and self.process is None

    def status(self) -> dict[str, Any] | None:
        """What the newest tuning noted, None before the first: state (running, done, failed, stopped, interrupted), stage,
        done and total steps, detail, round, error, and {class: Dice} before and after."""
        if not self.note.exists():
            return None
        found: dict[str, Any] = read_json(self.note)
        if found["state"] == "running" and not self.running:
            # It may have ended between the two looks.
            found = read_json(self.note)
            found["state"] = "interrupted" if found["state"] == "running" else found["state"]
        return found

    def start(self, expert: str) -> dict[str, Any]:
        """Begin in the background. Raises RoundError while one runs, or when nobody has revised anything."""
        if self.running:
            raise RoundError("expected no tuning at work, one is; wait for it")
        state = self.newest()
        if state.next_arrow == "revise" and not _revised(self.project, state):
            raise RoundError(
                f"round {state.number}: expected at least one revised case to learn from, found none; accept a case first"
            )
        return self._spawn(expert)

    def go_on(self) -> bool:
        """Go on with a tuning that was begun and that nobody works on; whether there was one."""
        status = self.status()
        if status is None or status["state"] != "interrupted":
            return False
        self._spawn(status["expert"])
        return True

    def stop(self) -> dict[str, Any] | None:
        """End it; the round stays where it is and goes on from there when it is begun again.

        Raises RoundError while it goes on all the same: it has only begun, or works on another machine.
        """
        status = self.status()
        if status is None or status["state"] != "running":
            return status
        deadline = time.monotonic() + _ENDS_WITHIN
        while self.running:
            if time.monotonic() > deadline:
                raise RoundError(
                    f"round {status['round']}: expected a tuning that this server can end, it has only begun or works on "
                    "another machine; try again, or end it there"
                )
            self._end()
            time.sleep(0.05)
        # It may have come to its own end meanwhile.
        found: dict[str, Any] = read_json(self.note)
        if found["state"] == "running":
            found |= {"state": "stopped", "ended": now()}
            write_json(self.note, found)
        return found

    def _end(self) -> None:
        """Signal the process that this server began, and the one that the note tells of, which may be another server's."""
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
        pid = int(read_json(self.note)["pid"])
        if _works(pid, self.project.root.resolve()):
            with suppress(OSError):
                os.kill(pid, signal.SIGTERM)

    def _spawn(self, expert: str) -> dict[str, Any]:
        self.note.parent.mkdir(parents=True, exist_ok=True)
        first = _first(expert, self.newest().number)
        write_json(self.note, first)
        command = [sys.executable, "-c", _CODE, str(self.project.root.resolve()), expert]
        # A session of its own: what ends the server does not end it.
        self.process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )  # fmt: skip
        return first


def work(root: str, expert: str) -> None:
    """What the process does. A fault is noted in the file, there is nobody to raise it to."""
    project = open_project(Path(root))
    note = project.root / "review" / "tuning.json"
    try:
        with FileLock(_lock(note), timeout=0):
            _advance(project, _Notes(note, expert, project))
    except Timeout:
        return


class _Notes:
    """Writes down how far it is."""

    def __init__(self, path: Path, expert: str, project: Project) -> None:
        self.path, self.project, self.last = path, project, 0.0
        self.found = _first(expert, rounds(project)[-1].number) | {"pid": os.getpid()}
        self.write()

    def write(self, **changes: Any) -> None:
        self.found |= changes
        write_json(self.path, self.found)

    def __call__(self, progress: Progress) -> None:
        if time.monotonic() - self.last < _EVERY and progress.done < progress.total:
            return
        self.last = time.monotonic()
        state = rounds(self.project)[-1]
        self.write(
            stage=progress.stage, done=progress.done, total=progress.total, detail=progress.detail, round=state.number,
            arrow=state.next_arrow,
        )  # fmt: skip


def _advance(project: Project, notes: _Notes) -> None:
    leased = partial(open_leases, project.root)
    try:
        state = rounds(project)[-1]
        if state.next_arrow is not None:
            complete = state.next_arrow in _AFTER_EXPERT
            state = resume(project, revisions_are_complete=complete, leased=leased, on_progress=notes)
        model = state.model if state.abandoned else state.model_out
        if state.next_arrow is None and model and lacking(project, state.classes):
            state = start(
                project, name=state.name, model=model, classes=state.classes, cases=state.cases,
                strategy=state.strategy, expert=state.expert, annotations=state.annotations, minutes=state.minutes,
                leased=leased, force=state.force, on_progress=notes,
            )  # fmt: skip
        detail = "" if state.next_arrow else "every case of the pool has been judged"
        notes.write(
            state="done", ended=now(), dice=_dice(project), round=state.number, detail=detail, done=1, total=1
        )
    except CtuneError as error:
        notes.write(state="failed", ended=now(), error=str(error))
    except Exception as error:
        notes.write(state="failed", ended=now(), error=f"{type(error).__name__}: {error}")
        raise


def _dice(project: Project) -> dict[str, list[float | None]]:
    """{class: mean Dice on the test cases before and after the last tuned round}; empty without test cases."""
    stages = list(history(project).stages.values())[-2:]
    if len(stages) < 2:
        return {}
    before, after = stages
    return {n: [before[n].dice if n in before else None, s.dice] for n, s in after.items()}


def _revised(project: Project, state: RoundState) -> bool:
    selected = read_csv(folder_of(project, state.number) / "selection.csv")
    return bool(begun(selected, unrevised(project, selected)))


def _first(expert: str, number: int) -> dict[str, Any]:
    return {
        "state": "running", "expert": expert, "started": now(), "ended": None, "stage": "start", "arrow": None, "done": 0,
        "total": 1, "detail": "", "round": number, "error": "", "dice": {}, "pid": 0,
    }  # fmt: skip


def _lock(note: Path) -> Path:
    return note.with_suffix(".lock")


def _free(note: Path) -> bool:
    if not note.parent.exists():
        return True
    try:
        with FileLock(_lock(note), timeout=0):
            return True
    except Timeout:
        return False


def _works(pid: int, root: Path) -> bool:
    """Whether the process is a worker of this project on this machine: a number that was noted may be anybody's by now."""
    if pid <= 0:
        return False
    try:
        if Path("/proc/self/cmdline").exists():
            words = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ")
        else:
            command = ["ps", "-ww", "-o", "command=", "-p", str(pid)]
            words = subprocess.run(command, capture_output=True, check=False).stdout
    except OSError:
        return False
    return os.fsencode(f"{_CODE} {root} ") in words
