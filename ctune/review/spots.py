"""Hot spots: connected regions of attention, where an expert should look first."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from ctune.types import Grid

_HOT = 64
"""Attention (0 to 255) from which a voxel belongs to a hot spot."""
_MOST_SPOTS = 50


@dataclass(frozen=True)
class Spot:
    """A hot spot: voxel (X, Y, Z) where attention is highest, and its size in mL."""

    voxel: tuple[int, int, int]
    ml: float


def find_spots(heat: npt.NDArray[np.integer[Any]], grid: Grid) -> list[Spot]:
    """The connected regions of `heat` (X, Y, Z; 0 to 255), largest first."""
    hot = heat >= _HOT
    part = _box(hot)
    if part is None:
        return []
    # All that follows looks at the part with heat in it: of most CTs a small one.
    regions, count = ndimage.label(hot[part])
    sizes = np.bincount(regions.ravel(), minlength=count + 1)[1:]
    boxes = ndimage.find_objects(regions)
    order = np.argsort(-sizes, kind="stable")[:_MOST_SPOTS]
    start = [axis.start for axis in part]
    return [
        Spot(_middle(heat[part][boxes[i]], regions[boxes[i]] == i + 1, start, boxes[i]), float(sizes[i]) * grid.voxel_ml)
        for i in order
    ]  # fmt: skip


def _box(hot: npt.NDArray[np.bool_]) -> tuple[slice, slice, slice] | None:
    """The smallest box with all that is hot; None when nothing is."""
    found = []
    for axes in ((1, 2), (0, 2), (0, 1)):
        there = np.flatnonzero(hot.any(axis=axes))
        if not there.size:
            return None
        found.append(slice(int(there[0]), int(there[-1]) + 1))
    return found[0], found[1], found[2]


def _middle(
    heat: npt.NDArray[np.integer[Any]],
    region: npt.NDArray[np.bool_],
    start: list[int],
    box: tuple[slice, ...],
) -> tuple[int, int, int]:
    """Of the region's hottest voxels (X, Y, Z), the one nearest to their middle: inside also where the region is bent."""
    inside = np.where(region, heat.astype(np.int32), -1)
    hottest = np.argwhere(inside == inside.max())
    nearest = hottest[np.argmin(((hottest - hottest.mean(axis=0)) ** 2).sum(axis=1))]
    x, y, z = (int(s + part.start + at) for s, part, at in zip(start, box, nearest, strict=True))
    return x, y, z
