"""The figures of the benchmark of selection: plain names are phantoms', ``..._coarse`` and ``..._hippocampus`` the same of theirs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Any

import numpy as np

from ctune.bench.catalogue import Preset
from ctune.bench.result import Gate
from ctune.bench.selection.cohort import COARSE, HIPPOCAMPUS, PHANTOMS
from ctune.bench.selection.compared import with_rounds
from ctune.bench.selection.cost import typical
from ctune.bench.selection.finding import PLAIN, RECIPES, SEVERAL, VIEWS, mean_of, ranking
from ctune.bench.selection.regions import Regions
from ctune.bench.statistics import paired_interval

ENDS = {PHANTOMS: "", COARSE: "_coarse", HIPPOCAMPUS: "_hippocampus"}
"""What follows the name of a figure, for each data set."""

Found = Mapping[str, Any]
Point = tuple[float, float]


@dataclass(frozen=True)
class Across:
    """A figure over all seeds and that of each: what is pooled is not the mean of the seeds. None: nothing to measure; seeds
    without it are left out."""

    value: float | None
    seeds: tuple[float, ...]

    @property
    def low(self) -> float | None:
        """Lowest of the seeds."""
        return min(self.seeds, default=None)

    @property
    def high(self) -> float | None:
        return max(self.seeds, default=None)


def summary(
    seeds: Sequence[Mapping[str, Found]],
    large: Mapping[str, Any] | None = None,
    cost: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The measures over all seeds; those of a large case where it was measured. What scoring phantoms costs is `cost`'s, else that
    of the seeds."""
    out: dict[str, Any] = {}
    for data, end in ENDS.items():
        found = [seed[data] for seed in seeds if data in seed]
        if found:
            out |= {f"{name}{end}": value for name, value in of_data_set(found).items()}
            worth = _worth(with_rounds(found))
            # Rounds are run on one of the two kinds of phantoms.
            out |= {f"{name}{'' if data == COARSE else end}": value for name, value in worth.items()}
    if cost:
        out["scoring_over_prediction_time"] = typical(cost)
    for recipe in RECIPES if large else ():
        assert large is not None
        out[f"large_case_seconds_{recipe}"] = large[recipe]["seconds"]
        out[f"large_case_peak_mb_{recipe}"] = large[recipe]["peak_mb"]
    return out


def of_data_set(found: Sequence[Found]) -> dict[str, Any]:
    """What was found, and what it took. The ratios of time are of all seeds together."""
    also = {
        f"{name}_{arm}": value
        for arm in (VIEWS, SEVERAL)
        if (with_it := with_arm(found, arm))
        for name, value in found_in(with_it, arm).items()
    }
    return {**found_in(found), **also, **times(found)}


def with_arm(found: Sequence[Found], arm: str) -> list[Found]:
    """The seeds that scored from these predictions: not every result did."""
    return [one for one in found if arm == PLAIN or arm in one.get("finding_also", {})]


def found_in(found: Sequence[Found], arm: str = PLAIN) -> dict[str, Any]:
    """Regions are counted over all seeds together; ranks and shares are means over the seeds."""
    regions = {recipe: sum((regions_of(one, recipe, arm) for one in found), Regions()) for recipe in RECIPES}
    orders = {
        name: [ranking(_recipe(one, recipe, arm)[order], _finding(one, arm)["dice"]) for one in found]
        for name, recipe, order in (("ctune", "ctune", "score"), ("aa8k", "aa8k", "score"), ("entropy", "ctune", "entropy"))
    }  # fmt: skip
    return {
        "sensitivity": {recipe: all_.sensitivity for recipe, all_ in regions.items()},
        "precision": {recipe: all_.precision for recipe, all_ in regions.items()},
        "attention_over_error_volume": {recipe: all_.volume_ratio for recipe, all_ in regions.items()},
        "spearman": {name: mean(r["spearman"] or 0.0 for r in rows) for name, rows in orders.items()},
        "worst_tenth_in_first_fifth": {
            name: mean(r["worst_tenth_in_first_fifth"] or 0.0 for r in rows) for name, rows in orders.items()
        },
    }


