"""Cut from a case the few planes that a report draws, so that no volume outlives its turn.

Radiological convention: the patient's right is on the picture's left. Planes run along the axes of the CT's own grid that
are nearest to the patient's; nothing is resampled.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import nibabel as nib
import numpy as np
import numpy.typing as npt

from ctune.types import Grid, Mask, Volume

AXIAL, CORONAL = 2, 1
_NAMES = {AXIAL: "axial", CORONAL: "coronal"}
_AIR_HU = -500.0
_MARGIN_MM = 12.0

Plane = npt.NDArray[np.float32]
"""(rows, columns) float32, seen from the patient's feet (axial) or front (coronal); the right side is column 0."""
PlaneMask = npt.NDArray[np.bool_]
"""(rows, columns) bool of the same plane."""


@dataclass(frozen=True, eq=False)
class Panel:
    """One plane to draw. size_mm: (height, width). predicted, truth: {class: mask}, only classes that are in the plane.

    attention: (rows, columns) float32 in [0, 1]; with it the panel shows where to look, without it who is right.
    """

    title: str
    ct: Plane
    size_mm: tuple[float, float]
    predicted: Mapping[str, PlaneMask]
    truth: Mapping[str, PlaneMask]
    attention: Plane | None = None


@dataclass(frozen=True, eq=False)
class View:
    """One case to look at: some panels and a caption."""

    case_id: str
    caption: str
    panels: tuple[Panel, ...]


@dataclass(frozen=True, eq=False)
class Cutter:
    """Cuts planes of volumes on one grid: ``plane(volume, AXIAL, index)``, indices along R, A, S."""

    grid: Grid

    @property
    def _orientation(self) -> npt.NDArray[np.float64]:
        return np.asarray(nib.orientations.io_orientation(self.grid.affine))

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Along R, A, S."""
        by_axis = dict(zip(self._orientation[:, 0].astype(int), self.grid.spacing_mm, strict=True))
        return by_axis[0], by_axis[1], by_axis[2]

    def ras(self, volume: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
        """The volume with its axes in the order and direction R, A, S: a view, nothing is copied."""
        return np.asarray(nib.orientations.apply_orientation(volume, self._orientation))

    def plane(self, volume: npt.NDArray[np.generic], axis: int, index: int) -> Plane:
        """Rows from front to back or from head to feet, columns from the patient's right to the left."""
        cut = np.take(self.ras(volume), index, axis=axis)
        return np.asarray(cut[::-1, ::-1].T, dtype=np.float32)

    def size_mm(self, axis: int, shape: tuple[int, ...]) -> tuple[float, float]:
        """(height, width) of a plane of `shape`."""
        columns, rows = (s for a, s in enumerate(self.spacing_mm) if a != axis)
        return shape[0] * rows, shape[1] * columns


def best_planes(masks: Iterable[Mask], cutter: Cutter, fallback: npt.NDArray[np.generic]) -> tuple[int, int]:
    """Indices of the axial and the coronal plane that hold most classes, and among those most of their voxels.

    Each class counts by the share of it that lies in the plane, so that the liver does not decide alone. `fallback` (X, Y,
    Z), the attention or the CT, decides by its sum where every mask is empty.
    """
    counts: dict[int, list[npt.NDArray[np.float64]]] = {AXIAL: [], CORONAL: []}
    for mask in masks:
        for axis, found in counts.items():
            voxels = _per_plane(cutter.ras(mask == 1), axis)
            if voxels.any():
                found.append(voxels / voxels.max())
    if not counts[AXIAL]:
        weight = cutter.ras(fallback).astype(np.float64) - float(fallback.min())
        counts = {axis: [_per_plane(weight, axis)] for axis in counts}
    axial, coronal = (int(np.sum(found, axis=0).argmax()) for found in counts.values())
    return axial, coronal


def _per_plane(volume: npt.NDArray[np.generic], axis: int) -> npt.NDArray[np.float64]:
    return np.asarray(volume.sum(axis=tuple(a for a in range(3) if a != axis), dtype=np.float64))


def view_of_selected(
    case_id: str,
    caption: str,
    ct: Volume,
    grid: Grid,
    *,
    predicted: Mapping[str, Mask],
    truth: Mapping[str, Mask],
    attention: npt.NDArray[np.uint8] | None,
) -> View:
    """A case as it was selected: prediction against truth on an axial and a coronal plane, and where to look.

    predicted, truth: {class: (X, Y, Z) uint8} on `grid`. attention: (X, Y, Z) uint8, 255 most.
    """
    cutter = Cutter(grid)
    shown = truth or predicted
    axial, coronal = best_planes(
        (shown[name] for name in shown), cutter, ct if attention is None else attention
    )
    panels = [
        _panel("prediction", ct, cutter, axis, index, predicted, truth)
        for axis, index in ((AXIAL, axial), (CORONAL, coronal))
    ]
    if attention is not None:
        panels.append(_panel("where to look", ct, cutter, AXIAL, axial, {}, {}, attention))
    return View(case_id, caption, tuple(panels))


def view_of_change(
    case_id: str,
    caption: str,
    ct: Volume,
    grid: Grid,
    *,
    before: Mapping[str, Mask],
    after: Mapping[str, Mask],
    truth: Mapping[str, Mask],
) -> View:
    """A case before and after the rounds, on the same planes; arguments as for ``view_of_selected``."""
    cutter = Cutter(grid)
    axial, coronal = best_planes((truth[name] for name in truth), cutter, ct)
    panels = (
        _panel("before", ct, cutter, AXIAL, axial, before, truth),
        _panel("after", ct, cutter, AXIAL, axial, after, truth),
        _panel("after", ct, cutter, CORONAL, coronal, after, truth),
    )
    return View(case_id, caption, panels)


def _panel(
    what: str,
    ct: Volume,
    cutter: Cutter,
    axis: int,
    index: int,
    predicted: Mapping[str, Mask],
    truth: Mapping[str, Mask],
    attention: npt.NDArray[np.uint8] | None = None,
) -> Panel:
    full = cutter.plane(ct, axis, index)
    box = _body(full, cutter.size_mm(axis, full.shape))
    plane = full[box]
    heat = None if attention is None else cutter.plane(attention, axis, index)[box] / np.float32(255)
    return Panel(
        f"{_NAMES[axis]}, {what}",
        plane,
        cutter.size_mm(axis, plane.shape),
        _in_plane(predicted, cutter, axis, index, box),
        _in_plane(truth, cutter, axis, index, box),
        heat,
    )


def _in_plane(
    masks: Mapping[str, Mask], cutter: Cutter, axis: int, index: int, box: tuple[slice, slice]
) -> dict[str, PlaneMask]:
    cut = {name: cutter.plane(masks[name], axis, index)[box] == 1 for name in masks}
    return {name: mask for name, mask in cut.items() if mask.any()}


def _body(plane: Plane, size_mm: tuple[float, float]) -> tuple[slice, slice]:
    """The rows and columns of the patient with a margin; the whole plane where the image is no CT or all air."""
    inside = plane > _AIR_HU
    out = []
    for axis in (0, 1):
        found = np.flatnonzero(inside.any(axis=1 - axis))
        margin = round(_MARGIN_MM * plane.shape[axis] / size_mm[axis])
        first, last = (int(found[0]), int(found[-1])) if len(found) else (0, plane.shape[axis])
        out.append(slice(max(0, first - margin), last + margin + 1))
    return out[0], out[1]
