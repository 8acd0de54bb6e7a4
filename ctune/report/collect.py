"""Gather from a project what its report shows."""

from __future__ import annotations

import os
import platform
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ctune.data.files import read_json
from ctune.errors import RoundError
from ctune.evaluate import CaseScore, ClassSummary, continual_metrics, read_scores, summarise
from ctune.project import Project
from ctune.report.data import HeadFacts, ModelFacts, ReportData, RoundSummary, SelectedCase
from ctune.report.pictures import MaskFiles, predicted_files, selected_views, test_views
from ctune.revise import compare
from ctune.round import ARROWS, RoundState, folder_of
from ctune.select import read_csv
from ctune.types import AnnotationRecord, Source

if TYPE_CHECKING:
    from registry import Registry

PACKAGES = ("ctune", "torch", "monai", "numpy", "nibabel")
"""Whose versions stand on the page."""


def report_of(
    project: Project,
    states: Sequence[RoundState],
    *,
    truth: Path | None = None,
    seconds: float = 0.0,
    tests: int = 2,
) -> ReportData:
    """The report of a project after the finished rounds `states`, oldest first; those that were given up are left out.

    `truth` is the hidden truth of a simulated expert, for the pictures; without it they show what the expert revised.
    `tests` test cases are predicted again by the first and the last model; 0 draws none. Raises RoundError when there
    is no round or one is not finished.
    """
    states = [state for state in states if not state.abandoned]
    if not states:
        raise RoundError("expected a finished round to report on, got none; run `ctune round start` first")
    for state in states:
        if state.next_arrow:
            raise RoundError(
                f"expected finished rounds to report on, got round {state.number} before its {state.next_arrow}; "
                "run `ctune round resume` first"
            )
    scores = [_scores(project, n) for n in (0, *(s.number for s in states))]
    evaluations = tuple(summarise(s) for s in scores)
    registry = project.open_registry()
    order = project.config.class_list.names
    base_classes = _in_order(_heads(registry, states[0].model), order)
    revised = _in_order({c for s in states for c in s.classes}, order)
    classes = tuple(dict.fromkeys((*base_classes, *revised, *evaluations[-1])))
    return ReportData(
        title=project.config.name,
        classes=classes,
        base_classes=base_classes,
        evaluations=evaluations,
        rounds=tuple(_round(project, s) for s in states),
        model=_model(registry, states[-1], classes),
        cases=dict(Counter(c.split.value for c in project.pool.cases())),
        seconds=seconds or sum(a.seconds for s in states for a in s.arrows.values()),
        seed=project.config.seed,
        machine=_machine(),
        versions={"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
        views=tuple(selected_views(project, states, truth)),
        tests=tuple(test_views(project, states, scores[-1], tests)),
        nsd_tolerance_mm=project.config.evaluation.nsd_tolerance_mm,
        bwt=_transfer(evaluations, base_classes, classes),
    )


# Numbers ------------------------------------------------------------------------------------------------------------


def _scores(project: Project, number: int) -> list[CaseScore]:
    """Scores after a round; none where nobody measured the first model before its first round."""
    folder = folder_of(project, number) / "evaluation"
    return read_scores(folder) if (folder / "scores.json").exists() else []


def _round(project: Project, state: RoundState) -> RoundSummary:
    folder = folder_of(project, state.number)
    rows, seconds, changed, masks = [], 0.0, 0.0, 0
    for row in read_csv(folder / "selection.csv"):
        records = _revised(project, row.case_id, state.number)
        ml, took = _changed_ml(project, folder, row.case_id, records), sum(a.seconds or 0.0 for a in records)
        known = (took, ml) if records else (None, None)
        rows.append(SelectedCase(row.rank, row.case_id, row.score, row.reason, *known))
        seconds, changed, masks = seconds + took, changed + ml, masks + len(records)
    tune = state.arrows["tune"].summary
    return RoundSummary(
        number=state.number,
        name=state.name,
        revised_classes=state.classes,
        strategy=state.strategy,
        selected=tuple(rows),
        expert=state.expert,
        simulated=state.truth is not None,
        revised_masks=masks,
        expert_seconds=seconds,
        changed_ml=changed,
        losses=read_json(folder / "heads" / "tuning.json")["losses"],
        seconds={name: state.arrows[name].seconds for name in ARROWS if name in state.arrows},
        cache_seconds=tune.get("cache_seconds") or 0.0,
        max_abs_logit_change=tune.get("unrevised_max_abs_logit_change"),
        compared_logits=tune.get("compared_logits") or 0,
    )


def _revised(project: Project, case_id: str, number: int) -> list[AnnotationRecord]:
    found = project.pool.annotations(case_id)
    return [a for a in found if a.source == Source.REVISED and a.round == number]


def _changed_ml(project: Project, folder: Path, case_id: str, records: Sequence[AnnotationRecord]) -> float:
    """How much of the prediction the expert changed; a class that was not predicted counts as predicted empty."""
    grid = project.pool.grid(case_id)
    before = MaskFiles(predicted_files(folder, case_id), grid)
    return sum(compare(before.get(a.class_name), project.pool.read(a).mask, grid)[2] for a in records)


def _transfer(
    evaluations: Sequence[Mapping[str, ClassSummary]], base_classes: Sequence[str], classes: Sequence[str]
) -> dict[str, float]:
    """Backward transfer over the base's classes and over all, of those that the last stage measured."""
    out = {}
    for what, names in (("the base's classes", base_classes), ("all classes", classes)):
        dice = [[s[c].dice if c in s else None for c in names] for s in evaluations]
        table = np.array([[np.nan if d is None else d for d in row] for row in dice], dtype=np.float64)
        measured = ~np.isnan(table[-1])
        if measured.any() and not np.isnan(table[:-1, measured]).all():
            out[what] = continual_metrics(table[:, measured]).bwt
    return out


# Models -------------------------------------------------------------------------------------------------------------


def _heads(registry: Registry, model: str) -> tuple[str, ...]:
    record = registry.record_of(model)
    return tuple(record.heads) if record.kind == "model" else ()


def _in_order(names: Iterable[str], order: Sequence[str]) -> tuple[str, ...]:
    """As the project lists its classes; those that it does not list come last, by name."""
    return tuple(sorted(names, key=lambda n: (order.index(n) if n in order else len(order), n)))


def _model(registry: Registry, state: RoundState, order: Sequence[str]) -> ModelFacts:
    digest = registry.resolve(f"sha256:{state.model_out}")
    record = registry.record_of(digest)
    assert record.kind == "model"
    base = registry.record_of(record.base)
    assert base.kind == "base"
    numbers = [v.version for v in registry.versions(state.name) if v.digest == digest]
    heads = []
    for name in _in_order(record.heads, order):
        head_digest = record.heads[name]
        head = registry.record_of(head_digest)
        assert head.kind == "head"
        sources = dict(sorted(Counter(a.source for a in head.annotations).items()))
        heads.append(HeadFacts(name, head_digest, head.head_kind, head.round, sources, head.experts))
    reference = f"{state.name}:{numbers[-1]}" if numbers else state.name
    return ModelFacts(reference, digest, record.base, base.fingerprint, base.architecture, tuple(heads))


def _machine() -> dict[str, str]:
    import torch

    cpu = f"{os.cpu_count()} CPU cores, {torch.get_num_threads()} used"
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else cpu,
    }
