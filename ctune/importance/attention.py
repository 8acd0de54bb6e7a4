"""Where to look: regions in which the prediction is likely wrong, without the uncertain rim that every organ has."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from ctune.importance.crops import Booleans, Crop, Levels
from ctune.importance.measures import CUBE

LOW = 26
"""Of 255: where the probability of the other answer, or the inconsistency, is above a tenth, a voxel can be attended."""

LEAST_ML = 0.2
LEAST_VOXELS = 12
"""A region is attended from this much expected error on: the sum of min(p, 1 - p) over it. Less is no region an expert
would correct; the number of voxels speaks where voxels are large."""

_ERROR = np.minimum(np.arange(256), 255 - np.arange(256)).astype(np.uint8)
"""min(p, 1 - p): the probability that the mask is wrong in a voxel, if p is calibrated; in steps of 1/255."""


def attention(found: Crop, suspect: Booleans, voxel_ml: float) -> Levels:
    """The attention of one class in its box, (x, y, z) uint8: 0 outside attended regions.

    A region is a 26-connected set of voxels that may be wrong; it is attended when its expected error is large enough
    (`LEAST_ML`, `LEAST_VOXELS`). suspect: voxels of the mask that are implausible whatever their probability (claimed by
    another class, on the wrong side); they are always attended.
    """
    wrong = _ERROR[found.p]
    value = wrong if found.spread is None else np.maximum(wrong, found.spread)
    labels, count = ndimage.label((value > LOW) | suspect, CUBE)
    if not count:
        return np.zeros_like(found.p)
    mass = _sums(labels, wrong, count) / 255.0 * voxel_ml
    keep = mass >= max(LEAST_ML, LEAST_VOXELS * voxel_ml)
    keep |= _sums(labels, suspect, count) > 0
    keep[0] = False
    heat = np.minimum(value.astype(np.uint16) * 2, 255).astype(np.uint8)
    heat[suspect] = 255
    return np.where(keep[labels], np.maximum(heat, 1), np.uint8(0))


def _sums(labels: npt.NDArray[Any], values: npt.NDArray[Any], count: int) -> npt.NDArray[np.float64]:
    sums = np.bincount(labels.ravel(), weights=values.ravel(), minlength=count + 1)
    return np.asarray(sums, dtype=np.float64)
