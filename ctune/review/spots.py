"""Hot spots: connected regions of attention, where an expert should look first."""

from __future__ import annotations

from dataclasses import dataclass

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


def find_spots(heat: npt.NDArray[np.int32], grid: Grid) -> list[Spot]:
    """The connected regions of `heat` (X, Y, Z; 0 to 255), largest first."""
    hot = heat >= _HOT
    if not hot.any():
        return []
    regions, count = ndimage.label(hot)
    sizes = np.bincount(regions.ravel(), minlength=count + 1)[1:]
    boxes = ndimage.find_objects(regions)
    order = np.argsort(-sizes, kind="stable")[:_MOST_SPOTS]
    return [Spot(_middle(heat, regions == i + 1, boxes[i]), float(sizes[i]) * grid.voxel_ml) for i in order]


def _middle(
    heat: npt.NDArray[np.int32], region: npt.NDArray[np.bool_], box: tuple[slice, ...]
) -> tuple[int, int, int]:
    """Of the region's hottest voxels (X, Y, Z), the one nearest to their middle: inside also where the region is bent."""
    inside = np.where(region[box], heat[box], -1)
    hottest = np.argwhere(inside == inside.max())
    nearest = hottest[np.argmin(((hottest - hottest.mean(axis=0)) ** 2).sum(axis=1))]
    x, y, z = (int(part.start + at) for part, at in zip(box, nearest, strict=True))
    return x, y, z
