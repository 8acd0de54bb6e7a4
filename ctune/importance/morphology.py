"""Erosion and dilation by a cube, fast: one axis at a time, by whole arrays of booleans."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ctune.importance.crops import occupied

Booleans = npt.NDArray[np.bool_]


def dilated(mask: Booleans, steps: int = 1) -> Booleans:
    """Dilation of (X, Y, Z) bool by a cube of 2 `steps` + 1 voxels: `steps` dilations, 26-connected."""
    return _swept(mask, steps, np.logical_or)


def eroded(mask: Booleans, steps: int = 1) -> Booleans:
    """Erosion likewise; what lies outside the array counts as not in the mask."""
    out = _swept(mask, steps, np.logical_and)
    for axis in range(mask.ndim):
        edge = out.swapaxes(0, axis)
        edge[:steps] = False
        edge[max(0, len(edge) - steps) :] = False
    return out


def opened(mask: Booleans, steps: int = 2) -> Booleans:
    """`steps` erosions, then as many dilations, 26-connected: what ``scipy.ndimage.binary_opening`` gives, at a tenth of
    its time."""
    return dilated(eroded(mask, steps), steps)


def two_wide(mask: Booleans) -> Booleans:
    """What of (X, Y, Z) bool lies in a cube of 2 x 2 x 2 voxels that is all in it: an opening that takes sheets and threads of one voxel.

    >>> sheet = np.zeros((4, 4, 4), dtype=bool); sheet[1] = True
    >>> int(two_wide(sheet).sum()), int(two_wide(sheet | np.roll(sheet, 1, axis=0)).sum())
    (0, 32)
    """
    box = occupied(mask.T)[::-1]
    out, inside = np.zeros_like(mask), mask[box].copy()
    for axis in range(mask.ndim):
        rows = inside.swapaxes(0, axis)
        rows[:-1] &= rows[1:].copy()
        rows[-1:] = False
    for axis in range(mask.ndim):
        rows = inside.swapaxes(0, axis)
        rows[1:] |= rows[:-1].copy()
    out[box] = inside
    return out


def _swept(mask: Booleans, steps: int, join: np.ufunc) -> Booleans:
    out = mask.copy()
    for axis in range(mask.ndim):
        for _ in range(steps):
            before, rows = out.copy().swapaxes(0, axis), out.swapaxes(0, axis)
            join(rows[1:], before[:-1], out=rows[1:])
            join(rows[:-1], before[1:], out=rows[:-1])
    return out
