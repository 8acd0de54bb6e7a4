"""A coarser look at a fine grid: sums over blocks about as large as the voxels on which the network worked.

What is finer was interpolated and says nothing of its own. On a CT of .7 mm and a network at 1.5 mm a fourth of the voxels
remain, and what depends on neighbourhoods costs a fourth; where voxels are that large already, a block is a voxel.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ctune.types import Grid

BLOCK_MM = 1.5
"""The usual spacing of a network, and the least side of a block."""
_MOST = 3


def block_sizes(grid: Grid, network_mm: float = 0.0) -> tuple[int, int, int]:
    """Voxels of a block along Z, Y, X: as many as fit, within a tenth of one, into the side of the network's voxels; at most three."""
    side = max(BLOCK_MM, network_mm)
    z, y, x = (max(1, min(_MOST, int(side / mm + 0.1))) for mm in reversed(grid.spacing_mm))
    return z, y, x


def block_sums(values: npt.NDArray[Any], sizes: tuple[int, int, int]) -> npt.NDArray[np.uint16]:
    """Sums of (Z, Y, X), bool or uint8, over blocks, the last of each axis as large as what is left."""
    out = values
    for axis, size in enumerate(sizes):
        if size > 1:
            rows = out.swapaxes(0, axis)
            total = rows[::size].astype(np.uint16)
            for offset in range(1, size):
                more = rows[offset::size]
                total[: len(more)] += more
            out = total.swapaxes(0, axis)
    return np.ascontiguousarray(out, dtype=np.uint16)


def voxels_in(shape: tuple[int, ...], sizes: tuple[int, int, int]) -> npt.NDArray[np.uint16]:
    """How many voxels each block of (Z, Y, X) `shape` holds."""
    z, y, x = (
        np.minimum(size, count - np.arange(0, count, size)).astype(np.uint16)
        for count, size in zip(shape, sizes, strict=True)
    )
    return np.asarray(z[:, None, None] * y[None, :, None] * x[None, None, :])


def spread_out(
    blocks: npt.NDArray[Any], sizes: tuple[int, int, int], shape: tuple[int, ...]
) -> npt.NDArray[Any]:
    """The value of its block for each voxel of (Z, Y, X) `shape`."""
    out = blocks
    # The fastest axis last: what is repeated is still small before.
    for axis, size in enumerate(sizes):
        out = np.repeat(out, size, axis=axis) if size > 1 else out
    z, y, x = shape
    return out[:z, :y, :x]
