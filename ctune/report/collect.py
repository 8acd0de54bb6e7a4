"""Gather from a project what its report shows."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ctune.data.files import read_json
from ctune.data.nifti import read_labels, read_mask
from ctune.evaluate import ClassSummary, Continual, continual_metrics, read_scores, summarise
from ctune.project import Project
from ctune.round import RoundState, folder_of
from ctune.round.predicted import PredictedMasks
from ctune.select import Selected, read_csv
from ctune.types import Grid, Mask, Source, Volume


@dataclass(frozen=True, eq=False)
class Overlay:
    """One case to look at: ct (X, Y, Z) float32, masks {class: (X, Y, Z) uint8}, attention (X, Y, Z) uint8."""

    case_id: str
    caption: str
    ct: Volume
    grid: Grid
    predicted: Mapping[str, Mask]
    truth: Mapping[str, Mask]
    attention: npt.NDArray[np.int32] | None


@dataclass(frozen=True)
class RoundReport:
    """One round: what was selected and why, what the expert did, what the tuning did."""

    state: RoundState
    selected: tuple[Selected, ...]
    expert_minutes: float
    revised_masks: int
    losses: Mapping[str, Sequence[float]]


@dataclass(frozen=True, eq=False)
class ReportData:
    """Everything on the page. stages: {class: summary of the test scores} before the first round and after each."""

    title: str
    classes: tuple[str, ...]
    base_classes: tuple[str, ...]
    stages: tuple[Mapping[str, ClassSummary], ...]
    rounds: tuple[RoundReport, ...]
    overlays: tuple[Overlay, ...]
    continual: Continual | None
    seconds: float
    machine: Mapping[str, str]
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def stage_names(self) -> tuple[str, ...]:
        return ("before", *(f"round {r.state.number}" for r in self.rounds))


def report_of(
    project: Project, states: Sequence[RoundState], *, truth: Path | None = None, seconds: float = 0.0
) -> ReportData:
    """The report of a project after `states`; `truth` is the hidden truth of a simulated expert, for the pictures."""
    numbers = [0, *(s.number for s in states)]
    stages = tuple(summarise(read_scores(folder_of(project, n) / "evaluation")) for n in numbers)
    base_classes = tuple(stages[0])
    classes = (*base_classes, *(c for c in stages[-1] if c not in base_classes))
    return ReportData(
        title=project.config.name,
        classes=classes,
        base_classes=base_classes,
        stages=stages,
        rounds=tuple(_round(project, s) for s in states),
        overlays=tuple(_overlays(project, states, truth)),
        continual=_continual(stages, classes),
        seconds=seconds,
        machine=_machine(),
        facts=_facts(project, states),
    )


def _round(project: Project, state: RoundState) -> RoundReport:
    folder = folder_of(project, state.number)
    selected = tuple(read_csv(folder / "selection.csv"))
    masks = [
        a
        for row in selected
        for a in project.pool.annotations(row.case_id)
        if a.source == Source.REVISED and a.round == state.number
    ]
    minutes = sum(a.seconds or 0.0 for a in masks) / 60
    losses = read_json(folder / "heads" / "tuning.json")["losses"]
    return RoundReport(state, selected, minutes, len(masks), losses)


def _continual(stages: Sequence[Mapping[str, ClassSummary]], classes: Sequence[str]) -> Continual | None:
    table = np.array(
        [[s[c].dice if c in s and s[c].dice is not None else np.nan for c in classes] for s in stages],
        dtype=float,
    )
    measured = ~np.isnan(table[-1])
    return continual_metrics(table[:, measured]) if measured.any() else None


def _overlays(project: Project, states: Sequence[RoundState], truth: Path | None) -> list[Overlay]:
    """The case that came first in each round, and the one in the middle of the last list."""
    picked = [(s, read_csv(folder_of(project, s.number) / "selection.csv")) for s in states]
    wanted = [(s, rows[0]) for s, rows in picked if rows]
    wanted += [(s, rows[len(rows) // 2]) for s, rows in picked[-1:] if len(rows) > 2]
    return [_overlay(project, state, row, truth) for state, row in wanted]


def _overlay(project: Project, state: RoundState, row: Selected, truth: Path | None) -> Overlay:
    folder, case = folder_of(project, state.number), project.pool.load(row.case_id)
    predicted = PredictedMasks(project, folder / "predictions")[row.case_id]
    hidden: dict[str, Mask] = {}
    for name in project.config.classes:
        path = (truth or Path()) / row.case_id / "segmentations" / f"{name}.nii.gz"
        if truth is not None and path.exists():
            hidden[name] = read_mask(path, case.grid, f"case {row.case_id}, {name}")
    attention = read_labels(folder / "attention" / f"{row.case_id}.nii.gz", case.grid, f"case {row.case_id}")
    caption = f"{row.case_id}, number {row.rank} of round {state.number}'s list: {row.reason}"
    return Overlay(row.case_id, caption, case.volume, case.grid, predicted, hidden, attention)


def _machine() -> dict[str, str]:
    import torch

    return {
        "system": f"{platform.system()} {platform.machine()}",
        "device": torch.cuda.get_device_name()
        if torch.cuda.is_available()
        else f"CPU, {torch.get_num_threads()} threads",
        "python": platform.python_version(),
        **{name: version(name) for name in ("ctune", "torch", "monai", "numpy")},
    }


def _facts(project: Project, states: Sequence[RoundState]) -> dict[str, Any]:
    cases = project.pool.cases()
    return {
        "seed": project.config.seed,
        "cases": {split: sum(c.split == split for c in cases) for split in ("pool", "validation", "test")},
        "base": project.config.base.architecture,
        "model": states[-1].model_out if states else None,
        "base_fingerprint": states[-1].arrows["tune"].summary.get("base_fingerprint") if states else None,
    }
