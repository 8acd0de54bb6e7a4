"""What the measures were worth so far: each revision beside the scores that its case had when it was selected."""

from __future__ import annotations

from ctune.importance import Example, Weights, learn, read_importances
from ctune.project import Project
from ctune.round.revisions import changes_of
from ctune.round.state import RoundState, folder_of, rounds
from ctune.select import OPENING_MINUTES
from ctune.types import Source


def learned_weights(project: Project) -> Weights:
    """Weights and minutes from all revisions of earlier rounds; the fallback until there are enough of them."""
    return learn(examples(project))


def examples(project: Project) -> list[Example]:
    """Every revised class that had been scored, oldest round first.

    Scores of the published recipe count voxels and teach nothing: rounds that used it are passed over.
    """
    return [example for state in rounds(project) for example in _of_round(project, state)]


def _of_round(project: Project, state: RoundState) -> list[Example]:
    path = folder_of(project, state.number) / "scores.json"
    if not path.exists():
        return []
    scored = {one.case_id: one.classes for one in read_importances(path)}
    found = []
    for change in changes_of(project, state):
        one = scored[change.case_id].get(change.class_name) if change.case_id in scored else None
        if one is not None and "doubt" in one.measures:
            seconds = _seconds(project, state.number, change.case_id, change.class_name)
            found.append(Example(one.measures, 1.0 - change.dice, change.changed_ml, seconds))
    return found


def _seconds(project: Project, number: int, case_id: str, class_name: str) -> float | None:
    """What the expert who revised a class last in a round took for it, without its share of opening the case.

    Who goes back to a case is timed for each visit.

    A case's time is shared evenly by the classes revised in it, and opening it is part of that time; a list counts the opening
    once a case by itself (``select.minutes_of``).
    """
    revised = [
        record
        for record in project.pool.annotations(case_id)
        if record.source == Source.REVISED and record.round == number and record.seconds is not None
    ]
    own = [record for record in revised if project.class_of(record) == class_name]
    taken = [r.seconds for r in own if r.author == own[-1].author and r.seconds is not None]
    classes = {project.class_of(record) for record in revised}
    return max(0.0, sum(taken) - 60.0 * OPENING_MINUTES / len(classes)) if taken else None
