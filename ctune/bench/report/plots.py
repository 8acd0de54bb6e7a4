"""Plots of benchmarks: what is to be drawn, as values, and the drawing.

Names of lines stand in a legend beside them, never at the end of a leader that could be taken for a line; every axis ends at a number.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ctune.report.drawing import INK, WIDTH, new_axes, to_svg
from ctune.report.palette import colour, marker

_DASHES = (0, (4, 1.8))
_LEGEND = 2.2
"""Inches that a legend takes at the right."""


@dataclass(frozen=True)
class Series:
    """One line of points. low, high: ends of the interval at each point, drawn as a band; dashed: what is only compared.

    errors: {number of a point: ends of its interval}, drawn as a bar at the point; x_errors: the same along the other axis.
    """

    name: str
    xs: Sequence[float]
    ys: Sequence[float]
    low: Sequence[float] = ()
    high: Sequence[float] = ()
    dashed: bool = False
    errors: Mapping[int, tuple[float, float]] = field(default_factory=dict)
    x_errors: Mapping[int, tuple[float, float]] = field(default_factory=dict)
    colour: int | None = None


@dataclass(frozen=True)
class Lines:
    """Lines over a common axis. caption: what the bands are and over how many; log_x: a logarithmic axis below.

    figure: its number among those at the head of the page, 0: it stands in its chapter. zero: a line where nothing changes.
    """

    title: str
    x_label: str
    y_label: str
    series: Sequence[Series]
    caption: str = ""
    y_limits: tuple[float, float] | None = None
    log_x: bool = False
    x_limits: tuple[float, float] | None = None
    figure: int = 0
    zero: bool = False


@dataclass(frozen=True)
class Bar:
    """One bar from 0 to `value`. low, high: ends of its whisker; text: what stands at its end, the value otherwise;
    colour: its number, by default that of its row; open: only its outline, for what is at least so much."""

    name: str
    value: float
    low: float | None = None
    high: float | None = None
    text: str = ""
    colour: int | None = None
    open: bool = False


@dataclass(frozen=True)
class Bars:
    """Bars below each other over a common axis, from the first downwards. mark: a value that a line is drawn at, where the bars
    of a logarithmic axis begin; mark_text: what it means. figure: as of ``Lines``."""

    title: str
    x_label: str
    bars: Sequence[Bar]
    caption: str = ""
    log_x: bool = False
    mark: float | None = None
    mark_text: str = ""
    x_limits: tuple[float, float] | None = None
    figure: int = 0


Plot = Lines | Bars


def draw_plot(plot: Plot, name: str) -> str:
    """The plot as an ``<svg>``; `name` keeps it apart from others on a page. The same values give the same bytes."""
    return _lines(plot, name) if isinstance(plot, Lines) else _bars(plot, name)


def with_common_axes(plots: Sequence[Plot]) -> list[Plot]:
    """The same plots, those with the same label of an axis over the same part of it, so that panels can be compared."""
    out: list[Plot] = []
    for plot in plots:
        like = [other for other in plots if type(other) is type(plot) and other.x_label == plot.x_label]
        changed: Plot = replace(plot, x_limits=_reach(v for other in like for v in _across(other)))
        if isinstance(changed, Lines) and changed.y_limits is None:
            same = [other for other in like if isinstance(other, Lines) and other.y_label == changed.y_label]
            changed = replace(changed, y_limits=_reach(v for other in same for v in _up(other)))
        out.append(changed)
    return out


def _reach(values: Iterable[float]) -> tuple[float, float]:
    known = list(values)
    return min(known), max(known)


def _across(plot: Plot) -> list[float]:
    """Everything that the axis below must hold."""
    limits = plot.x_limits or ()
    if isinstance(plot, Lines):
        points = [x for one in plot.series for x in one.xs]
        return [*points, *limits, *(e for one in plot.series for ends in one.x_errors.values() for e in ends)]
    ends = [end for bar in plot.bars for end in (bar.value, bar.low, bar.high) if end is not None]
    begin = plot.mark if plot.mark is not None else (min(ends) if plot.log_x else 0.0)
    return [*ends, begin, *limits]


def _up(plot: Lines) -> list[float]:
    """Everything that the axis at the left must hold."""
    errors = [e for one in plot.series for ends in one.errors.values() for e in ends]
    return [
        *(v for s in plot.series for v in (*s.ys, *s.low, *s.high)),
        *errors,
        *([0.0] if plot.zero else []),
    ]


def _lines(plot: Lines, name: str) -> str:
    figure, axes = new_axes(3.3, bottom=0.52, left=0.085, right=_LEGEND / WIDTH)
    axes.set_xlabel(plot.x_label)
    axes.set_ylabel(plot.y_label)
    ticks = _ticks(axes, "x", _across(plot), plot.log_x)
    _ticks(axes, "y", plot.y_limits or _up(plot), False)
    if plot.zero:
        axes.plot((ticks[0], ticks[-1]), (0, 0), color=INK, linewidth=0.9, alpha=0.5)
    order = sorted(range(len(plot.series)), key=lambda i: -plot.series[i].ys[-1])
    handles: dict[int, Any] = {}
    for number, one in enumerate(plot.series):
        look = colour(one.colour or number + 1)
        if one.low and one.high:
            axes.fill_between(one.xs, one.low, one.high, color=look, alpha=0.17, linewidth=0)
        for i, ends in one.errors.items():
            axes.plot((one.xs[i],) * 2, ends, color=look, linewidth=1.4, marker="_", markersize=6)
        for i, ends in one.x_errors.items():
            axes.plot(ends, (one.ys[i],) * 2, color=look, linewidth=1.4, marker="|", markersize=6)
        (handles[number],) = axes.plot(
            one.xs, one.ys, color=look, linewidth=1.7, marker=marker(one.colour or number + 1),
            markersize=5.5 if len(one.xs) < 25 else 0, linestyle="" if len(one.xs) == 1 else _DASHES if one.dashed else "-", clip_on=False,
            label=one.name,
        )  # fmt: skip
    axes.legend(
        [handles[i] for i in order], [plot.series[i].name for i in order], loc="center left", bbox_to_anchor=(1.01, 0.5),
        frameon=False, fontsize=9, labelcolor=INK, handlelength=2.6, labelspacing=0.75, borderaxespad=0.6,
    )  # fmt: skip
    return to_svg(figure, name, plot.title)


def _bars(plot: Bars, name: str) -> str:
    rows, texts = len(plot.bars), [bar.text or _short(bar.value) for bar in plot.bars]
    right = min(0.36, 0.035 + 0.0108 * max(map(len, texts)))
    figure, axes = new_axes(0.75 + 0.3 * rows, bottom=0.52, left=0.31, right=right)
    axes.grid(axis="y", visible=False)
    axes.grid(axis="x", color=INK, alpha=0.13, linewidth=0.7)
    axes.set_xlabel(plot.x_label)
    ticks = _ticks(axes, "x", _across(plot), plot.log_x)
    begin = 0.0 if not plot.log_x else ticks[0] if plot.mark is None else plot.mark
    if plot.mark is not None:
        axes.axvline(plot.mark, color=INK, linewidth=0.9, alpha=0.6)
        axes.annotate(
            plot.mark_text, xy=(plot.mark, -0.5), xytext=(0, 1), textcoords="offset points", fontsize=8,
            color=INK, alpha=0.75, ha="center", va="bottom", annotation_clip=False,
        )  # fmt: skip
    for row, (bar, text) in enumerate(zip(plot.bars, texts, strict=True)):
        look = colour(bar.colour or row + 1)
        inside = {"facecolor": "none", "edgecolor": look, "linewidth": 1.2, "linestyle": "--"}
        filled = {"color": look, "linewidth": 0}
        axes.barh(row, bar.value - begin, left=begin, height=0.6, **(inside if bar.open else filled))
        low, high = (bar.value if end is None else end for end in (bar.low, bar.high))
        if high > low:
            axes.plot(
                (low, high),
                (row, row),
                color=INK,
                linewidth=1.1,
                solid_capstyle="butt",
                marker="|",
                markersize=5,
            )
        axes.annotate(
            text, xy=(max(high, bar.value, begin), row), xytext=(6, 0), textcoords="offset points", fontsize=9, color=INK,
            va="center", annotation_clip=False,
        )  # fmt: skip
    axes.set_yticks(range(rows), [bar.name for bar in plot.bars])
    axes.set_ylim(rows - 0.5, -0.5)
    return to_svg(figure, name, plot.title)


def _short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _ticks(axes: Any, side: str, values: Iterable[float], log: bool) -> list[float]:
    """Set an axis so that it holds `values` and begins and ends at a number that stands there; the numbers."""
    low, high = _reach(values)
    ticks = log_ticks(low, high) if log and low > 0 else even_ticks(low, high)
    if log and low > 0:
        getattr(axes, f"set_{side}scale")("log")
    from matplotlib.ticker import NullLocator

    of = getattr(axes, f"{side}axis")
    of.set_minor_locator(NullLocator())
    of.set_ticks(ticks, [_plain(tick) for tick in ticks])
    getattr(axes, f"set_{side}lim")(ticks[0], ticks[-1])
    return ticks


def even_ticks(low: float, high: float) -> list[float]:
    """Five or so round numbers around low..high.

    >>> even_ticks(0.0, 1.0), even_ticks(0.62, 0.79)
    ([0.0, 0.2, 0.4, 0.6, 0.8, 1.0], [0.6, 0.65, 0.7, 0.75, 0.8])
    """
    span = (high - low) or abs(high) or 1.0
    rough = span / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(f * power for f in (1, 2, 5, 10) if f * power >= rough * 0.75)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    last = max(last, first + 1)
    return [round(i * step, 10) for i in range(first, last + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """1, 2, 5, 10 and so on around low..high; over more than three decades 1, 10, 100.

    >>> log_ticks(1.0, 61.0), log_ticks(3.0, 9000.0)
    ([1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0], [1.0, 10.0, 100.0, 1000.0, 10000.0])
    """
    first, last = math.floor(math.log10(low) + 1e-9), math.ceil(math.log10(high) - 1e-9)
    factors = (1.0,) if math.log10(high / low) > 3 else (1.0, 2.0, 5.0)
    every = [round(f * 10.0**p, 10) for p in range(first, last + 1) for f in factors]
    below, above = max(t for t in every if t <= low * 1.000001), min(t for t in every if t >= high * 0.999999)
    found = [t for t in every if below <= t <= above]
    return found if len(found) > 1 else [below, below * 10]


def _plain(tick: float) -> str:
    return f"{tick:,.0f}" if abs(tick) >= 1000 else f"{tick:g}"
