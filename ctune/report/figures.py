"""The report's plots as SVG text: no global state of matplotlib, no dates, the same numbers give the same bytes.

Ink is the page's own (``currentColor``) and classes are CSS variables, so one drawing serves light, dark and paper. Lines
are told apart by their number and name at the end, marker and dashes; colour comes on top.
"""

from __future__ import annotations

from typing import Any

from ctune.report.data import ReportData, RoundSummary
from ctune.report.drawing import INK, Line, draw, new_axes, to_svg


def dice_by_round(data: ReportData) -> str:
    """Mean test Dice of each class before the first round and after each; the base's classes solid, new ones dashed."""
    lines = []
    for name in data.classes:
        points = _measured(data, name)
        if points:
            xs, ys = zip(*points, strict=True)
            lines.append(Line(xs, ys, data.number(name), _words(name), name not in data.base_classes))
    figure, axes = new_axes(3.7)
    axes.set_ylim(0, 1.02)
    _stages(axes, data)
    axes.set_ylabel("mean Dice, test cases")
    draw(axes, lines)
    return to_svg(figure, "dice", "Mean Dice on the test cases by class and round")


def forgetting(data: ReportData) -> str:
    """Change of mean Dice of the base's classes since each was first measured: each thin, their mean thick."""
    lines = []
    for name in data.base_classes:
        points = _measured(data, name)
        if points:
            xs, ys = zip(*points, strict=True)
            lines.append(Line(xs, [y - ys[0] for y in ys], data.number(name), _words(name)))
    shown = [line for line in lines if max(map(abs, line.ys)) >= 0.005]
    by_stage: dict[float, list[float]] = {}
    for line in lines:
        for x, y in zip(line.xs, line.ys, strict=True):
            by_stage.setdefault(x, []).append(y)
    if lines:
        stages = sorted(by_stage)
        mean = [sum(by_stage[x]) / len(by_stage[x]) for x in stages]
        shown.append(Line(stages, mean, 0, "mean" if shown else f"all {len(lines)}, and mean"))
    figure, axes = new_axes(2.4)
    reach = 1.25 * max([0.08, *(abs(y) for line in lines for y in line.ys)])
    axes.set_ylim(-reach, reach)
    _stages(axes, data)
    axes.axhline(0, color=INK, linewidth=0.7, alpha=0.5)
    axes.set_ylabel("change of mean Dice")
    draw(axes, shown)
    return to_svg(figure, "forgetting", "Change of mean Dice of the base's classes by round")


def tuning_loss(data: ReportData, report: RoundSummary) -> str:
    """Mean loss of each epoch while the heads of a round were tuned."""
    from matplotlib.ticker import MaxNLocator

    lines = [
        Line(
            range(1, len(losses) + 1), losses, data.number(name) if name in data.classes else 0, _words(name)
        )
        for name, losses in report.losses.items()
        if losses
    ]
    figure, axes = new_axes(2.6, bottom=0.5)
    axes.set_ylim(0, 1.08 * max((max(line.ys) for line in lines), default=1.0))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
    axes.set_xlabel("epoch")
    axes.set_ylabel("Dice + BCE loss")
    draw(axes, lines)
    epochs = max((len(line.ys) for line in lines), default=1)
    axes.set_xlim(1 - 0.02 * epochs, epochs + 0.02 * epochs)
    return to_svg(figure, f"loss-{report.number}", f"Loss of each head by epoch, round {report.number}")


def _measured(data: ReportData, name: str) -> list[tuple[float, float]]:
    """(stage, mean Dice) where a class was measured."""
    found = ((i, s[name].dice) for i, s in enumerate(data.evaluations) if name in s)
    return [(i, dice) for i, dice in found if dice is not None]


def _words(name: str) -> str:
    return name.replace("_", " ")


def _stages(axes: Any, data: ReportData) -> None:
    last = len(data.stage_names) - 1
    axes.set_xticks(range(last + 1), data.stage_names)
    axes.set_xlim(-0.08 * max(last, 1), last + 0.04 * max(last, 1))
