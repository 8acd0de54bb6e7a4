"""What experts changed, round by round: each revision against the prediction that they saw."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ctune.data.files import read_json, write_json
from ctune.project import Project
from ctune.revise import compare
from ctune.round.predicted import PredictedMasks
from ctune.round.state import RoundState, folder_of, rounds
from ctune.select import Selected, read_csv
from ctune.stop import Change
from ctune.types import Source


def changes(project: Project) -> list[Change]:
    """What became of every class that a prediction was made of and that was revised: oldest round first, in the order of each
    round's queue, by the newest revision of the round. Who goes back to a case has not found another error in it.

    Classes that the model did not know are left out: the expert had nothing to correct. Those of a finished round are
    worked out once and kept in its folder.
    """
    return [change for state in rounds(project) for change in changes_of(project, state)]


def unrevised(project: Project, selected: Sequence[Selected]) -> dict[str, tuple[str, ...]]:
    """{case: the classes that were asked for there and that nobody has revised}; cases of which nothing is missing are not in it.

    What was asked for had been judged by nobody when it was: whatever revision there is came since.
    """
    out = {}
    for row in selected:
        found = project.pool.annotations(row.case_id)
        revised = {project.class_of(record) for record in found if record.source == Source.REVISED}
        if left := tuple(name for name in row.classes if name not in revised):
            out[row.case_id] = left
    return out


def begun(selected: Sequence[Selected], missing: Mapping[str, Sequence[str]]) -> list[str]:
    """The cases of a queue in which at least one class that was asked for is revised. missing: ``unrevised`` of the queue."""
    return [row.case_id for row in selected if set(row.classes) - set(missing.get(row.case_id, ()))]


def changes_of(project: Project, state: RoundState) -> list[Change]:
    """The same of one round."""
    folder = folder_of(project, state.number)
    kept = folder / "changes.json"
    if kept.exists():
        return [Change(**row) for row in read_json(kept)]
    if not (folder / "selection.csv").exists():
        return []
    found, predicted = list[Change](), PredictedMasks(project, folder / "predictions")
    for row in read_csv(folder / "selection.csv"):
        masks = predicted.get(row.case_id, {})
        newest = {
            project.class_of(record): record
            for record in project.pool.annotations(row.case_id)
            if record.source == Source.REVISED and record.round == state.number
        }
        for name, record in newest.items():
            if name in masks:
                mask, grid = project.pool.read(record).mask, project.pool.grid(row.case_id)
                before, after, changed, _ = compare(masks[name], mask, grid)
                found.append(Change(row.case_id, name, before, after, changed))
    if "revise" in state.arrows:
        write_json(kept, [change.__dict__ for change in found])
    return found
