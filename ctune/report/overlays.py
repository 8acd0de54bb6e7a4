"""Pictures of a case as PNG data addresses: CT, contours of prediction and truth, and where to look.

Truth is filled and solid, prediction is dashed; each class has its colour and, at its thickest place, its number.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy import ndimage

from ctune.report.palette import ON_BLACK
from ctune.report.views import Panel, Plane, PlaneMask

SOFT_TISSUE_HU = (-160.0, 240.0)
"""Level 40, width 400 HU."""
_HEIGHT_PX = 520
_DPI = 100


def picture(panel: Panel, numbers: Mapping[str, int]) -> str:
    """``data:image/png;base64,...`` of a panel in its true proportions. numbers: {class: number from 1}."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    height, width = panel.size_mm
    inches = _HEIGHT_PX / _DPI
    figure = Figure(figsize=(inches * width / height, inches), dpi=_DPI, facecolor="black")
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    extent = (0.0, width, height, 0.0)
    low, high = _window(panel.ct)
    axes.imshow(
        panel.ct, cmap="gray", vmin=low, vmax=high, extent=extent, interpolation="bicubic", aspect="auto"
    )
    if panel.attention is None:
        _masks(axes, panel, numbers, extent)
    else:
        heat = np.clip(panel.attention, 0, 1)
        look: dict[str, Any] = {"extent": extent, "interpolation": "bilinear", "aspect": "auto"}
        axes.imshow(heat, cmap="inferno", vmin=0, vmax=1, alpha=0.9 * heat**0.7, **look)
    axes.set_xlim(0, width)
    axes.set_ylim(height, 0)
    for x, letter, side in ((0.02, "R", "left"), (0.98, "L", "right")):
        axes.text(
            x,
            0.5,
            letter,
            color="white",
            fontsize=13,
            ha=side,
            va="center",
            transform=axes.transAxes,
            path_effects=_halo(2),
        )
    out = io.BytesIO()
    FigureCanvasAgg(figure).print_png(out, metadata={"Software": None}, pil_kwargs={"optimize": True})
    return "data:image/png;base64," + base64.b64encode(out.getvalue()).decode()


def _masks(axes: Any, panel: Panel, numbers: Mapping[str, int], extent: tuple[float, ...]) -> None:
    for name, mask in panel.truth.items():
        colour = _colour(numbers, name)
        look: dict[str, Any] = {"extent": extent, "origin": "upper"}
        axes.contourf(mask.astype(np.float32), levels=[0.5, 1.5], colors=[colour], alpha=0.22, **look)
        axes.contour(mask.astype(np.float32), levels=[0.5], colors=[colour], linewidths=1.3, **look)
    for name, mask in panel.predicted.items():
        found = axes.contour(
            mask.astype(np.float32), levels=[0.5], colors=[_colour(numbers, name)], linewidths=2.2,
            linestyles=[(0, (2.2, 1.4))], extent=extent, origin="upper",
        )  # fmt: skip
        found.set_path_effects(_halo(1.2))
    for name, mask in {**panel.predicted, **panel.truth}.items():
        x, y = _thickest(mask)
        axes.text(
            extent[1] * x, extent[2] * y, str(numbers.get(name, "?")), color="white", fontsize=11, fontweight="bold",
            ha="center", va="center", path_effects=_halo(2.4),
        )  # fmt: skip


def _colour(numbers: Mapping[str, int], name: str) -> str:
    return ON_BLACK[(numbers.get(name, 0) - 1) % len(ON_BLACK)]


def _halo(width: float) -> list[Any]:
    from matplotlib.patheffects import Normal, Stroke

    return [Stroke(linewidth=2 * width, foreground="black", alpha=0.75), Normal()]


def _thickest(mask: PlaneMask) -> tuple[float, float]:
    """(x, y) of the point farthest from the mask's border, as shares of the width and height."""
    depth = ndimage.distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1]
    row, column = np.unravel_index(int(depth.argmax()), depth.shape)
    return (float(column) + 0.5) / mask.shape[1], (float(row) + 0.5) / mask.shape[0]


def _window(plane: Plane) -> tuple[float, float]:
    """Soft tissue for CT; the middle 98 % for what is no CT."""
    if plane.min() < -500:
        return SOFT_TISSUE_HU
    low, high = np.percentile(plane, [1, 99])
    return float(low), max(float(high), float(low) + 1.0)
