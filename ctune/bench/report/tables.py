"""Tables of benchmarks: what one reads of a result, as values, before any page is written.

A benchmark's chapter says in a few sentences what was found, and shows it by organ or by way. What is compared is computed
here and now from the cases in a result's details, so that a better test speaks of old results too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Any

from ctune.bench.result import BenchResult
from ctune.bench.statistics import Interval

Dice = Mapping[str, Mapping[str, float | None]]
"""{class: {case: Dice}}; None: the organ is absent and was rightly not found."""


@dataclass(frozen=True)
class Table:
    """Rows below `columns`; the first cell of a row is its name. caption: seeds, cases, and what a cell holds."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""


@dataclass(frozen=True)
class Tile:
    """A figure that one wants to see first. interval: its 95 % interval or its range over seeds, in words."""

    value: str
    words: str
    interval: str


@dataclass(frozen=True)
class Chapter:
    """What a benchmark tells. short: sentences for the head of the page; said: verdicts above its own tables."""

    title: str
    short: Sequence[str] = ()
    said: Sequence[str] = ()
    tiles: Sequence[Tile] = ()
    tables: Sequence[Table] = ()


def seeds_of(result: BenchResult) -> list[Any]:
    """The details of every seed, in the order of their numbers."""
    named = [name for name in result.details if name.startswith("seed ")]
    return [result.details[name] for name in sorted(named, key=lambda name: int(name.split()[1]))]


def seed_count(count: int) -> str:
    """
    >>> seed_count(1), seed_count(3)
    ('one seed', '3 seeds')
    """
    return "one seed" if count == 1 else f"{count} seeds"


def values_of(dice: Mapping[str, float | None]) -> list[float]:
    """Dice of the cases where there is something to measure."""
    return [value for value in dice.values() if value is not None]


def mean_dice(dice: Dice, names: Sequence[str]) -> float:
    """Mean over classes of the mean over cases; a class that is not there, or was in no case, counts as 0.

    >>> mean_dice({"aorta": {"a": 0.5, "b": None}}, ["aorta", "liver"])
    0.25
    """
    return mean(mean(values_of(dice.get(name, {})) or [0.0]) for name in names)


def by_case(dice: Dice, names: Sequence[str]) -> list[float]:
    """For each case the mean over the classes that are there; cases with none of them are left out."""
    cases = sorted({case for name in names for case in dice.get(name, {})})
    found = [[v for n in names if (v := dice.get(n, {}).get(case)) is not None] for case in cases]
    return [mean(values) for values in found if values]


def organ(name: str) -> str:
    return name.replace("_", " ")


# Numbers as people read them ------------------------------------------------------------------------------------------


def short(value: float, digits: int = 2) -> str:
    """A share without its leading zero, as Dice is written; 0 stays 0 only when it is exactly that.

    >>> short(0.8512), short(-0.03), short(0.0), short(0.001), short(1.0)
    ('.85', '-.03', '0', '.00', '1.00')
    """
    if value == 0:
        return "0"
    text = f"{value:.{digits}f}"
    return text.replace("0.", ".", 1) if text.lstrip("-").startswith("0.") else text


def spread(values: Sequence[float], digits: int = 2) -> str:
    """Mean, and in brackets lowest to highest of several seeds.

    >>> spread([0.8, 0.9]), spread([0.8]), spread([0.0, 0.0])
    ('.85 (.80 to .90)', '.80', '0')
    """
    if len(values) < 2 or min(values) == max(values):
        return short(mean(values), digits)
    return f"{short(mean(values), digits)} ({short(min(values), digits)} to {short(max(values), digits)})"


def figure(value: float) -> str:
    """A number of any size with about three digits.

    >>> figure(1540.2), figure(25.28), figure(0.0), figure(0.5957), figure(200)
    ('1,540', '25.3', '0', '0.596', '200')
    """
    if abs(value) >= 100 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:.3g}"


def ranged(values: Sequence[float]) -> str:
    """As ``spread``, for numbers that are no shares.

    >>> ranged([20.0, 30.0]), ranged([12, 12])
    ('25 (20 to 30)', '12')
    """
    if len(values) < 2 or min(values) == max(values):
        return figure(mean(values))
    return f"{figure(mean(values))} ({figure(min(values))} to {figure(max(values))})"


def signed(value: float, digits: int = 2) -> str:
    """
    >>> signed(0.11), signed(-0.021, 3)
    ('+.11', '-.021')
    """
    return f"+{short(value, digits)}" if value > 0 else short(value, digits)


def ends(interval: Interval, digits: int = 2) -> str:
    """The ends of an interval.

    >>> ends(Interval(0.11, 0.04, 0.23, 150, 3))
    '[.04, .23]'
    """
    return f"[{short(interval.low, digits)}, {short(interval.high, digits)}]"


def difference(found: Mapping[str, Any], digits: int = 3) -> str:
    """One of ``statistics.comparisons``: mean, interval, and p by Holm."""
    low, high = short(found["low"], digits), short(found["high"], digits)
    return f"{signed(found['mean'], digits)} [{low}, {high}], {p_value(found['p_holm'])}"


def p_value(p: float) -> str:
    """
    >>> p_value(0.02), p_value(1e-19), p_value(0.5189)
    ('p .020', 'p < .001', 'p .52')
    """
    if p < 0.001:
        return "p < .001"
    return f"p {short(p, 3 if p < 0.1 else 2)}"


def each(values: Sequence[float | None], instead: Sequence[str]) -> str:
    """One figure a seed; `instead`: what is said of a seed that has none.

    >>> each([2.5, None], ["never", "not in 40 s"])
    '2.5; not in 40 s'
    """
    return "; ".join(w if value is None else figure(value) for value, w in zip(values, instead, strict=True))
