"""What the benchmark of selection draws."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import mean
from typing import Any

from ctune.bench.plots import Bar, Bars, Lines, Plot, Series
from ctune.bench.result import BenchResult

_NAMES = {
    "random": "random",
    "ctune": "importance",
    "uncertainty": "entropy alone",
    "diverse": "diverse",
    "stratified": "stratified",
}
_RECIPES = {"ctune": "ctune", "aa8k": "published recipe"}


def plots(result: BenchResult) -> list[Plot]:
    """For each data set: regions found, order of the queue, Dice against minutes."""
    seeds: list[Mapping[str, Any]] = [s for n, s in sorted(result.details.items()) if n.startswith("seed ")]  # type: ignore[misc]
    measures: Mapping[str, Any] = result.measures
    drawn: list[Plot] = []
    # Imported here: with it comes NumPy and what reads cohorts, which a list of benchmarks does not need.
    from ctune.bench.selection_figures import ENDS

    for data, end in ENDS.items():
        found = [seed[data] for seed in seeds if data in seed]
        if any(one["worth"] for one in found):
            drawn.append(dice_against_minutes(data, found))
        if found:
            drawn += [regions(data, end, measures), queue(data, end, measures)]
    return drawn


def dice_against_minutes(data: str, found: Sequence[Mapping[str, Any]]) -> Lines:
    """One line a way of choosing."""
    from ctune.bench.selection_figures import curve

    series, found = [], [one for one in found if one["worth"]]
    for way, name in _NAMES.items():
        columns = list(zip(*(curve(one["worth"][way]) for one in found), strict=True))
        minutes, dice = ([mean(point[axis] for point in column) for column in columns] for axis in (0, 1))
        ends = ([end(point[1] for point in column) for column in columns] for end in (min, max))
        low, high = ends if len(found) > 1 and way in ("random", "ctune") else ((), ())
        series.append(Series(name, minutes, dice, low, high, dashed=way == "random"))
    band = f" Bands: lowest to highest of {len(found)} seeds." if len(found) > 1 else " One seed."
    return Lines(
        f"Dice against the expert's minutes: {data}",
        "minutes of the simulated expert",
        "mean Dice, test cases",
        series,
        f"Each point is a round of the product. Minutes are a model of an expert, not measured.{band}",
    )


def regions(data: str, end: str, measures: Mapping[str, Any]) -> Bars:
    """Sensitivity and precision of attention."""
    bars = []
    for number, (recipe, name) in enumerate(_RECIPES.items(), start=1):
        for figure in ("sensitivity", "precision"):
            value = measures[f"{figure}{end}"][recipe]
            bars.append(
                Bar(f"{figure}, {name}", value or 0.0, colour=number, text="none" if value is None else "")
            )
    volume = ", ".join(
        f"{name} {measures[f'attention_over_error_volume{end}'][recipe]:.2g}"
        for recipe, name in _RECIPES.items()
    )
    return Bars(
        f"Errors found by region: {data}",
        "share",
        bars,
        f"Volume of attention over that of all errors: {volume}. An error region has at least .2 mL after an opening by one voxel; "
        "a tenth of it must be attended.",
    )


def queue(data: str, end: str, measures: Mapping[str, Any]) -> Bars:
    """How well scores order the queue."""
    names = {**_RECIPES, "entropy": "entropy alone"}
    bars = []
    for number, (way, name) in enumerate(names.items(), start=1):
        bars.append(Bar(f"Spearman, {name}", measures[f"spearman{end}"][way], colour=number))
        share = measures[f"worst_tenth_in_first_fifth{end}"][way]
        bars.append(Bar(f"worst tenth, {name}", share, colour=number))
    return Bars(
        f"The order of the queue: {data}",
        "rank correlation with 1 - Dice; share",
        bars,
        "Worst tenth: how much of the worst tenth of the cases the first fifth of the queue holds.",
    )
