"""Pictures of a case: CT slices with contours of prediction and truth, and where to look, as PNG data addresses.

Radiological convention: the patient's right is on the picture's left. Voxels are drawn in their true proportions.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping

import nibabel as nib
import numpy as np
import numpy.typing as npt

from ctune.report.collect import Overlay
from ctune.types import Mask

_WINDOW = (-160.0, 240.0)
"""Level 40, width 400 HU: the abdominal soft-tissue window."""


def picture(overlay: Overlay, colours: Mapping[str, str]) -> str:
    """``data:image/png;base64,...`` of four panels: prediction and truth on an axial and a coronal slice, and attention."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    axial, coronal = _planes(overlay)
    spacing = _ras_spacing(overlay)
    panels = (
        ("axial, prediction", 2, axial),
        ("coronal, prediction", 1, coronal),
        ("axial, attention", 2, axial),
    )
    figure = Figure(figsize=(12.0, 4.0), layout="constrained", facecolor="black")
    for number, (title, axis, index) in enumerate(panels):
        axes = figure.add_subplot(1, 3, number + 1)
        axes.set_axis_off()
        axes.set_title(title, color="white", fontsize=10)
        rest = [s for a, s in enumerate(spacing) if a != axis]
        height, width = _slice(overlay.ct, overlay, axis, index).shape
        extent = (0, width * rest[0], height * rest[1], 0)
        shown = _slice(overlay.ct, overlay, axis, index)
        axes.imshow(
            shown,
            cmap="gray",
            vmin=_level(overlay)[0],
            vmax=_level(overlay)[1],
            extent=extent,
            interpolation="bicubic",
        )
        if "attention" in title and overlay.attention is not None:
            heat = _slice(overlay.attention, overlay, axis, index) / 255.0
            axes.imshow(
                heat,
                cmap="inferno",
                vmin=0,
                vmax=1,
                alpha=0.85 * heat,
                extent=extent,
                interpolation="bilinear",
            )
        else:
            _contours(axes, overlay, overlay.truth, axis, index, extent, colours, "solid", 0.9)
            _contours(axes, overlay, overlay.predicted, axis, index, extent, colours, (0, (3, 1.5)), 1.7)
        axes.text(0.015, 0.5, "R", color="white", fontsize=11, transform=axes.transAxes, va="center")
        axes.text(
            0.985, 0.5, "L", color="white", fontsize=11, transform=axes.transAxes, va="center", ha="right"
        )
    out = io.BytesIO()
    FigureCanvasAgg(figure).print_png(out, metadata={"Software": None})
    return "data:image/png;base64," + base64.b64encode(out.getvalue()).decode()


def _contours(
    axes: object,
    overlay: Overlay,
    masks: Mapping[str, Mask],
    axis: int,
    index: int,
    extent: tuple[float, float, float, float],
    colours: Mapping[str, str],
    line: object,
    width: float,
) -> None:
    for name, mask in masks.items():
        part = _slice(mask == 1, overlay, axis, index).astype(float)
        if part.any():
            axes.contour(  # type: ignore[attr-defined]
                part, levels=[0.5], colors=[colours.get(name, "white")], linestyles=[line], linewidths=width,
                extent=extent, origin="upper",
            )  # fmt: skip


def _planes(overlay: Overlay) -> tuple[int, int]:
    """The axial and the coronal slice, in RAS, that hold most classes, and among those most of their voxels."""
    shown = overlay.truth or overlay.predicted
    volumes = [_ras(mask == 1, overlay) for mask in shown.values()]
    if not volumes:
        middle = _ras(overlay.ct, overlay).shape
        return middle[2] // 2, middle[1] // 2
    best = []
    for axis in (2, 1):
        other = tuple(a for a in range(3) if a != axis)
        counts = np.array([v.sum(axis=other) for v in volumes], dtype=np.float64)
        rank = (counts > 0).sum(axis=0) + counts.sum(axis=0) / (counts.sum() + 1)
        best.append(int(rank.argmax()))
    return best[0], best[1]


def _ras(volume: npt.NDArray[np.generic], overlay: Overlay) -> npt.NDArray[np.generic]:
    orientation = nib.orientations.io_orientation(overlay.grid.affine)
    return np.asarray(nib.orientations.apply_orientation(volume, orientation))


def _ras_spacing(overlay: Overlay) -> tuple[float, float, float]:
    orientation = nib.orientations.io_orientation(overlay.grid.affine)
    by_axis = dict(zip(orientation[:, 0].astype(int), overlay.grid.spacing_mm, strict=True))
    return by_axis[0], by_axis[1], by_axis[2]


def _slice(
    volume: npt.NDArray[np.generic], overlay: Overlay, axis: int, index: int
) -> npt.NDArray[np.float64]:
    """A plane as a picture: rows from front to back or top to bottom, columns from the patient's right to left."""
    plane = np.take(_ras(volume, overlay), index, axis=axis)
    return np.asarray(plane[::-1, ::-1].T, dtype=np.float64)


def _level(overlay: Overlay) -> tuple[float, float]:
    if overlay.ct.min() < -500:
        return _WINDOW
    low, high = np.percentile(overlay.ct, [1, 99])
    return float(low), float(high)
