"""What the benchmark of speed draws: Dice against seconds for both ways, and the ratios, each on its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import mean
from typing import Any

from ctune.bench.plots import Bar, Bars, Lines, Plot, Series
from ctune.bench.result import BenchResult

_FULL = {"rival": "full, same annotations", "ceiling": "full, all annotated"}
_CONTINUAL = {"pyramid": "continual", "text": "continual, text head"}


def plots(result: BenchResult) -> list[Plot]:
    """Dice of the new classes against seconds of each way; how many times less continual tuning needs."""
    unit = "cpu_seconds" if result.device == "cpu" else "seconds"
    seeds: list[Mapping[str, Any]] = [s for n, s in sorted(result.details.items()) if n.startswith("seed ")]  # type: ignore[misc]
    new = list(seeds[0]["continual"]["pyramid"]["steps"])
    return [dice_against_seconds(seeds, new, unit), ratios(seeds, new, unit, data_ratio(result))]


def data_ratio(result: BenchResult) -> float | None:
    """Cases that full training goes through over those that continual tuning does; None for a preset that is not known."""
    # Imported here: with it comes torch, which drawing does not need.
    from ctune.bench.catalogue import Preset
    from ctune.bench.speed import HIPPOCAMPUS, SCALES

    scale = (HIPPOCAMPUS if result.what == "hippocampus" else SCALES).get(Preset(result.preset))
    return scale.cases / scale.revised if scale else None


def dice_against_seconds(seeds: Sequence[Mapping[str, Any]], new: Sequence[str], unit: str) -> Lines:
    """One line an arm of full training over its looks, one point an arm of continual tuning."""
    drawn = []
    for arm, name in _CONTINUAL.items():
        ends = [(s["continual"][arm][unit], _mean_dice(s["continual"][arm]["dice"], new)) for s in seeds]
        drawn.append(_series(name, [ends]))
    for arm, name in _FULL.items():
        looks = [[(row[unit], mean(row["dice"][n] for n in new)) for row in s["full"][arm]["curve"] if "dice" in row]
                 for s in seeds]  # fmt: skip
        drawn.append(_series(name, list(zip(*looks, strict=False)), dashed=arm == "ceiling"))
    band = f" Band: lowest to highest of {len(seeds)} seeds." if len(seeds) > 1 else " One seed."
    return Lines(
        "Dice of the new classes against the time spent",
        "processor seconds" if unit == "cpu_seconds" else "seconds",
        "mean Dice, test cases",
        drawn,
        f"Mean over {', '.join(n.replace('_', ' ') for n in new)}. Full training starts from nothing and looks at the test cases "
        f"at times, which its seconds leave out; continual tuning starts from the registered base.{band}",
        y_limits=(0.0, 1.0),
        log_x=True,
    )


def ratios(
    seeds: Sequence[Mapping[str, Any]], new: Sequence[str], unit: str, data: float | None = None
) -> Bars:
    """Full training on the same annotations over continual tuning: cases, steps, time, time to its Dice."""
    tuned = [s["continual"]["pyramid"] for s in seeds]
    rivals = [s["full"]["rival"] for s in seeds]
    steps = [full["steps"] / sum(ours["steps"].values()) for full, ours in zip(rivals, tuned, strict=True)]
    times = [full["curve"][-1][unit] / ours[unit] for full, ours in zip(rivals, tuned, strict=True)]
    reached = []
    for full, ours in zip(rivals, tuned, strict=True):
        target = _mean_dice(ours["dice"], new)
        looks = [
            row for row in full["curve"] if "dice" in row and mean(row["dice"][n] for n in new) >= target
        ]
        reached.append(looks[0][unit] / ours[unit] if looks else None)
    found = [r for r in reached if r is not None]
    bars = [] if data is None else [Bar("cases", data)]
    bars += [_ratio("steps", steps), _ratio("time, to the end", times)]
    if found:
        text = f"{mean(found):.3g}" + (
            f", in {len(found)} of {len(seeds)} seeds" if len(found) < len(seeds) else ""
        )
        bars.append(_ratio("time, to the same Dice", found, text))
    never = "" if found else " Full training never came to the Dice of continual tuning."
    return Bars(
        "How many times more full training needs",
        "full training over continual tuning",
        bars,
        f"Means of {len(seeds)} seed{'s' if len(seeds) > 1 else ''}, lines from the lowest to the highest. A step of a head is cheaper "
        f"than one of a whole network, so time is not steps, and neither is it cases.{never}",
        mark=1.0,
    )


def _ratio(name: str, values: Sequence[float], text: str = "") -> Bar:
    return Bar(name, mean(values), min(values), max(values), text)


def _series(name: str, points: Sequence[Sequence[tuple[float, float]]], dashed: bool = False) -> Series:
    """points: for each look the (seconds, Dice) of every seed."""
    columns = [list(zip(*look, strict=True)) for look in points]
    xs, ys = ([mean(column[axis]) for column in columns] for axis in (0, 1))
    low, high = ([end(column[1]) for column in columns] for end in (min, max))
    several = len(points) > 1 and len(points[0]) > 1
    return Series(name, xs, ys, low if several else (), high if several else (), dashed)


def _mean_dice(dice: Mapping[str, Mapping[str, float | None]], new: Sequence[str]) -> float:
    known = ([value for value in dice[name].values() if value is not None] for name in new)
    return mean(mean(values) if values else 0.0 for values in known)
