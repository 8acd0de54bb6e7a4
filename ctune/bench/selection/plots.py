"""What the benchmark of selection draws."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import mean
from typing import Any

from ctune.bench.report.plots import Bar, Bars, Lines, Plot, Series
from ctune.bench.report.tables import by_case, seed_count, seeds_of
from ctune.bench.result import BenchResult
from ctune.bench.statistics import mean_interval

WAY_NAMES = {
    "random": "random",
    "ctune": "importance",
    "uncertainty": "entropy alone",
    "diverse": "diverse",
    "stratified": "stratified",
}
RECIPES = {"ctune": "importance", "aa8k": "published recipe"}


def plots(result: BenchResult) -> list[Plot]:
    """For each data set: Dice against minutes, regions found, order of the queue; what scoring costs."""
    seeds = seeds_of(result)
    measures: Mapping[str, Any] = result.measures
    drawn: list[Plot] = []
    # Imported here: with it comes NumPy and what reads cohorts, which a list of benchmarks does not need.
    from ctune.bench.selection.figures import ENDS

    for data, end in ENDS.items():
        found = [seed[data] for seed in seeds if data in seed]
        if worth := worth_of(found):
            drawn.append(dice_against_minutes(data, worth))
        if found:
            drawn += [regions(data, end, measures), queue(data, end, measures)]
    return [*drawn, cost(measures, ENDS)] if drawn else drawn


def worth_of(found: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """{way of choosing: its rounds} of the seeds that ran rounds."""
    return [one["worth"] for one in found if one["worth"]]


def dice_against_minutes(data: str, worth: Sequence[Mapping[str, Any]]) -> Lines:
    """One line a way of choosing."""
    from ctune.bench.selection.figures import curve

    series = []
    for number, (way, name) in enumerate(WAY_NAMES.items(), start=1):
        of = [one[way] for one in worth if way in one]
        if not of:
            continue
        columns = list(zip(*map(curve, of), strict=True))
        minutes, dice = ([mean(point[axis] for point in column) for column in columns] for axis in (0, 1))
        low, high = _band(of, dice) if way in ("random", "ctune") else ((), ())
        series.append(Series(name, minutes, dice, low, high, dashed=way == "random", colour=number))
    return Lines(
        f"Dice against the expert's minutes: {data}",
        "minutes of the simulated expert",
        "mean Dice, test cases",
        series,
        f"Each point is a round of the product. The axis of Dice is a part of it and does not begin at 0. Minutes are a model of an expert, not measured. Bands, of random (dashed) and importance: 95 % "
        f"bootstrap intervals over cases and seeds ({seed_count(len(worth))}).",
        figure=4,
    )


def _band(of: Sequence[Mapping[str, Any]], dice: Sequence[float]) -> tuple[list[float], list[float]]:
    """The interval over cases at each point, about the mean over classes that is drawn there."""
    stages = [[one["before"], *(done["dice"] for done in one["rounds"])] for one in of]
    found = [mean_interval([by_case(dice_, list(dice_)) for dice_ in at]) for at in zip(*stages, strict=True)]
    low = [value + f.low - f.mean for value, f in zip(dice, found, strict=True)]
    high = [value + f.high - f.mean for value, f in zip(dice, found, strict=True)]
    return low, high


def regions(data: str, end: str, measures: Mapping[str, Any]) -> Bars:
    """Sensitivity and precision of attention."""
    bars = []
    for number, (recipe, name) in enumerate(RECIPES.items(), start=1):
        for figure in ("sensitivity", "precision"):
            value = measures[f"{figure}{end}"][recipe]
            bars.append(
                Bar(f"{figure}, {name}", value or 0.0, colour=number, text="none" if value is None else "")
            )
    volume = ", ".join(
        f"{name} {measures[f'attention_over_error_volume{end}'][recipe]:.2g}"
        for recipe, name in RECIPES.items()
    )
    return Bars(
        f"Errors found by region: {data}",
        "share",
        bars,
        f"Volume of attention over that of all errors: {volume}. An error region has at least .2 mL after an opening by one voxel; "
        "a tenth of it must be attended.",
        x_limits=(0.0, 1.0),
    )


def queue(data: str, end: str, measures: Mapping[str, Any]) -> Bars:
    """How well scores order the queue."""
    names = {**RECIPES, "entropy": "entropy alone"}
    bars = []
    for number, (way, name) in enumerate(names.items(), start=1):
        rho = measures[f"spearman{end}"][way]
        bars.append(Bar(f"Spearman, {name}", rho or 0.0, colour=number, text="none" if rho is None else ""))
        share = measures[f"worst_tenth_in_first_fifth{end}"][way]
        bars.append(Bar(f"worst tenth, {name}", share, colour=number))
    # A rank correlation can be negative: such a bar is to be seen.
    lowest = min(bar.value for bar in bars)
    return Bars(
        f"The order of the queue: {data}",
        "rank correlation with 1 - Dice; share",
        bars,
        "Worst tenth: how much of the worst tenth of the cases the first fifth of the queue holds.",
        x_limits=(min(0.0, lowest), 1.0),
    )


def cost(measures: Mapping[str, Any], ends: Mapping[str, str]) -> Bars:
    """What scoring adds to predicting."""
    bars = [
        Bar(f"{data}, {name}", measures[figure][recipe], colour=number)
        for data, end in ends.items()
        if (figure := f"scoring_over_prediction_time{end}") in measures
        for number, (recipe, name) in enumerate(RECIPES.items(), start=1)
    ]
    large = ", ".join(
        f"{name} {measures[f'large_case_seconds_{recipe}']:.1f} s and {measures[f'large_case_peak_mb_{recipe}']:.0f} MiB"
        for recipe, name in RECIPES.items()
        if f"large_case_seconds_{recipe}" in measures
    )
    return Bars(
        "What scoring costs",
        "processor time of scoring over that of predicting",
        bars,
        "Predicting with the two views that scoring asks for: mirror images, of the hippocampus images 4 mm elsewhere."
        + (f" A CT of 512 x 512 x 200 voxels with nine classes: {large}." if large else ""),
        mark=0.1,
        mark_text="at most, for importance",
        x_limits=(0.0, max(0.11, *(bar.value for bar in bars))),
    )
