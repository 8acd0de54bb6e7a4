"""What experts changed, round by round: each revision against the prediction that they saw."""

from __future__ import annotations

from ctune.data.files import read_json, write_json
from ctune.project import Project
from ctune.revise import compare
from ctune.round.predicted import PredictedMasks
from ctune.round.state import RoundState, folder_of, rounds
from ctune.select import read_csv
from ctune.stop import Change
from ctune.types import Source


def changes(project: Project) -> list[Change]:
    """Every revision of a class that a prediction was made of, oldest round first, in the order of each round's queue.

    Classes that the model did not know are left out: the expert had nothing to correct. Those of a finished round are
    worked out once and kept in its folder.
    """
    return [change for state in rounds(project) for change in changes_of(project, state)]


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
        for record in project.pool.annotations(row.case_id):
            name = project.class_of(record)
            if record.source == Source.REVISED and record.round == state.number and name in masks:
                before, after, changed, _ = compare(
                    masks[name], project.pool.read(record).mask, project.pool.grid(row.case_id)
                )
                found.append(Change(row.case_id, name, before, after, changed))
    if "revise" in state.arrows:
        write_json(kept, [change.__dict__ for change in found])
    return found
