"""Ways of choosing compared case by case after their last round: what random choice gains, and importance less each other way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate
from statistics import mean
from typing import Any

from ctune.bench.statistics import (
    Differences,
    Interval,
    case_differences,
    comparisons,
    paired_interval,
    shares_cases,
)

MARGIN = 0.01
"""Mean Dice after the last round by which importance may be below another way; that of continual tuning and its rivals."""
OURS, BASELINE = "ctune", "random"

Found = Mapping[str, Any]
"""What one seed found of one data set; here always of a seed that ran rounds."""


def with_rounds(found: Sequence[Found]) -> list[Found]:
    """The seeds that ran rounds: not every one does."""
    return [one for one in found if one["worth"]]


def one_cohort(found: Sequence[Found]) -> bool:
    """Whether the seeds share their test cases, by the digest that each keeps of its cohort."""
    return shares_cases({f"cohort, seed {n}": one.get("digest", f"{n}") for n, one in enumerate(found)})


def gain(found: Sequence[Found]) -> Interval:
    """Dice of random choice by case, last less first: without a gain there is nothing that another way could reach sooner."""
    ways = [one["worth"][BASELINE] for one in found]
    less = [case_differences(_last(way), way["before"], sorted(way["before"])) for way in ways]
    return paired_interval(less, shared=one_cohort(found))


def differences(found: Sequence[Found]) -> dict[str, Differences]:
    """{other way: importance less it after the last round, for each seed by case}."""
    every = [one["worth"] for one in found]
    others = [way for way in every[0] if way != OURS]
    both = {way: [(_last(one[OURS]), _last(one[way])) for one in every if way in one] for way in others}
    return {way: [case_differences(a, b, sorted(a)) for a, b in pairs] for way, pairs in both.items()}


def against(found: Sequence[Found]) -> dict[str, dict[str, Any]]:
    """``statistics.comparisons`` of ``differences``, one family for Holm, and how the cases of each lie.

    higher, lower, equal: cases in which importance ends so; one that several seeds share counts once, by its mean.
    carried_by: see there.
    """
    less, same = differences(found), one_cohort(found)
    out = comparisons(less, MARGIN, same)
    for way, groups in less.items():
        cases = [mean(case) for case in zip(*groups, strict=True)] if same else [v for of in groups for v in of]  # fmt: skip
        higher, lower = (sum(sign * value > 0 for value in cases) for sign in (1, -1))
        equal = len(cases) - higher - lower
        out[way] |= {"higher": higher, "lower": lower, "equal": equal, "carried_by": carried_by(cases)}
    return out


def carried_by(cases: Sequence[float]) -> int:
    """How many of the largest differences must go until nothing is left of a gain: the others sum to 0 or less.

    >>> carried_by([0.3, -0.1, -0.1]), carried_by([0.1, 0.1, 0.1, -0.05]), carried_by([-0.1])
    (1, 3, 0)
    """
    rests = accumulate(sorted(cases, reverse=True), lambda rest, value: rest - value, initial=sum(cases))
    # Sums of floats end beside 0: what is below a billionth of a Dice is none.
    return next((number for number, rest in enumerate(rests) if rest <= 1e-9), len(cases))


def _last(way: Mapping[str, Any]) -> Mapping[str, Mapping[str, float | None]]:
    dice: Mapping[str, Mapping[str, float | None]] = (
        way["rounds"][-1]["dice"] if way["rounds"] else way["before"]
    )
    return dice
