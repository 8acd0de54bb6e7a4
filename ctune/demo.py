"""The whole loop on a phantom cohort: a base of five classes, a round that adds four more, a round that improves them."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ctune.classes import NEW_FOUR, NINE_ORGANS, OLD_FIVE
from ctune.config import Config, preset
from ctune.data.importing import import_cases
from ctune.data.layouts import find_cases
from ctune.data.phantom import write_cohort
from ctune.data.splits import Splits
from ctune.errors import DataError, UsageError
from ctune.foundation import train_model
from ctune.optimise import resolve_device
from ctune.project import Project, create_project
from ctune.round import RoundState, history, start
from ctune.types import OnProgress, Split, silent


@dataclass(frozen=True)
class DemoSize:
    """How much a demo does. cases: of the pool; tests: held out; epochs of the base and of a tuning."""

    cases: int
    tests: int
    revised: int
    train_epochs: int
    tune_epochs: int


SIZES: Mapping[str, DemoSize] = {
    "tiny": DemoSize(cases=6, tests=2, revised=2, train_epochs=1, tune_epochs=1),
    "laptop": DemoSize(cases=44, tests=16, revised=12, train_epochs=12, tune_epochs=6),
}
"""tiny: seconds, to see that everything runs. laptop: minutes on two cores, to see that it works."""

STAGES = ("before", "round1", "round2")


@dataclass(frozen=True)
class DemoResult:
    """What the demo found. dice: {class: {stage: mean Dice or None}}; report: the page to look at."""

    project: Path
    report: Path
    model: str
    rounds: tuple[RoundState, ...]
    dice: Mapping[str, Mapping[str, float | None]]
    unrevised_max_abs_logit_change: float
    seconds: float


def run_demo(out: Path, size: str = "laptop", seed: int = 0, on_progress: OnProgress = silent) -> DemoResult:
    """Run the loop in `out` and leave a complete project there, registry and ``report.html`` included.

    Raises UsageError for an unknown size, PoolError when `out` holds a project already.
    """
    if size not in SIZES:
        raise UsageError(f"expected a size of {', '.join(SIZES)}; got {size!r}")
    started, scale = time.perf_counter(), SIZES[size]
    project = create_project(out, demo_config(scale, seed))
    truth = out / "truth"
    write_cohort(truth, scale.cases + scale.tests, seed, "small", on_progress)
    _import(project, truth, scale, on_progress)
    device = resolve_device(project.config.device)
    first, _ = train_model(project, "demo", OLD_FIVE, device=device, on_progress=on_progress)
    states, model = [], first
    for _ in range(2):
        state = start(
            project,
            name="demo",
            model=model,
            classes=NEW_FOUR,
            cases=scale.revised,
            expert="simulated expert",
            truth=truth,
            on_progress=on_progress,
        )
        assert state.model_out is not None
        states.append(state)
        model = state.model_out
    project.open_registry().set_alias("demo", "production", len(states) + 1)
    return _conclude(project, tuple(states), model, time.perf_counter() - started)


def demo_config(scale: DemoSize, seed: int) -> Config:
    """The phantom preset with the demo's amounts of work."""
    config = preset("phantom", name="demo", seed=seed)
    return config.model_copy(
        update={
            "train": config.train.model_copy(update={"epochs": scale.train_epochs}),
            "tune": config.tune.model_copy(update={"epochs": scale.tune_epochs}),
        }
    )


def _import(project: Project, truth: Path, scale: DemoSize, on_progress: OnProgress) -> None:
    """The pool knows five classes of its cases; the test cases know all nine."""
    found = find_cases(truth, "totalsegmentator")
    pool, tests = found[: scale.cases], found[scale.cases :]
    for cases, classes, split in ((pool, OLD_FIVE, Split.POOL), (tests, NINE_ORGANS, Split.TEST)):
        report = import_cases(
            project.pool,
            cases,
            classes=classes,
            splits=Splits(rest=split),
            author="phantom",
            on_progress=on_progress,
        )
        if report.refused:
            raise DataError(f"expected every phantom to be imported, got: {report.refused[0].reason}")


def _conclude(project: Project, states: tuple[RoundState, ...], model: str, seconds: float) -> DemoResult:
    from ctune.report import report_of, write_report

    found = list(history(project).stages.values())
    dice = {
        name: {stage: (s[name].dice if name in s else None) for stage, s in zip(STAGES, found, strict=True)}
        for name in NINE_ORGANS
    }
    changes = [state.arrows["tune"].summary["unrevised_max_abs_logit_change"] for state in states]
    report = project.root / "report.html"
    write_report(report, report_of(project, states, truth=project.root / "truth", seconds=seconds))
    return DemoResult(project.root, report, model, states, dice, max(changes), seconds)


def document(result: DemoResult) -> dict[str, Any]:
    """The result as one JSON document."""
    return {
        "rounds": [state.model_dump(mode="json") for state in result.rounds],
        "dice": result.dice,
        "unrevised_max_abs_logit_change": result.unrevised_max_abs_logit_change,
        "seconds": result.seconds,
        "model": result.model,
        "project": str(result.project),
        "report": str(result.report),
    }
