"""The expert's desk: what is handed in belongs to the round that still takes revisions, else to the next."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ctune.data.labels import Labels
from ctune.errors import RoundError
from ctune.expert import revise_selected
from ctune.model.text import text_table
from ctune.project import Project
from ctune.revise import RevisedClass, RevisionReport, compare, import_revisions
from ctune.round.predicted import PredictedMasks
from ctune.round.state import RoundState, folder_of, rounds, takes_revisions
from ctune.select import read_csv
from ctune.types import OnProgress, Source, silent


def open_round(project: Project) -> RoundState | None:
    """The round that waits for revisions, or None."""
    past = rounds(project)
    return past[-1] if past and past[-1].next_arrow == "revise" else None


def round_of_hand_in(past: Sequence[RoundState]) -> int:
    """The number of the round to which a revision belongs that is handed in now; `past` are all rounds, oldest first."""
    if past and takes_revisions(past[-1]):
        return past[-1].number
    return past[-1].number + 1 if past else 1


def hand_in(
    project: Project,
    folder: Path,
    *,
    expert: str,
    labels: Labels | None = None,
    seconds: float | None = None,
    on_progress: OnProgress = silent,
) -> RevisionReport:
    """Take in an expert's masks for the newest round, as long as it has not taken its revisions; then they count for the next.

    Changes are told against what stood before, the newest round's predictions included. Raises as ``import_revisions`` does.
    """
    past = rounds(project)
    number = round_of_hand_in(past)
    known = [
        *project.config.classes,
        *text_table().names,
        *(name for state in past for name in state.classes),
    ]
    before = PredictedMasks(project, folder_of(project, past[-1].number if past else 1) / "predictions")
    return import_revisions(
        project.pool,
        folder,
        expert=expert,
        round_number=number,
        labels=labels,
        aliases=project.config.aliases,
        seconds=seconds,
        before=before,
        classes=known,
        on_progress=on_progress,
    )


def simulate_expert(
    project: Project, truth: Path, *, expert: str, on_progress: OnProgress = silent
) -> RevisionReport:
    """Let a simulated expert who knows the hidden `truth` revise the open round's cases. Raises RoundError without one."""
    state = open_round(project)
    if state is None:
        raise RoundError(
            "expected a round that waits for revisions, found none; begin one with `ctune round start MODEL`"
        )
    folder = folder_of(project, state.number)
    selected, predicted = read_csv(folder / "selection.csv"), PredictedMasks(project, folder / "predictions")
    revise_selected(
        project, truth, selected, predicted, round_number=state.number, expert=expert, seed=state.seed,
        on_progress=on_progress,
    )  # fmt: skip
    rows = []
    for row in selected:
        known = predicted.get(row.case_id, {})
        for record in project.pool.annotations(row.case_id):
            if record.source == Source.REVISED and record.round == state.number:
                mask = project.pool.read(record).mask
                change = compare(known.get(record.class_name), mask, project.pool.grid(row.case_id))
                rows.append(RevisedClass(row.case_id, record.class_name, *change))
    return RevisionReport(tuple(rows), ())
