"""Drive a round through its arrows, and stop where an expert is needed.

A round that was killed goes on at the arrow it was in, and within it at the case it was at.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from ctune.classes import ClassList
from ctune.compositions import may_be_name, preprocessing_of
from ctune.errors import PoolError, RoundError
from ctune.executors.work import Executor
from ctune.project import Project
from ctune.round.arrows import Desk, Leased, Waiting, nobody
from ctune.round.state import ArrowDone, RoundState, now, rounds, write_state
from ctune.select import Budget, check_strategy, lacking
from ctune.types import OnProgress, silent


def start(
    project: Project,
    *,
    name: str,
    model: str,
    classes: Sequence[str],
    cases: int | None = None,
    strategy: str | None = None,
    expert: str = "expert",
    truth: Path | None = None,
    annotations: int | None = None,
    minutes: float | None = None,
    leased: Leased = nobody,
    force: bool = False,
    executor: Executor | None = None,
    on_progress: OnProgress = silent,
) -> RoundState:
    """Begin the next round from `model` (a digest) and go as far as it can: to the end with a simulated expert
    (`truth`), to the expert's desk without one. `force` registers heads that are worse than those they replace.
    `annotations` and `minutes` bound the expert's list beside `cases`; cases that `leased` answers with are left
    out of it, asked when the list is made: predicting a pool takes longer than a lease lasts.
    `executor` does what is done case by case; this process when None.

    Nothing is begun that could not be ended: raises RoundError while another round is unfinished or when no case is left to
    ask about, UnknownClassError for impossible class names, UsageError for an unknown strategy, no budget or what is no
    model, PoolError where `truth` is no folder.
    """
    with _locked(project):
        past = rounds(project)
        if past and past[-1].next_arrow:
            raise RoundError(
                f"expected round {past[-1].number} to be over, it stands before '{past[-1].next_arrow}'; "
                "go on with `ctune round resume`, or give it up with `ctune round abandon`"
            )
        number = past[-1].number + 1 if past else 1
        versions = project.open_registry().versions(may_be_name(name))
        state = RoundState(
            number=number,
            name=name,
            model=model,
            classes=tuple(ClassList.of(classes, project.config.aliases)),
            cases=cases or project.config.selection.cases,
            strategy=strategy or project.config.selection.strategy,
            seed=project.config.seed + number,
            expert=expert,
            truth=str(truth.resolve()) if truth else None,
            annotations=annotations,
            minutes=minutes,
            force=force,
            newest=versions[-1].version if versions else 0,
            started=now(),
        )
        _check(project, state)
        write_state(project, state)
        return _advance(Desk(project, state, on_progress, False, executor, leased))


def resume(
    project: Project,
    *,
    revisions_are_complete: bool = False,
    leased: Leased = nobody,
    executor: Executor | None = None,
    on_progress: OnProgress = silent,
) -> RoundState:
    """Go on with the unfinished round; `revisions_are_complete` goes on with the revisions there are. `leased`:
    see ``start``.

    Raises RoundError when no round is unfinished.
    """
    with _locked(project):
        past = rounds(project)
        if not past or past[-1].next_arrow is None:
            raise RoundError("expected an unfinished round, found none; begin one with `ctune round start`")
        return _advance(Desk(project, past[-1], on_progress, revisions_are_complete, executor, leased))


def abandon(project: Project, *, why: str = "") -> RoundState:
    """Give up the unfinished round. What it has made stays on disk, and revisions that were handed in count ever after.

    Raises RoundError when no round is unfinished.
    """
    with _locked(project):
        past = rounds(project)
        if not past or past[-1].next_arrow is None:
            raise RoundError("expected an unfinished round to give up, found none")
        state = past[-1].model_copy(update={"abandoned": now(), "why": why})
        write_state(project, state)
        return state


def _check(project: Project, state: RoundState) -> None:
    """Raise what would stop the round after hours of predicting."""
    check_strategy(state.strategy)
    Budget(state.cases, state.annotations, state.minutes)
    preprocessing_of(project.open_registry(), state.model)
    if state.truth and not Path(state.truth).is_dir():
        raise PoolError(f"expected the hidden truth in {state.truth}, found no such folder; check the path")
    if not lacking(project, state.classes):
        raise RoundError(
            f"expected a case of the pool in which nobody has judged {', '.join(state.classes)}, found none; import cases, "
            "or name other classes"
        )


def _advance(desk: Desk) -> RoundState:
    project, state = desk.project, desk.state
    while (arrow := state.next_arrow) is not None:
        started = time.perf_counter()
        do = getattr(desk, arrow)
        try:
            summary = do()
        except Waiting:
            return state
        done = ArrowDone(finished=now(), seconds=round(time.perf_counter() - started, 3), summary=summary)
        changes: dict[str, Any] = {"arrows": {**state.arrows, arrow: done}}
        if arrow == "register":
            changes["model_out"] = summary["model"]
        elif arrow == "select":
            changes["leased"] = tuple(summary["leased"])
        desk.state = state = state.model_copy(update=changes)
        write_state(project, state)
    return state


def _locked(project: Project) -> _Locked:
    return _Locked(project.root / "rounds")


class _Locked:
    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.lock = FileLock(folder / ".lock")

    def __enter__(self) -> None:
        try:
            self.lock.acquire(timeout=0)
        except Timeout:
            raise RoundError(
                "expected to be the only one at work on this project's rounds, another process is; wait for it"
            ) from None

    def __exit__(self, *_: object) -> None:
        self.lock.release()
