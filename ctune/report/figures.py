"""The report's plots as SVG text: no global state of matplotlib, no dates, the same numbers give the same bytes.

Colours are those of Okabe and Ito (2008), told apart without colour vision; markers and dashes tell them apart as well.
Lines and text are mid-grey where they must be seen on a light and on a dark page.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

from ctune.report.collect import ReportData, RoundReport

COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#8C8C00", "#7A5195", "#999999")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">")
_INK = "#7f7f7f"


def style(names: tuple[str, ...]) -> Mapping[str, tuple[str, str]]:
    """{class: (colour, marker)}; a tenth class begins again."""
    return {n: (COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)]) for i, n in enumerate(names)}


def dice_by_round(data: ReportData) -> str:
    """Mean test Dice of each class before the first round and after each; the base's classes solid, new ones dashed."""
    figure, axes = _axes(7.2, 4.0)
    looks = style(data.classes)
    for name in data.classes:
        points = [
            (i, s[name].dice) for i, s in enumerate(data.stages) if name in s and s[name].dice is not None
        ]
        colour, marker = looks[name]
        axes.plot(
            [x for x, _ in points], [y for _, y in points], color=colour, marker=marker, markersize=6, linewidth=1.8,
            linestyle="-" if name in data.base_classes else (0, (4, 2)), label=name.replace("_", " "),
        )  # fmt: skip
    axes.set_xticks(range(len(data.stages)), data.stage_names)
    axes.set_ylim(0, 1)
    axes.set_ylabel("mean Dice, test cases")
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, labelcolor=_INK, fontsize=9)
    return _svg(figure)


def forgetting(data: ReportData) -> str:
    """Change of the base's classes since the base was trained, by round: zero is what was promised."""
    figure, axes = _axes(7.2, 2.6)
    looks = style(data.classes)
    for name in data.base_classes:
        first = data.stages[0][name].dice
        change = [(s[name].dice or 0.0) - (first or 0.0) if name in s else 0.0 for s in data.stages]
        axes.plot(
            range(len(change)),
            change,
            color=looks[name][0],
            marker=looks[name][1],
            label=name.replace("_", " "),
        )
    axes.axhline(0, color=_INK, linewidth=0.8)
    axes.set_xticks(range(len(data.stages)), data.stage_names)
    lowest = min((float(min(line.get_ydata())) for line in axes.get_lines()), default=0.0)
    axes.set_ylim(min(-0.1, 1.2 * float(lowest)), 0.1)
    axes.set_ylabel("change of Dice")
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, labelcolor=_INK, fontsize=9)
    return _svg(figure)


def tuning_loss(data: ReportData, report: RoundReport) -> str:
    """Loss of each head over the epochs of its tuning."""
    figure, axes = _axes(7.2, 2.6)
    looks = style(data.classes)
    for name, losses in report.losses.items():
        colour, marker = looks.get(name, (COLOURS[-1], "o"))
        axes.plot(
            range(1, len(losses) + 1),
            losses,
            color=colour,
            marker=marker,
            markersize=4,
            label=name.replace("_", " "),
        )
    axes.set_xlabel("epoch")
    axes.set_ylabel("Dice + BCE loss")
    axes.set_ylim(bottom=0)
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, labelcolor=_INK, fontsize=9)
    return _svg(figure)


def _axes(width: float, height: float) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    figure.patch.set_alpha(0)
    axes = figure.add_subplot()
    axes.patch.set_alpha(0)
    axes.tick_params(colors=_INK, labelsize=9)
    axes.grid(axis="y", color=_INK, alpha=0.25, linewidth=0.6)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(_INK)
    for label in (axes.xaxis.label, axes.yaxis.label):
        label.set_color(_INK)
        label.set_fontsize(9)
    return figure, axes


def _svg(figure: Any) -> str:
    import matplotlib as mpl
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    with mpl.rc_context({"svg.hashsalt": "ctune", "svg.fonttype": "none", "font.family": "sans-serif"}):
        out = io.StringIO()
        FigureCanvasSVG(figure).print_svg(out, metadata={"Date": None, "Creator": None})
    text = out.getvalue()
    return text[text.index("<svg") :]
