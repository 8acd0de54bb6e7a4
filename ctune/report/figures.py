"""The report's plots as SVG text: no global state of matplotlib, no dates, the same numbers give the same bytes.

Ink is the page's own (``currentColor``) and classes are CSS variables, so one drawing serves light, dark and paper. Lines
are told apart by their number and name at the end, marker and dashes; colour comes on top.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ctune.report.data import ReportData, RoundSummary
from ctune.report.palette import ON_WHITE, colour, marker

_INK = "#010203"
"""Stands for the page's text colour while matplotlib draws."""
_WIDTH, _LABELS = 7.6, 1.75
"""Inches: of a plot, and of that the room for names at its right."""
_DASHES = (0, (4, 1.8))


@dataclass(frozen=True)
class _Line:
    """One line to draw: xs, ys, number of its class (0: the mean, in ink), label, dashed."""

    xs: Sequence[float]
    ys: Sequence[float]
    number: int
    label: str
    dashed: bool = False


def dice_by_round(data: ReportData) -> str:
    """Mean test Dice of each class before the first round and after each; the base's classes solid, new ones dashed."""
    lines = []
    for name in data.classes:
        points = _measured(data, name)
        if points:
            xs, ys = zip(*points, strict=True)
            lines.append(_Line(xs, ys, data.number(name), _words(name), name not in data.base_classes))
    figure, axes = _axes(3.7)
    axes.set_ylim(0, 1.02)
    _stages(axes, data)
    axes.set_ylabel("mean Dice, test cases")
    _draw(axes, lines)
    return _svg(figure, "dice", "Mean Dice on the test cases by class and round")


def forgetting(data: ReportData) -> str:
    """Change of mean Dice of the base's classes since each was first measured: each thin, their mean thick."""
    lines = []
    for name in data.base_classes:
        points = _measured(data, name)
        if points:
            xs, ys = zip(*points, strict=True)
            lines.append(_Line(xs, [y - ys[0] for y in ys], data.number(name), _words(name)))
    shown = [line for line in lines if max(map(abs, line.ys)) >= 0.005]
    by_stage: dict[float, list[float]] = {}
    for line in lines:
        for x, y in zip(line.xs, line.ys, strict=True):
            by_stage.setdefault(x, []).append(y)
    if lines:
        stages = sorted(by_stage)
        mean = [sum(by_stage[x]) / len(by_stage[x]) for x in stages]
        shown.append(_Line(stages, mean, 0, "mean" if shown else f"all {len(lines)}, and mean"))
    figure, axes = _axes(2.4)
    reach = 1.25 * max([0.08, *(abs(y) for line in lines for y in line.ys)])
    axes.set_ylim(-reach, reach)
    _stages(axes, data)
    axes.axhline(0, color=_INK, linewidth=0.7, alpha=0.5)
    axes.set_ylabel("change of mean Dice")
    _draw(axes, shown)
    return _svg(figure, "forgetting", "Change of mean Dice of the base's classes by round")


def tuning_loss(data: ReportData, report: RoundSummary) -> str:
    """Mean loss of each epoch while the heads of a round were tuned."""
    from matplotlib.ticker import MaxNLocator

    lines = [
        _Line(
            range(1, len(losses) + 1), losses, data.number(name) if name in data.classes else 0, _words(name)
        )
        for name, losses in report.losses.items()
        if losses
    ]
    figure, axes = _axes(2.6, bottom=0.5)
    axes.set_ylim(0, 1.08 * max((max(line.ys) for line in lines), default=1.0))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
    axes.set_xlabel("epoch")
    axes.set_ylabel("Dice + BCE loss")
    _draw(axes, lines)
    epochs = max((len(line.ys) for line in lines), default=1)
    axes.set_xlim(1 - 0.02 * epochs, epochs + 0.02 * epochs)
    return _svg(figure, f"loss-{report.number}", f"Loss of each head by epoch, round {report.number}")


def _measured(data: ReportData, name: str) -> list[tuple[float, float]]:
    """(stage, mean Dice) where a class was measured."""
    found = ((i, s[name].dice) for i, s in enumerate(data.evaluations) if name in s)
    return [(i, dice) for i, dice in found if dice is not None]


def _words(name: str) -> str:
    return name.replace("_", " ")


def _axes(height: float, bottom: float = 0.3) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(_WIDTH, height))
    figure.patch.set_alpha(0)
    axes = figure.add_axes((0.095, bottom / height, 0.905 - _LABELS / _WIDTH, 1 - (bottom + 0.12) / height))
    axes.patch.set_alpha(0)
    axes.tick_params(colors=_INK, labelsize=9, length=0, pad=5)
    axes.grid(axis="y", color=_INK, alpha=0.13, linewidth=0.7)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(_INK)
    axes.spines["bottom"].set_alpha(0.4)
    for label in (axes.xaxis.label, axes.yaxis.label):
        label.set_color(_INK)
        label.set_fontsize(9)
    return figure, axes


def _stages(axes: Any, data: ReportData) -> None:
    last = len(data.stage_names) - 1
    axes.set_xticks(range(last + 1), data.stage_names)
    axes.set_xlim(-0.08 * max(last, 1), last + 0.04 * max(last, 1))


def _draw(axes: Any, lines: Sequence[_Line]) -> None:
    """The lines, and at the end of each its number and name, pushed apart where they would overlap."""
    for line in lines:
        mean = line.number == 0
        axes.plot(
            line.xs, line.ys, color=_INK if mean else colour(line.number), linewidth=2.4 if mean else 1.7,
            marker="o" if mean else marker(line.number), markersize=6 if len(line.xs) < 25 else 0,
            linestyle=_DASHES if line.dashed else "-", clip_on=False,
        )  # fmt: skip
    low, high = axes.get_ylim()
    height = axes.get_position().height * axes.figure.get_size_inches()[1] * 72
    places = spread([float(line.ys[-1]) for line in lines], 12.0 * (high - low) / height, low, high)
    for line, place in zip(lines, places, strict=True):
        look = _INK if line.number == 0 else colour(line.number)
        label = f"{line.number}  {line.label}" if line.number else line.label
        axes.annotate(
            label, xy=(line.xs[-1], line.ys[-1]), xytext=(1.045, (place - low) / (high - low)),
            textcoords="axes fraction", fontsize=9, color=_INK, va="center", annotation_clip=False,
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


def _svg(figure: Any, name: str, about: str) -> str:
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
        _INK: "currentColor", **{c: f"var(--class-{i})" for i, c in enumerate(ON_WHITE, start=1)},
    }  # fmt: skip
    return re.sub("|".join(themes), lambda found: themes[found[0]], text)
