"""A project's rounds against each other: what each class scored after each, and what was forgotten."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ctune.evaluate import ClassSummary, Continual, continual_metrics, read_scores, summarise
from ctune.project import Project
from ctune.round.state import folder_of, rounds


@dataclass(frozen=True)
class History:
    """stages: round number -> {class: summary of the test scores}; 0 is before the first round. continual: over the
    classes that the last stage measured, None before the first round."""

    stages: Mapping[int, Mapping[str, ClassSummary]]
    continual: Continual | None


def history(project: Project) -> History:
    """Everything that the project's rounds measured on the test cases, oldest first."""
    numbers = [0, *(state.number for state in rounds(project))]
    measured = [n for n in numbers if (folder_of(project, n) / "evaluation" / "scores.json").exists()]
    stages = {n: summarise(read_scores(folder_of(project, n) / "evaluation")) for n in measured}
    return History(stages, _continual(list(stages.values())) if len(stages) > 1 else None)


def _continual(stages: list[dict[str, ClassSummary]]) -> Continual | None:
    classes = [name for name, summary in stages[-1].items() if summary.dice is not None]
    table = np.array([[_dice(stage, name) for name in classes] for stage in stages], dtype=np.float64)
    return continual_metrics(table) if classes else None


def _dice(stage: Mapping[str, ClassSummary], name: str) -> float:
    summary = stage.get(name)
    return float("nan") if summary is None or summary.dice is None else summary.dice
