"""Data reuse (paper, section 2): a small share of the cases that were annotated earlier trains again beside the revised ones.

Where more than the heads trains, they hold the other classes in place; a tuned head sees cases that nobody had to revise.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence

import numpy as np

from ctune.errors import DataError
from ctune.importance import read_importances
from ctune.project import Project
from ctune.types import Source, Split


def replay_cases(
    candidates: Collection[str], scores: Mapping[str, float], share: float, seed: int
) -> list[str]:
    """The `share` of `candidates` that train again, rounded up to whole cases: most important first.

    scores: importance by case, where it is known; cases without a score come after those with one, in an order drawn by
    `seed`. Equal scores go by case id, and the order of `candidates` is of no matter.

    >>> replay_cases(["a", "b", "c", "d"], {"b": 1.0, "d": 7.0}, share=0.5, seed=0)
    ['d', 'b']
    """
    ordered = sorted(set(candidates))
    known = sorted((case for case in ordered if case in scores), key=lambda case: -scores[case])
    unknown = [case for case in ordered if case not in scores]
    drawn = [unknown[int(i)] for i in np.random.default_rng(seed).permutation(len(unknown))]
    # 0.1 of 30 is three cases, although 0.1 * 30 is a little more than 3 in floating point.
    count = math.ceil(round(share * len(ordered), 9))
    return [*known, *drawn][:count]


def earlier_cases(project: Project, classes: Collection[str], training: Sequence[str]) -> list[str]:
    """Pool cases, those in `training` apart, in which people have annotated at least one of `classes`."""
    pool, wanted, already = project.pool, set(classes), set(training)
    return [
        case.id
        for case in pool.cases(Split.POOL)
        if case.id not in already
        and any(
            a.source != Source.PREDICTED and project.class_of(a) in wanted for a in pool.annotations(case.id)
        )
    ]


def known_scores(project: Project, cases: Collection[str]) -> dict[str, float]:
    """{case: its importance} of those of `cases` that anybody scored: from what ``tune.scores`` names, else from the last round that did.

    Raises DataError where ``tune.scores`` names no scores, or those of other cases alone.
    """
    named, scores = project.config.tune.scores, round_scores(project)
    if named:
        path = project.root / named
        path = path if path.suffix == ".json" else path / "scores.json"
        asked = {one.case_id: one.score for one in read_importances(path)}
        if cases and not asked.keys() & set(cases):
            raise DataError(
                f"expected scores of some of {len(cases)} earlier cases in {path}, got those of {len(asked)} others; "
                "predict and score the pool, not new cases"
            )
        scores |= asked
    return {case: scores[case] for case in cases if case in scores}


def round_scores(project: Project) -> dict[str, float]:
    """{case: its importance}, from the last round that scored it; a case that no round scored is not there."""
    scores: dict[str, float] = {}
    for path in sorted((project.root / "rounds").glob("[0-9]*/scores.json")):
        scores |= {one.case_id: one.score for one in read_importances(path)}
    return scores
