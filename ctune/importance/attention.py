"""Where to look: regions in which the prediction is likely wrong, without the uncertain rim that every organ has."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from ctune.importance.blocks import block_sizes, block_sums, spread_out, voxels_in
from ctune.importance.crops import Booleans, Crop, Levels, empty, occupied, put
from ctune.importance.measures import CUBE
from ctune.importance.morphology import dilated, eroded
from ctune.types import Grid

# Chosen on phantoms of two networks and seeds that no benchmark uses; docs/importance.md has the figures.
WINDOW_MM = 4.5
"""Width of the neighbourhood in which doubt must gather: three voxels of the usual 1.5 mm; at least three of the CT's."""
_TENTH = 10
"""An inconsistency counts a tenth of the probability of the other answer: mirror images also shift sure borders."""
DENSE = 0.04
"""Mean of the doubt in the neighbourhood from which on a voxel is attended."""
RIM = 0.9
"""... and this share of the median on the class's own rim in this case: an organ that is soft all around needs more."""
LEAST_ML = 0.2
LEAST_VOXELS = 10
"""Expected error, the sum of min(p, 1 - p), from which on a region is attended: less is none that an expert would correct.
The number speaks where voxels are large, the CT's or those on which the network worked: finer than these it knows nothing."""
EVEN = 102
"""Of 255: min(p, 1 - p) of .4, from which on a voxel is near an even chance."""

_AT_ONCE = 2**20


def attention(found: Crop, mask: Booleans, suspect: Booleans, grid: Grid) -> Levels:
    """The attention of one class in its box, (x, y, z) uint8: 0 outside attended regions.

    Doubt d = min(p, 1 - p) + 0.1 x inconsistency is averaged over a neighbourhood, so that a thin uncertain rim is diluted
    and a thick one is not; blocks (``block_sizes``) above `DENSE` and above `RIM` of the rim's median can be attended.
    Nothing is opened: two voxels wide is wide enough. A 26-connected region of such blocks is attended when its expected
    error, the sum of min(p, 1 - p), is large enough. Of several models as much of it must lie where their answers are the same, or as large
    a part must be near an even chance: an island that a minority sees alone is doubt too, but the mask, which follows the
    mean, is right there more often than not. suspect: voxels of the mask that are implausible whatever their
    probability (claimed by another class, on the wrong side); they can be attended, and count as an even chance of an error.
    """
    if not found.p.size:
        return np.zeros_like(found.p)
    # X runs fastest in memory: what is written with Z first is read in the order in which it lies.
    p, sizes, some = found.p.T, block_sizes(grid, found.network_mm), bool(suspect.any())
    error = np.minimum(p, 255 - p)
    if some:
        error[suspect.T] = 127
    voxels, wrong = voxels_in(p.shape, sizes), block_sums(error, sizes)
    doubt = wrong * np.uint16(_TENTH)
    if found.spread is not None:
        doubt += block_sums(found.spread.T, sizes)
    dense = ndimage.uniform_filter(
        doubt / (np.float32(255 * _TENTH) * voxels), _window(grid, sizes), mode="nearest"
    )
    hot = dense > max(DENSE, RIM * _on_rim(dense, 2 * block_sums(mask.T, sizes) > voxels))
    if some:
        hot |= block_sums(suspect.T, sizes) > 0
    out = np.zeros_like(error)
    if hot.any():
        # What is left is dear, and most of the box has nothing in it.
        blocks = occupied(hot)
        here = tuple(slice(b.start * size, b.stop * size) for b, size in zip(blocks, sizes, strict=True))
        labels, count = ndimage.label(hot[blocks], CUBE)
        expected = _sums(labels, wrong[blocks], count) / 255.0 * grid.voxel_ml
        least = max(LEAST_ML, LEAST_VOXELS * max(grid.voxel_ml, found.network_mm**3 / 1000))
        keep = expected >= least
        if found.members:
            even = error[here] >= EVEN
            shared = np.where(_split(found.members, here) & ~even, 0, error[here]).astype(np.uint8)
            enough = _sums(labels, block_sums(shared, sizes), count) / 255.0 * grid.voxel_ml >= least
            keep &= enough | (_sums(labels, block_sums(even, sizes), count) * grid.voxel_ml >= least)
        keep[0] = False
        spread = None if found.spread is None else found.spread.T[here]
        attended = spread_out(keep[labels], sizes, error[here].shape)
        out[here] = _heat(error[here], spread, attended)
    return out.T


def doubt_map(found: Sequence[Crop], grid: Grid) -> Levels:
    """All doubt of some classes, (X, Y, Z) uint8 as ``attention`` counts it, rims included: for a case in which no region
    stands out, and for the eye alone, since it says little about where errors are."""
    out = empty(grid)
    for one in found:
        if one.p.size:
            error = np.minimum(one.p.T, 255 - one.p.T)
            spread = None if one.spread is None else one.spread.T
            put(out, _heat(error, spread, error > 0).T, one.box)
    return out


def _heat(error: Levels, spread: Levels | None, attended: Booleans) -> Levels:
    """Twice the doubt, at least 1, where attended; 255 is an even chance. All (Z, Y, X)."""
    out = np.zeros_like(error)
    heat = np.minimum(error[attended], 115 if spread is not None else 127)
    heat *= np.uint8(2)
    if spread is not None:
        heat += spread[attended] // np.uint8(_TENTH // 2)
    np.maximum(heat, 1, out=heat)
    out[attended] = heat
    return out


def _split(members: Sequence[Levels], here: tuple[slice, ...]) -> Booleans:
    """Where the models' own answers are not all the same, (z, y, x) `here`."""
    yes = [one.T[here] > 127 for one in members]
    return np.asarray(np.logical_or.reduce(yes) & ~np.logical_and.reduce(yes))


def _window(grid: Grid, sizes: tuple[int, int, int]) -> list[int]:
    """Blocks along Z, Y, X, odd, at least three."""
    spacing = [mm * size for mm, size in zip(reversed(grid.spacing_mm), sizes, strict=True)]
    return [2 * max(1, round((WINDOW_MM / mm - 1) / 2)) + 1 for mm in spacing]


def _on_rim(dense: npt.NDArray[np.float32], mask: Booleans) -> float:
    """Median on both sides of a mask's surface; 0 for an empty mask."""
    rim = dense[dilated(mask) & ~eroded(mask)]
    return float(np.median(rim)) if rim.size else 0.0


def _sums(labels: npt.NDArray[Any], values: npt.NDArray[Any], count: int) -> npt.NDArray[np.float64]:
    """Of `values` over each label, 0 to `count`."""
    out = np.zeros(count + 1)
    # A few planes at a time: bincount makes eight bytes of every value.
    step = max(1, _AT_ONCE // max(1, labels[0].size))
    for z in range(0, len(labels), step):
        part = slice(z, z + step)
        out += np.bincount(labels[part].ravel(), weights=values[part].ravel(), minlength=count + 1)
    return out
