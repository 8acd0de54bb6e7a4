"""What the benchmark of speed draws: Dice against seconds for both ways, and the ratios, each on its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import mean
from typing import Any

from ctune.bench.report.plots import Bar, Bars, Lines, Plot, Series
from ctune.bench.report.tables import by_case, mean_dice, organ, ranged, seed_count, seeds_of
from ctune.bench.result import BenchResult
from ctune.bench.speed.chapter import CEILING, RIVAL, Costs, arm, full_seconds
from ctune.bench.speed.lengths import by_epochs
from ctune.bench.statistics import Interval, mean_interval, shares_cases

_LINES = {RIVAL: 2, CEILING: 3}
_POINTS = {"continual": 1, "text head": 4}
_CURVED = "continual"
"""The way that was tuned for other numbers of epochs too."""
_WHERE = {"speed": "phantoms", "hippocampus": "real MR images of the hippocampus"}


def plots(result: BenchResult) -> list[Plot]:
    """Dice of the new classes against seconds of each way; how many times less continual tuning needs."""
    unit = "cpu_seconds" if result.device == "cpu" else "seconds"
    seeds = seeds_of(result)
    new = list(next(iter(seeds[0]["continual"].values()))["steps"])
    where = _WHERE.get(result.what, result.what)
    return [
        dice_against_seconds(seeds, new, unit, shares_cases(result.data), where),
        ratios(Costs(result, seeds, new, unit), where),
    ]


def dice_against_seconds(
    seeds: Sequence[Mapping[str, Any]], new: Sequence[str], unit: str, shared: bool, where: str
) -> Lines:
    """One line an arm of full training over its looks, one point an arm of continual tuning."""
    drawn = []
    for way, number in _POINTS.items():
        found = [one for seed in seeds if (one := arm(seed, way))]
        if found:
            times = [one[unit] for one in found]
            dice = mean(mean_dice(one["dice"], new) for one in found)
            ends = _around(dice, _interval(found, new, shared))
            sides = {0: (min(times), max(times))} if len(times) > 1 else {}
            point = Series(
                _named(way), [mean(times)], [dice], errors={0: ends}, x_errors=sides, colour=number
            )
            drawn.append(_through(point, seeds, new, unit, shared) if way == _CURVED else point)
    for way, number in _LINES.items():
        found = [one for seed in seeds if (one := arm(seed, way)) and _looks(one)]
        if found:
            paces = [_pace(seed, one, unit) for seed in seeds if (one := arm(seed, way)) and _looks(one)]
            drawn.append(_line(way, number, found, paces, new, unit, shared))
    organs = ", ".join(map(organ, new))
    curved = next((one for one in drawn if one.name == _CURVED and len(one.xs) > 1), None)
    band = (
        f"Bands: 95 % intervals, of full training over the {seed_count(len(seeds))} (looks keep no cases)"
        f"{', of continual tuning over cases and seeds' if curved else ''}."
        if len(seeds) > 1
        else f"One seed, so no bands of full training{'; of continual tuning over its cases' if curved else ''}."
    )
    if curved:
        own = int(seeds[0]["scale"]["tune_epochs"])
        lengths = list(by_epochs(seeds[0], own))
        band += f" Continual tuning's line goes through whole tunings of {', '.join(map(str, lengths[:-1]))} and {lengths[-1]} epochs; the one with bars, of {own}, is compared."  # fmt: skip
    tuned = [one for seed in seeds if (one := arm(seed, "continual"))]
    beside = ", and its steps go at the pace of those that were timed beside each tuning" if all(one.get("full_step") for one in tuned) else ""  # fmt: skip
    return Lines(
        f"Dice of the new classes against the time spent: {where}",
        "processor seconds, logarithmic" if unit == "cpu_seconds" else "seconds, logarithmic",
        "mean Dice, test cases",
        drawn,
        f"Mean over {organs}. Full training starts from nothing and looks at the test cases at times, which its seconds leave out{beside}; "
        f"continual tuning starts from the registered base. {band} Bars at points: 95 % over cases and seeds; level ones: the seeds' seconds.",
        y_limits=(0.0, 1.0),
        log_x=True,
        figure=1,
    )


def _through(
    point: Series, seeds: Sequence[Mapping[str, Any]], new: Sequence[str], unit: str, shared: bool
) -> Series:
    """The point of continual tuning on the line of tunings of other lengths; the point itself where not every seed has them."""
    if not all(seed.get("lengths") and "scale" in seed for seed in seeds):
        return point
    own = [int(seed["scale"]["tune_epochs"]) for seed in seeds]
    found = [by_epochs(seed, epochs) for seed, epochs in zip(seeds, own, strict=True)]
    if len({tuple(tunings) for tunings in found}) > 1:
        return point
    xs, ys, bands = list[float](), list[float](), list[tuple[float, float]]()
    for epochs in found[0]:
        same = [tunings[epochs] for tunings in found]
        xs.append(mean(one[unit] for one in same))
        ys.append(mean(mean_dice(one["dice"], new) for one in same))
        bands.append(_around(ys[-1], _interval(same, new, shared)))
    at = list(found[0]).index(own[0])
    return replace(
        point, xs=xs, ys=ys, low=[low for low, _ in bands], high=[high for _, high in bands],
        errors={at: point.errors[0]}, x_errors={at: point.x_errors[0]} if point.x_errors else {},
    )  # fmt: skip


def _named(way: str) -> str:
    return {"continual": "continual", "text head": "continual, text head"}.get(way, way)


def _looks(one: Mapping[str, Any]) -> list[Any]:
    return [row for row in one["curve"] if "dice" in row]


def _line(
    way: str, number: int, found: Sequence[Mapping[str, Any]], paces: Sequence[float], new: Sequence[str], unit: str,
    shared: bool,
) -> Series:  # fmt: skip
    """Over the epochs at which every seed looked. paces: of each seed, what its seconds are multiplied by."""
    looks = [{row["epoch"]: {**row, unit: row[unit] * pace} for row in _looks(one)}
             for one, pace in zip(found, paces, strict=True)]  # fmt: skip
    epochs = sorted(set(looks[0]).intersection(*looks[1:])) or sorted(looks[0])
    looks = [rows for rows in looks if set(epochs) <= set(rows)]
    xs = [mean(rows[e][unit] for rows in looks) for e in epochs]
    points = [[mean(rows[e]["dice"][n] for n in new) for rows in looks] for e in epochs]
    ys = [mean(values) for values in points]
    bands = [mean_interval([[value] for value in values]) for values in points] if len(looks) > 1 else []
    # Cases are known of the model at the end alone.
    whole = epochs[-1] == found[0]["curve"][-1]["epoch"]
    errors = {len(xs) - 1: _around(ys[-1], _interval(found, new, shared))} if whole else {}
    return Series(way, xs, ys, [b.low for b in bands], [b.high for b in bands], way == CEILING, errors, colour=number)  # fmt: skip


def _pace(seed: Mapping[str, Any], full: Mapping[str, Any], unit: str) -> float:
    """As the tables do it: the end of training is its steps at the pace that was timed beside the tuning."""
    ours = arm(seed, "continual")
    return full_seconds(ours, full, unit) / float(full["curve"][-1][unit]) if ours else 1.0


def _interval(found: Sequence[Mapping[str, Any]], new: Sequence[str], shared: bool) -> Interval:
    return mean_interval([by_case(one["dice"], new) for one in found], shared=shared)


def _around(value: float, interval: Interval) -> tuple[float, float]:
    """The interval about a mean over classes that weighs classes, not cases with few of them."""
    return value + interval.low - interval.mean, value + interval.high - interval.mean


def ratios(costs: Costs, where: str) -> Bars:
    """Full training on the same annotations over continual tuning: cases, steps, time, time to its Dice."""
    full = costs.ends
    bars = [_ratio("cases", costs.data, 7)] if costs.data else []
    bars += [_ratio("steps", costs.steps, 5), _ratio("time, to the end", costs.times, 1)]
    reached, seeds = costs.targets, len(costs.pairs)
    if reached:
        fewer = f", in {len(reached)} of {seed_count(seeds)}" if len(reached) < seeds else ""
        bars.append(_ratio("time, to the same Dice", reached, 3, f"{mean(reached):.3g}{fewer}"))
    if len(reached) < seeds:
        missed = [t for t, s in zip(costs.times, costs.reached, strict=True) if s is None]
        never = [t for t, s in zip(full, costs.reached, strict=True) if s is None]
        text = f"not reached in {ranged(never)} s" + (
            f", {len(never)} of {seed_count(seeds)}" if reached else ""
        )
        name = "the same, other seeds" if reached else "time, to the same Dice"
        bars.append(Bar(name, min(missed), text=text, colour=3, open=True))
    outlined = " An outline: at least so much, full training ended before it had that Dice." if len(reached) < seeds else ""  # fmt: skip
    return Bars(
        f"How many times more full training needs: {where}",
        "full training over continual tuning, logarithmic",
        bars,
        f"Means of {seed_count(seeds)}, lines from the lowest to the highest. A step of a head is cheaper than one of a whole network, so time is "
        f"not steps, and neither is it cases.{outlined}",
        log_x=True,
        mark=1.0,
        mark_text="1: equal",
        figure=2,
    )


def _ratio(name: str, values: Sequence[float], colour: int, text: str = "") -> Bar:
    return Bar(name, mean(values), min(values), max(values), text or f"{mean(values):.3g}", colour)
