"""Cases out of a project to an expert's own program: the queue of the round, or those one names."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ctune.data.exchange import Format
from ctune.errors import PoolError, RoundError
from ctune.exported import export_case
from ctune.hybrid import merge
from ctune.project import Project
from ctune.review.audit import AuditLog
from ctune.round import folder_of, rounds
from ctune.round.predicted import PredictedMasks
from ctune.select import read_csv
from ctune.types import AnnotationRecord, Mask, OnProgress, Progress, Split, silent


def queue(project: Project) -> list[str]:
    """The newest round's cases in the order in which an expert should see them. Raises RoundError without a round."""
    past = rounds(project)
    path = folder_of(project, past[-1].number) / "selection.csv" if past else None
    if path is None or not path.exists():
        raise RoundError(
            "expected a round with selected cases, found none; name cases, or begin one with `ctune round start MODEL`"
        )
    return [row.case_id for row in read_csv(path)]


def export_cases(
    project: Project,
    out: Path,
    case_ids: Sequence[str] | None = None,
    *,
    who: str,
    format: Format = Format.ITK_SNAP,
    on_progress: OnProgress = silent,
) -> list[Path]:
    """Write CT, labels and their names of each case (the queue's by default) to ``out/<case>``; returns these folders.

    Labels are what stands for each class of the project: its annotations merged, else the newest round's prediction,
    else nothing, to be drawn. Who took a case stands in the audit log. Raises PoolError for an unknown case, one that was exported there before, or one that is kept for testing.
    """
    chosen = list(case_ids) if case_ids else queue(project)
    log = AuditLog(project.root / "review" / "audit.jsonl")
    # All ids are looked at before the first file is written.
    records = [project.pool.case(case_id) for case_id in chosen]
    for record in records:
        if record.split != Split.POOL:
            raise PoolError(
                f"case {record.id}: expected a case of the pool split, got one kept for {record.split}; its revision would "
                "not be taken in"
            )
    for number, record in enumerate(records):
        image = project.pool.image(record.id)
        export_case(out / record.id, record, image, standing(project, record.id), format)
        log.append(who, "exported", record.id, format=str(format))
        on_progress(Progress("export", number + 1, len(records), record.id))
    return [out / record.id for record in records]


def standing(project: Project, case_id: str) -> dict[str, Mask]:
    """{class: the mask that stands}: the project's classes in their order, then others that were predicted."""
    past = rounds(project)
    folder = folder_of(project, past[-1].number) / "predictions" if past else None
    predicted = PredictedMasks(project, folder).get(case_id, {}) if folder else {}
    annotated: dict[str, list[AnnotationRecord]] = {}
    for record in project.pool.annotations(case_id):
        annotated.setdefault(project.class_of(record), []).append(record)
    grid, found = project.pool.grid(case_id), dict[str, Mask]()
    for name in dict.fromkeys([*project.config.class_list, *predicted]):
        merged = merge(
            case_id,
            {name: [project.pool.read(r) for r in annotated.get(name, [])]},
            project.config.hybrid.order,
        ).masks.get(name)
        empty = np.zeros(grid.shape, np.uint8)
        found[name] = merged if merged is not None else predicted.get(name, empty)
    return found
