"""Where to look: regions in which the prediction is likely wrong, without the uncertain rim that every organ has."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from ctune.importance.crops import Booleans, Crop, Levels
from ctune.importance.measures import CUBE
from ctune.importance.morphology import dilated, eroded
from ctune.types import Grid

# Chosen on phantoms of two networks and seeds that no benchmark uses; docs/importance.md has the figures.
WINDOW_MM = 4.5
"""Width of the neighbourhood in which doubt must gather: three voxels of the usual 1.5 mm; at least three of the CT's."""
SPREAD = 0.1
"""How much an inconsistency counts beside the probability of the other answer: mirror images also shift sure borders."""
DENSE = 0.04
"""Mean of the doubt in the neighbourhood from which on a voxel is attended."""
RIM = 0.75
"""... and this share of the median on the class's own rim in this case: an organ that is soft all around needs more."""
LEAST_ML = 0.2
LEAST_VOXELS = 12
"""Expected error, the sum of min(p, 1 - p), from which on a region is attended: less is none that an expert would correct;
the number of voxels speaks where voxels are large."""

_AT_ONCE = 2**20
_ERROR = np.minimum(np.arange(256), 255 - np.arange(256)).astype(np.float32) / np.float32(255)
"""min(p, 1 - p): the probability that the mask is wrong in a voxel, if p is calibrated."""


def attention(found: Crop, mask: Booleans, suspect: Booleans, grid: Grid) -> Levels:
    """The attention of one class in its box, (x, y, z) uint8: 0 outside attended regions.

    Doubt d = min(p, 1 - p) + 0.1 x inconsistency is averaged over a neighbourhood, so that a thin uncertain rim is diluted
    and a thick one is not; a voxel above `DENSE` and above `RIM` of the rim's median can be attended. Nothing is opened: two
    voxels wide is wide enough. A 26-connected region of such voxels is attended when its expected error is large enough.
    suspect: voxels of the mask that are implausible whatever their probability (claimed by another class, on the wrong
    side); they can be attended, and count as an even chance of an error.
    """
    if not found.p.size:
        return np.zeros_like(found.p)
    error = _ERROR[found.p]
    doubt = error if found.spread is None else error + np.float32(SPREAD / 255) * found.spread
    dense = ndimage.uniform_filter(doubt, _window(grid), mode="nearest")
    labels, count = ndimage.label((dense > max(DENSE, RIM * _on_rim(dense, mask))) | suspect, CUBE)
    if not count:
        return np.zeros_like(found.p)
    error[suspect] = 0.5
    keep = _sums(labels, error, count) * grid.voxel_ml >= max(LEAST_ML, LEAST_VOXELS * grid.voxel_ml)
    keep[0] = False
    # Half a voxel of doubt is all there can be of one model: that is 255.
    heat = np.clip(doubt * np.float32(510), 1, 255).astype(np.uint8)
    heat[suspect] = 255
    return np.where(keep[labels], heat, np.uint8(0))


def _window(grid: Grid) -> list[int]:
    """Voxels along each axis, odd, at least three."""
    return [2 * max(1, round((WINDOW_MM / spacing - 1) / 2)) + 1 for spacing in grid.spacing_mm]


def _on_rim(dense: npt.NDArray[np.float32], mask: Booleans) -> float:
    """Median on the voxels on both sides of a mask's surface; 0 for an empty mask."""
    rim = dense[dilated(mask) & ~eroded(mask)]
    return float(np.median(rim)) if rim.size else 0.0


def _sums(labels: npt.NDArray[Any], values: npt.NDArray[Any], count: int) -> npt.NDArray[np.float64]:
    """Of `values` over each label, 0 to `count`."""
    out = np.zeros(count + 1)
    # A few planes at a time: bincount makes eight bytes of every value.
    step = max(1, _AT_ONCE // max(1, labels[0].size))
    for x in range(0, len(labels), step):
        part = slice(x, x + step)
        out += np.bincount(labels[part].ravel(), weights=values[part].ravel(), minlength=count + 1)
    return out