def spearman_ends(found: Sequence[Found], way: str) -> tuple[float, float]:
    """Ends of the 95 % interval (``statistics``) of the rank correlation's mean over the seeds, each of which has a training and a pool of
    its own: of scores from one pass of one model by a recipe, or of "entropy". Pools that share images make it too short."""
    each = across(found, found_in)["spearman"][way].seeds
    of = paired_interval([[value] for value in each])
    return of.low, of.high


def times(found: Sequence[Found]) -> dict[str, Any]:
    """Processor time of scoring over that of predicting what is scored, all seeds together."""
    out = {}
    for figure, arm, predicting in (
        ("scoring_over_prediction_time", PLAIN, "cpu_seconds"),
        ("scoring_over_prediction_time_views", VIEWS, "views_cpu_seconds"),
        ("scoring_over_prediction_time_several", SEVERAL, "several_cpu_seconds"),
    ):
        if of := with_arm(found, arm):
            spent = sum(one["predicting"][predicting] for one in of)
            scoring = {r: sum(_recipe(one, r, arm)["cpu_seconds"] for one in of) for r in RECIPES}
            out[figure] = {recipe: seconds / spent for recipe, seconds in scoring.items()}
    return out


def across(
    found: Sequence[Found], measured: Callable[[Sequence[Found]], Mapping[str, Any]]
) -> dict[str, dict[str, Across]]:
    """{figure: {way: its value over all seeds, and those of each}} of ``found_in`` or ``times``."""
    each = [measured([one]) for one in found]
    return {
        name: {way: Across(value, tuple(v for one in each if (v := one[name][way]) is not None)) for way, value in ways.items()}
        for name, ways in measured(found).items()
    }  # fmt: skip


def regions_of(one: Found, recipe: str, arm: str = PLAIN) -> Regions:
    """All classes of one seed together."""
    return sum((Regions(**counts) for counts in _recipe(one, recipe, arm)["regions"].values()), Regions())


def _recipe(one: Found, recipe: str, arm: str) -> Mapping[str, Any]:
    found: Mapping[str, Any] = _finding(one, arm)["recipes"][recipe]
    return found


def _finding(one: Found, arm: str) -> Mapping[str, Any]:
    found: Mapping[str, Any] = one["finding"] if arm == PLAIN else one["finding_also"][arm]
    return found


def _worth(found: Sequence[Found]) -> dict[str, Any]:
    if not found:
        return {}
    seeds = [one["worth"] for one in found]
    curves = {way: mean_curve([seed[way] for seed in seeds]) for way in seeds[0]}
    by_seed = ratios_by_seed(seeds)
    return {
        "minutes_ratio_to_random": ratios(by_seed),
        "minutes_ratio_to_random_by_seed": by_seed,
        "first_dice": curves["random"][0][1],
        "final_dice": {way: points[-1][1] for way, points in curves.items()},
        "final_minutes": {way: points[-1][0] for way, points in curves.items()},
    }


def ratios(by_seed: Mapping[str, Sequence[float | None]]) -> dict[str, float | None]:
    """{way: mean of the seeds' ratios}; None, not decided, where a seed has none: the way does not come there, or random choice
    gained nothing, so that there is nowhere to come to.

    A mean curve would have a ratio even where most seeds have none.

    >>> ratios({"ctune": [0.5, 0.7], "diverse": [0.5, None]})
    {'ctune': 0.6, 'diverse': None}
    """
    known = {way: [one for one in of if one is not None] for way, of in by_seed.items()}
    return {way: mean(of) if len(of) == len(by_seed[way]) else None for way, of in known.items()}


def ratios_by_seed(seeds: Sequence[Mapping[str, Any]]) -> dict[str, list[float | None]]:
    """{way: ``ratios_to_random`` seed by seed}; of a way that a seed did not go, None. seeds: {way: its rounds}."""
    found = [ratios_to_random({way: curve(rounds) for way, rounds in one.items()}) for one in seeds]
    return {way: [one.get(way) for one in found] for way in found[0]}


def ratios_to_random(curves: Mapping[str, Sequence[Point]]) -> dict[str, float | None]:
    """{way: its minutes to the Dice with which random choice ends, over all of random's}; None where it never comes there.

    Random choice itself is below 1 where it came there before its end. None for every way where it ends no higher than it
    began: there is nothing to reach.

    >>> ratios_to_random({"random": [(0.0, 0.5), (20.0, 0.7)], "ctune": [(0.0, 0.5), (10.0, 0.8)]})
    {'random': 1.0, 'ctune': 0.5}
    """
    (_, first), (spent, goal) = curves["random"][0], curves["random"][-1]
    reached = {way: minutes_to(points, goal) if goal > first else None for way, points in curves.items()}
    return {way: None if minutes is None else minutes / spent for way, minutes in reached.items()}


