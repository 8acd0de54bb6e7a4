"""What the benchmark of selection draws."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from statistics import mean
from typing import TYPE_CHECKING, Any

from ctune.bench.report.plots import Bar, Bars, Lines, Plot, Series
from ctune.bench.report.tables import by_case, seed_count, seeds_of
from ctune.bench.result import BenchResult
from ctune.bench.selection.compared import one_cohort, with_rounds
from ctune.bench.statistics import mean_interval

if TYPE_CHECKING:
    from ctune.bench.selection.figures import Across

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
    # Imported here: with it comes NumPy and what reads cohorts, which a list of benchmarks does not need.
    from ctune.bench.selection.figures import ENDS

    seeds = seeds_of(result)
    sets = {data: [seed[data] for seed in seeds if data in seed] for data in ENDS}
    drawn: list[Plot] = []
    for data, found in sets.items():
        if ran := with_rounds(found):
            drawn.append(dice_against_minutes(data, ran))
        if found:
            drawn += [regions(data, found), queue(data, found)]
    by_turns: Any = result.details.get("cost")
    return [*drawn, cost(sets, result.measures, by_turns)] if drawn else drawn


def dice_against_minutes(data: str, found: Sequence[Mapping[str, Any]]) -> Lines:
    """One line a way of choosing. found: seeds that ran rounds."""
    from ctune.bench.selection.figures import curve

    worth, shared = [one["worth"] for one in found], one_cohort(found)
    series = []
    for number, (way, name) in enumerate(WAY_NAMES.items(), start=1):
        of = [one[way] for one in worth if way in one]
        if not of:
            continue
        columns = list(zip(*map(curve, of), strict=True))
        minutes, dice = ([mean(point[axis] for point in column) for column in columns] for axis in (0, 1))
        low, high = _band(of, dice, shared) if way in ("random", "ctune") else ((), ())
        series.append(Series(name, minutes, dice, low, high, dashed=way == "random", colour=number))
    return Lines(
        f"Dice against the expert's minutes: {data}",
        "minutes of the simulated expert",
        "mean Dice, test cases",
        series,
        "Each point is a whole round of the product; the lines between lead the eye, since a round is not divided. The axis of Dice is a part of it and "
        "does not begin at 0. Minutes are a model of an expert, not measured. "
        f"Means of {seed_count(len(worth))}; bands, of random (dashed) and importance: 95 % intervals over cases and seeds.",
        figure=4,
    )


def _band(
    of: Sequence[Mapping[str, Any]], dice: Sequence[float], shared: bool
) -> tuple[list[float], list[float]]:
    """The interval over cases at each point, about the mean over classes that is drawn there."""
    stages = [[one["before"], *(done["dice"] for done in one["rounds"])] for one in of]
    found = [mean_interval([by_case(dice_, list(dice_)) for dice_ in at], shared=shared)
             for at in zip(*stages, strict=True)]  # fmt: skip
    low = [value + f.low - f.mean for value, f in zip(dice, found, strict=True)]
    high = [value + f.high - f.mean for value, f in zip(dice, found, strict=True)]
    return low, high


def regions(data: str, found: Sequence[Mapping[str, Any]]) -> Bars:
    """Sensitivity and precision of attention, from one model and from several."""
    from ctune.bench.selection.figures import across, found_in, with_arm
    from ctune.bench.selection.finding import PLAIN, SEVERAL

    bars, ratios = list[Bar](), list[str]()
    for arm, of in ((arm, with_arm(found, arm)) for arm in (PLAIN, SEVERAL)):
        if not of:
            continue
        figures = across(of, partial(found_in, arm=arm))
        for number, (recipe, words) in enumerate(RECIPES.items(), start=1):
            name = words + made_from(arm, of)
            bars += [_bar(f"{figure}, {name}", figures[figure][recipe], number)
                     for figure in ("sensitivity", "precision")]  # fmt: skip
            ratio = figures["attention_over_error_volume"][recipe].value
            ratios.append(f"{name} {'none' if ratio is None else f'{ratio:.2g}'}")
    return Bars(
        f"Errors found by region: {data}",
        "share",
        bars,
        f"Volume of attention over that of all errors: {'; '.join(ratios)}. An error region has at least .2 mL after an opening by one voxel; "
        f"a tenth of it must be attended. {_ends('All regions of {} together', found)}",
        x_limits=(0.0, 1.0),
    )


def made_from(arm: str, found: Sequence[Mapping[str, Any]]) -> str:
    """What follows a recipe's name.

    >>> made_from("plain", []), made_from("views", []), made_from("several", [{"scale": {"models": 3}}])
    ('', ', with views', ', 3 models')
    """
    from ctune.bench.selection.finding import SEVERAL, VIEWS

    if arm == SEVERAL:
        return f", {found[0]['scale']['models']} models"
    # Results from before there were arms predicted with views, and plainly for the time alone.
    older = any("plain_cpu_seconds" in one.get("predicting", {}) for one in found)
    return ", with views" if arm == VIEWS or older else ""


def queue(data: str, found: Sequence[Mapping[str, Any]]) -> Bars:
    """How well scores order the queue."""
    from ctune.bench.selection.figures import across, found_in

    figures = across(found, found_in)
    bars = [
        _bar(f"{words}, {name}", figures[figure][way], number)
        for number, (way, name) in enumerate({**RECIPES, "entropy": "entropy alone"}.items(), start=1)
        for figure, words in (("spearman", "Spearman"), ("worst_tenth_in_first_fifth", "worst tenth"))
    ]
    # A rank correlation can be negative: such a bar is to be seen.
    lowest = min(bar.value if bar.low is None else bar.low for bar in bars)
    return Bars(
        f"The order of the queue: {data}",
        "rank correlation with 1 - Dice; share",
        bars,
        "Worst tenth: how much of the worst tenth of the cases the first fifth of the queue holds. "
        f"{_ends('Means of {}', found)}",
        x_limits=(min(0.0, lowest), 1.0),
    )


def cost(
    sets: Mapping[str, Sequence[Mapping[str, Any]]],
    measures: Mapping[str, Any],
    by_turns: Mapping[str, Any] | None = None,
) -> Bars:
    """What scoring adds to predicting. by_turns: of phantoms, measured apart from their seeds."""
    from ctune.bench.selection.cohort import PHANTOMS
    from ctune.bench.selection.cost import ratios, typical
    from ctune.bench.selection.figures import Across, across, times

    figures = {
        data: across(found, times)["scoring_over_prediction_time"] for data, found in sets.items() if found
    }
    if by_turns:
        middle, each = typical(by_turns), ratios(by_turns)
        figures = {PHANTOMS: {recipe: Across(middle[recipe], each[recipe]) for recipe in RECIPES}} | {
            data: found for data, found in figures.items() if data != PHANTOMS
        }
    seeds = [found for data, found in sets.items() if found and not (by_turns and data == PHANTOMS)]
    bars = [
        _bar(f"{data}, {name}", found[recipe], number)
        for data, found in figures.items()
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
        "One pass of one model. "
        + (f"Phantoms: the median of {len(by_turns['turns'])} turns, lowest to highest. " if by_turns else "")
        + (_ends("Time of {} together", *seeds) if seeds else "")
        + (f" A CT of 512 x 512 x 200 voxels with nine classes: {large}." if large else ""),
        mark=0.1,
        mark_text="at most, for importance",
        x_limits=(0.0, max(0.11, *(bar.high or bar.value for bar in bars))),
    )


def _bar(name: str, figure: Across, number: int) -> Bar:
    """With ends where seeds differ."""
    value = figure.value
    return Bar(name, value or 0.0, figure.low, figure.high, "none" if value is None else "", number)


def _ends(what: str, *sets: Sequence[Any]) -> str:
    """What a bar is, and its ends. what: with {} for the seeds of the data sets."""
    fewest, most = min(map(len, sets)), max(map(len, sets))
    seeds = seed_count(most) if fewest == most else f"{fewest} to {seed_count(most)}"
    return (
        f"{what.format(seeds)}; a bar with ends: lowest to highest of the seeds." if most > 1 else "One seed."
    )
