"""Erosion and dilation by a cube, fast: one axis at a time, by whole arrays of booleans."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ctune.importance.crops import occupied

Booleans = npt.NDArray[np.bool_]

THICK_MM = 3.0
"""Of a voxel that is no thin sheet by itself: two of a network's usual 1.5 mm."""


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


def wide(mask: Booleans, spacing_mm: Sequence[float]) -> Booleans:
    """(X, Y, Z) bool without sheets and threads of one voxel: an opening by a box of two voxels a side, of one where a voxel is
    `THICK_MM` or more, since a sheet of one slice is no thin one there.

    >>> sheet = np.zeros((4, 4, 4), dtype=bool); sheet[:, :, 1] = True
    >>> int(wide(sheet, (1, 1, 1)).sum()), int(wide(sheet, (1, 1, 5)).sum()), int(wide(sheet | np.roll(sheet, 1, axis=2), (1, 1, 1)).sum())
    (0, 16, 32)
    """
    box = occupied(mask.T)[::-1]
    out, inside = np.zeros_like(mask), mask[box].copy()
    axes = [axis for axis, mm in enumerate(spacing_mm) if mm < THICK_MM]
    for axis in axes:
        rows = inside.swapaxes(0, axis)
        rows[:-1] &= rows[1:].copy()
        rows[-1:] = False
    for axis in axes:
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