def curve(way: Mapping[str, Any]) -> list[Point]:
    """(minutes so far, mean Dice of the revised classes on the test cases), before the first round and after each."""
    points, minutes = [(0.0, mean_dice(way["before"]))], 0.0
    for done in way["rounds"]:
        minutes += done["minutes"]
        points.append((minutes, mean_dice(done["dice"])))
    return points


def mean_dice(dice: Mapping[str, Mapping[str, float | None]]) -> float:
    """Mean over the classes of the mean over the cases."""
    return mean(mean_of(list(cases.values())) for cases in dice.values())


def mean_curve(ways: Sequence[Mapping[str, Any]]) -> list[Point]:
    """Round by round the mean minutes and the mean Dice of the seeds."""
    columns = zip(*(curve(way) for way in ways), strict=True)
    return [(mean(m for m, _ in column), mean(d for _, d in column)) for column in columns]


def minutes_to(points: Sequence[Point], goal: float) -> float | None:
    """Minutes of the first measured point at or above a Dice; None when there is none.

    Whole rounds: nobody has a model after half a round, so that nothing is read off between two points.

    >>> minutes_to([(0.0, 0.5), (10.0, 0.7), (20.0, 0.8)], 0.6)
    10.0
    """
    return next((minutes for minutes, dice in points if dice >= goal), None)


def gates(measures: Mapping[str, Any], preset: Preset) -> list[Gate]:
    """What importance must reach. A smoke run is too small for more than its shape."""
    if preset == Preset.SMOKE:
        if "scoring_over_prediction_time" not in measures:
            return []
        value = measures["scoring_over_prediction_time"]["ctune"]
        figure, known = "scoring_over_prediction_time.ctune", ".03 on 60 phantoms"
        return [Gate(figure=figure, value=value, bound=0.5, reference=known)]
    out = []
    if "sensitivity" in measures:
        out += [
            _gate(measures, "sensitivity", "ctune", 0.85),
            _gate(measures, "precision", "ctune", 0.85),
            _gate(measures, "attention_over_error_volume", "ctune", 3.0, at_most=True),
        ]
    if "scoring_over_prediction_time" in measures:
        out.append(_gate(measures, "scoring_over_prediction_time", "ctune", 0.1, at_most=True))
    for end in (ENDS[PHANTOMS], ENDS[HIPPOCAMPUS]):
        if f"spearman{end}" in measures:
            out.append(_gate(measures, f"spearman{end}", "ctune", 0.6))
            out.append(_gate(measures, f"worst_tenth_in_first_fifth{end}", "ctune", 0.8))
        if f"minutes_ratio_to_random{end}" in measures:
            out.append(_gate(measures, f"minutes_ratio_to_random{end}", "ctune", 0.5, at_most=True))
    for end in ENDS.values():
        if f"sensitivity{end}" not in measures:
            continue
        for figure in ("sensitivity", "precision"):
            out.append(_above(measures, f"{figure}{end}", "aa8k"))
            # Its recipe was made for several models.
            if f"{figure}_{SEVERAL}{end}" in measures:
                out.append(_above(measures, f"{figure}_{SEVERAL}{end}", "aa8k"))
        out.append(_above(measures, f"spearman{end}", "entropy"))
    return out


def _gate(measures: Mapping[str, Any], figure: str, way: str, bound: float, at_most: bool = False) -> Gate:
    value = measures[figure][way]
    return Gate(
        figure=f"{figure}.{way}", value=value, bound=bound, at_most=at_most, reference="docs/selection.md"
    )


def _above(measures: Mapping[str, Any], figure: str, other: str) -> Gate:
    ours, theirs = measures[figure]["ctune"], measures[figure][other]
    value = None if ours is None or theirs is None else float(np.round(ours - theirs, 6))
    return Gate(figure=f"{figure}.ctune less {figure}.{other}", value=value, bound=0.0, at_most=False,
                reference="docs/selection.md")  # fmt: skip
