"""Dice against the expert's minutes: four rounds of the product for every way of choosing, from the same model and pool.

Each way has a copy of the project of its own and shares what can be made again: prepared cases, frozen features, and the model's
predictions, which are the first round's for all. A round is ``round.drive.start`` with a simulated expert, whose minutes are
a stated model (``ctune.expert``).
"""

from __future__ import annotations

import shutil
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from ctune.bench.parts import part
from ctune.bench.selection.cohort import Cohort
from ctune.evaluate import CaseScore, read_scores
from ctune.project import Project, open_project
from ctune.round.drive import resume, start
from ctune.round.state import RoundState, folder_of, rounds
from ctune.types import OnProgress, Progress

WAYS: Mapping[str, tuple[str, str]] = {
    "random": ("random", "ctune"),
    "ctune": ("importance", "ctune"),
    "uncertainty": ("uncertainty", "ctune"),
    "diverse": ("diverse", "ctune"),
    "stratified": ("stratified", "ctune"),
}
"""{way: (strategy of selection, recipe of importance)}."""


def measure(cohort: Cohort, predictions: Path, work: Path, on_progress: OnProgress) -> dict[str, Any]:
    """{way: {"before": Dice of the model that all start from, "rounds": [{minutes, dice, cases} after each]}}."""
    out: dict[str, Any] = {}
    for number, way in enumerate(WAYS):
        out[way] = part(
            work / f"{way}.json", follow, cohort, way, predictions, work / f"project-{way}", on_progress
        )
        on_progress(Progress("ways of choosing", number + 1, len(WAYS), way))
    return out


def follow(
    cohort: Cohort,
    way: str,
    predictions: Path,
    root: Path,
    on_progress: OnProgress,
    only: Sequence[str] = (),
) -> dict[str, Any]:
    """All rounds of one way, from where it stands. only: the cases of all rounds in their order, for a list that no strategy makes."""
    project = _project(cohort, way, predictions, root)
    past = rounds(project)
    if past and past[-1].next_arrow:
        resume(project, on_progress=on_progress)
    while len(past := rounds(project)) < cohort.scale.rounds:
        done = len(past) * cohort.scale.cases
        one_round(project, cohort, WAYS[way][0], past, on_progress, only[done : done + cohort.scale.cases])
    found = {
        "before": _dice(read_scores(folder_of(project, 0) / "evaluation"), cohort.scale.revised),
        "rounds": [_after(project, state, cohort.scale.revised) for state in rounds(project)],
    }
    shutil.rmtree(root)
    return found


def one_round(
    project: Project,
    cohort: Cohort,
    strategy: str,
    past: Sequence[RoundState],
    on_progress: OnProgress,
    only: Collection[str] = (),
) -> RoundState:
    """Begin the next round from the model that the one before left, and go to its end. only: where any are named, no other case
    is to be had."""
    registry = project.open_registry()
    model = past[-1].model_out if past else None
    return start(
        project,
        name="selected",
        model=model or registry.resolve(cohort.model),
        classes=cohort.scale.revised,
        cases=cohort.scale.cases,
        strategy=strategy,
        truth=cohort.truth,
        expert="simulated expert",
        force=True,
        leased=lambda: [case for case in cohort.candidates if only and case not in only],
        on_progress=on_progress,
    )


def _project(cohort: Cohort, way: str, predictions: Path, root: Path) -> Project:
    if not (root / "ready").exists():
        shutil.rmtree(root, ignore_errors=True)
        shutil.copytree(cohort.project.root, root, ignore=shutil.ignore_patterns("cache"))
        cohort.project.cache.mkdir(exist_ok=True)
        (root / "cache").symlink_to(cohort.project.cache.resolve())
        project = open_project(root)
        shutil.copytree(predictions, folder_of(project, 1) / "predictions")
        (root / "ready").touch()
    config = cohort.project.config
    recipe = config.importance.model_copy(update={"recipe": WAYS[way][1]})
    return Project(open_project(root).root, config.model_copy(update={"importance": recipe}))


def _after(project: Project, state: RoundState, classes: Sequence[str]) -> dict[str, Any]:
    revised = state.arrows["revise"].summary
    return {
        "minutes": revised["seconds"] / 60,
        "cases": revised["cases"],
        "dice": _dice(read_scores(folder_of(project, state.number) / "evaluation"), classes),
    }


def _dice(scores: Sequence[CaseScore], classes: Sequence[str]) -> dict[str, dict[str, float | None]]:
    return {n: {s.case_id: s.dice for s in scores if s.class_name == n} for n in classes}
