"""Plots of benchmarks: what is to be drawn, as values, and the drawing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ctune.report.drawing import INK, Line, draw, new_axes, to_svg
from ctune.report.palette import colour


@dataclass(frozen=True)
class Series:
    """One line of points. low, high: ends of the interval at each point, drawn as a band; dashed: what is only compared."""

    name: str
    xs: Sequence[float]
    ys: Sequence[float]
    low: Sequence[float] = ()
    high: Sequence[float] = ()
    dashed: bool = False


@dataclass(frozen=True)
class Lines:
    """Lines over a common axis. caption: what the bands are and over how many; log_x: a logarithmic axis below."""

    title: str
    x_label: str
    y_label: str
    series: Sequence[Series]
    caption: str = ""
    y_limits: tuple[float, float] | None = None
    log_x: bool = False


@dataclass(frozen=True)
class Bar:
    """One bar from 0 to `value`. low, high: ends of its whisker; text: what stands at its end, the value otherwise;
    colour: its number, by default that of its row."""

    name: str
    value: float
    low: float | None = None
    high: float | None = None
    text: str = ""
    colour: int | None = None


@dataclass(frozen=True)
class Bars:
    """Bars below each other over a common axis, from the first downwards. mark: a value that a line is drawn at."""

    title: str
    x_label: str
    bars: Sequence[Bar]
    caption: str = ""
    log_x: bool = False
    mark: float | None = None


Plot = Lines | Bars


def draw_plot(plot: Plot, name: str) -> str:
    """The plot as an ``<svg>``; `name` keeps it apart from others on a page. The same values give the same bytes."""
    return _lines(plot, name) if isinstance(plot, Lines) else _bars(plot, name)


def _lines(plot: Lines, name: str) -> str:
    figure, axes = new_axes(3.4, bottom=0.5)
    axes.set_xlabel(plot.x_label)
    axes.set_ylabel(plot.y_label)
    if plot.log_x:
        _logarithmic(axes, [x for one in plot.series for x in one.xs])
    for number, one in enumerate(plot.series, start=1):
        if one.low and one.high:
            axes.fill_between(one.xs, one.low, one.high, color=colour(number), alpha=0.18, linewidth=0)
    lines = [Line(s.xs, s.ys, number, s.name, s.dashed) for number, s in enumerate(plot.series, start=1)]
    tops = [value for s in plot.series for value in (*s.ys, *s.high)]
    lows = [value for s in plot.series for value in (*s.ys, *s.low)]
    reach = (max(tops) - min(lows)) or 1.0
    axes.set_ylim(plot.y_limits or (min(lows) - 0.05 * reach, max(tops) + 0.05 * reach))
    draw(axes, lines)
    return to_svg(figure, name, plot.title)


def _bars(plot: Bars, name: str) -> str:
    rows = len(plot.bars)
    figure, axes = new_axes(0.55 + 0.34 * rows, bottom=0.5, left=0.31, right=0.09)
    axes.grid(axis="y", visible=False)
    axes.grid(axis="x", color=INK, alpha=0.13, linewidth=0.7)
    axes.set_xlabel(plot.x_label)
    if plot.log_x:
        _logarithmic(axes, [bar.value for bar in plot.bars])
    if plot.mark is not None:
        axes.axvline(plot.mark, color=INK, linewidth=0.9, alpha=0.6)
    for row, bar in enumerate(plot.bars):
        axes.barh(row, bar.value, height=0.62, color=colour(bar.colour or row + 1), linewidth=0)
        low, high = (bar.value if end is None else end for end in (bar.low, bar.high))
        if high > low:
            axes.plot((low, high), (row, row), color=INK, linewidth=1.1, solid_capstyle="butt")
        axes.annotate(
            bar.text or _short(bar.value), xy=(max(high, bar.value, 0.0), row), xytext=(5, 0), textcoords="offset points",
            fontsize=9, color=INK, va="center", annotation_clip=False,
        )  # fmt: skip
    axes.set_yticks(range(rows), [bar.name for bar in plot.bars])
    axes.set_ylim(rows - 0.5, -0.5)
    return to_svg(figure, name, plot.title)


def _short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _logarithmic(axes: Any, values: Sequence[float]) -> None:
    """An axis with its numbers as people write them: 1, 2, 5, 10, and over many decades 1, 10, 100."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    axes.set_xscale("log")
    decades = math.log10(max(values) / min(values)) if values and min(values) > 0 else 1.0
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0,) if decades > 3 else (1.0, 2.0, 5.0)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
