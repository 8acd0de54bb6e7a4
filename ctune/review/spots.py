"""Where an expert should look: hot spots, connected regions of attention; of doubt in a case in which none stands out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from ctune.config import ImportanceConfig
from ctune.data.files import read_json
from ctune.data.nifti import read_labels
from ctune.importance.attention import doubt_map
from ctune.importance.case import floor_of
from ctune.importance.files import read_crops
from ctune.types import Grid, Mask

_HOT = 64
"""Attention (0 to 255) from which a voxel belongs to a hot spot."""
_MOST_SPOTS = 50


@dataclass(frozen=True)
class Spot:
    """A hot spot: voxel (X, Y, Z) where attention is highest, and its size in mL."""

    voxel: tuple[int, int, int]
    ml: float


@dataclass(frozen=True, eq=False)
class Looking:
    """spots: largest first. doubt: (X, Y, Z) uint8, what is shown in the place of attention, None where attention has a region."""

    spots: tuple[Spot, ...]
    doubt: Mask | None = None


def where_to_look(
    attention: Path | None, predicted: Path, classes: Sequence[str], grid: Grid, settings: ImportanceConfig
) -> Looking:
    """The hot spots of a case; `predicted` is its prediction's folder, `classes` those to revise.

    Without any attention the network doubts all places alike, or is sure of its errors. Then all doubt about the classes is
    shown and visited, if the prediction has probabilities to tell.
    """
    if attention is not None:
        heat = read_labels(attention, grid, f"{attention.name}, attention")
        if heat.any():
            return Looking(tuple(find_spots(heat, grid)))
    about = read_json(predicted / "prediction.json") if (predicted / "prediction.json").exists() else {}
    names = [name for name in classes if name in about.get("classes", ())]
    if not names or not (predicted / "probabilities.nii.gz").exists():
        return Looking(())
    doubt = doubt_map(read_crops([predicted], grid, names, *floor_of(settings)), grid)
    return Looking(tuple(find_spots(doubt, grid)), doubt)


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
