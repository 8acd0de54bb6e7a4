"""What plots share: axes, lines with their names at the end, and SVG text without global state of matplotlib or dates.

Ink is the page's own (``currentColor``) and colours are CSS variables, so one drawing serves light, dark and paper.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ctune.report.palette import ON_WHITE, colour, marker

INK = "#010203"
"""Stands for the page's text colour while matplotlib draws."""
WIDTH, LABELS = 7.6, 1.75
"""Inches: of a plot, and of that the room for names at its right."""
_DASHES = (0, (4, 1.8))


@dataclass(frozen=True)
class Line:
    """One line to draw: xs, ys, number of its class (0: the mean, in ink), label, dashed."""

    xs: Sequence[float]
    ys: Sequence[float]
    number: int
    label: str
    dashed: bool = False


def new_axes(
    height: float, bottom: float = 0.3, left: float = 0.095, right: float = LABELS / WIDTH
) -> tuple[Any, Any]:
    """A figure and its axes. height, bottom: inches; left, right: parts of the width that are kept for labels."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, height))
    figure.patch.set_alpha(0)
    axes = figure.add_axes((left, bottom / height, 1 - left - right, 1 - (bottom + 0.12) / height))
    axes.patch.set_alpha(0)
    axes.tick_params(colors=INK, labelsize=9, length=0, pad=5)
    axes.grid(axis="y", color=INK, alpha=0.13, linewidth=0.7)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(INK)
    axes.spines["bottom"].set_alpha(0.4)
    for label in (axes.xaxis.label, axes.yaxis.label):
        label.set_color(INK)
        label.set_fontsize(9)
    return figure, axes


def draw(axes: Any, lines: Sequence[Line]) -> None:
    """The lines, and at the end of each its number and name, pushed apart where they would overlap."""
    for line in lines:
        mean = line.number == 0
        axes.plot(
            line.xs, line.ys, color=INK if mean else colour(line.number), linewidth=2.4 if mean else 1.7,
            marker="o" if mean else marker(line.number), markersize=6 if len(line.xs) < 25 else 0,
            linestyle=_DASHES if line.dashed else "-", clip_on=False,
        )  # fmt: skip
    low, high = axes.get_ylim()
    height = axes.get_position().height * axes.figure.get_size_inches()[1] * 72
    places = spread([float(line.ys[-1]) for line in lines], 12.0 * (high - low) / height, low, high)
    for line, place in zip(lines, places, strict=True):
        look = INK if line.number == 0 else colour(line.number)
        label = f"{line.number}  {line.label}" if line.number else line.label
        axes.annotate(
            label, xy=(line.xs[-1], line.ys[-1]), xytext=(1.045, (place - low) / (high - low)),
            textcoords="axes fraction", fontsize=9, color=INK, va="center", annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": look, "linewidth": 0.9, "shrinkA": 2, "shrinkB": 5, "relpos": (0, 0.5)},
        )  # fmt: skip


def spread(values: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Places for labels, near `values` in the same order, at least `gap` apart and within low..high where they fit.

    >>> spread([0.5, 0.5], 0.1, 0.0, 1.0)
    [0.55, 0.45]
    """
    order = sorted(range(len(values)), key=lambda i: (values[i], -i))
    blocks: list[list[int]] = []
    centres: list[float] = []
    for i in order:
        blocks.append([i])
        centres.append(values[i])
        # Labels that touch become one block around their common middle, as long as blocks touch.
        while len(blocks) > 1 and centres[-1] - centres[-2] < gap * (len(blocks[-1]) + len(blocks[-2])) / 2:
            blocks[-2:] = [blocks[-2] + blocks[-1]]
            centres[-2:] = [sum(values[j] for j in blocks[-1]) / len(blocks[-1])]
    places = [0.0] * len(values)
    for block, centre in zip(blocks, centres, strict=True):
        for place, i in enumerate(block):
            places[i] = round(centre + gap * (place - (len(block) - 1) / 2), 6)
    bottom = low
    for i in order:
        places[i] = bottom = max(places[i], bottom)
        bottom += gap
    top = high
    for i in reversed(order):
        places[i] = top = min(places[i], top)
        top -= gap
    return places


def to_svg(figure: Any, name: str, about: str) -> str:
    """The figure as an ``<svg>`` for a page; `name` keeps its inner names apart from other drawings', `about` is read aloud."""
    import matplotlib as mpl
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    with mpl.rc_context({"svg.hashsalt": "ctune", "svg.fonttype": "none", "font.family": "sans-serif"}):
        out = io.StringIO()
        FigureCanvasSVG(figure).print_svg(out)
    text = out.getvalue()
    # The block of metadata holds the time of drawing.
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    # Namespaces and prefixes belong to files of their own; inside a page they are noise that looks like links.
    text = re.sub(r' (xmlns(:xlink)?|version)="[^"]*"', "", text).replace("xlink:href", "href")
    # Several drawings share one page: what they refer to inside themselves must not be found in another.
    text = re.sub(r'(\bid="|href="#|url\(#)', lambda found: f"{found[1]}{name}-", text)
    return _themed(text).replace("<svg ", f'<svg role="img" aria-label="{about}" ', 1)


def _themed(text: str) -> str:
    themes: Mapping[str, str] = {
        INK: "currentColor", **{c: f"var(--class-{i})" for i, c in enumerate(ON_WHITE, start=1)},
    }  # fmt: skip
    return re.sub("|".join(themes), lambda found: themes[found[0]], text)
