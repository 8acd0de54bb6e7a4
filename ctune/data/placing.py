"""Labels on another order of axes than the CT's, put on the CT's grid voxel for voxel; nothing is ever resampled.

Programs turn axes around, and some keep only the box that holds something. Both are told by the affines: when the map
between two grids is a permutation of axes with signs and a shift by whole voxels, each voxel has its counterpart.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ctune.data.nifti import check_same_grid
from ctune.errors import GeometryError
from ctune.types import Grid

Labels = npt.NDArray[Any]


def place(labels: Labels, got: Grid, grid: Grid, what: str, path: Path, *, box: bool = False) -> Labels:
    """`labels` (X, Y, Z) on the grid `got`, as an array (X, Y, Z) of the same dtype on the CT's `grid`.

    Grids must put every voxel at the same place within 0.01 mm, after axes were turned by quarter turns and mirrored.
    box: `got` may also be a part of `grid`, or reach over it where it holds nothing; the rest of the CT becomes 0.
    Raises GeometryError with both grids in words.
    """
    if grid.matches(got):
        return labels
    flat = _thick(got, grid) if box else got
    whole = np.rint(np.linalg.inv(grid.affine) @ flat.affine)
    turn = np.abs(whole[:3, :3])
    straight = (turn.sum(axis=0) == 1).all() and (turn.sum(axis=1) == 1).all()
    if not straight or not Grid(got.shape, grid.affine @ whole).matches(flat):
        check_same_grid(got, grid, what, path)
    order = turn.argmax(axis=1)
    signs = whole[range(3), order]
    turned = labels.transpose(order)[tuple(slice(None, None, int(s)) for s in signs)]
    # A mirrored axis begins where it used to end.
    start = [int(whole[i, 3]) - (n - 1 if signs[i] < 0 else 0) for i, n in enumerate(turned.shape)]
    if not box and (turned.shape != grid.shape or any(start)):
        check_same_grid(got, grid, what, path)
    if turned.shape == grid.shape and not any(start):
        return np.ascontiguousarray(turned)
    return _boxed(turned, start, got, grid, what, path)


def _thick(got: Grid, grid: Grid) -> Grid:
    """`got` with the CT's step along axes of one voxel: there a step has a direction, and any length that a program likes."""
    affine, spacing = np.array(got.affine), np.array(grid.spacing_mm)
    for axis in (i for i, n in enumerate(got.shape) if n == 1):
        unit = affine[:3, axis] / np.linalg.norm(affine[:3, axis])
        nearest = int(np.abs(unit @ (grid.affine[:3, :3] / spacing)).argmax())
        affine[:3, axis] = unit * spacing[nearest]
    return Grid(got.shape, affine)


def _boxed(turned: Labels, start: list[int], got: Grid, grid: Grid, what: str, path: Path) -> Labels:
    placed = np.zeros(grid.shape, dtype=turned.dtype)
    inside = tuple(
        slice(max(a, 0), max(min(a + n, full), 0))
        for a, n, full in zip(start, turned.shape, grid.shape, strict=True)
    )
    taken = tuple(
        slice(s.start - a, max(s.stop - a, s.start - a)) for s, a in zip(inside, start, strict=True)
    )
    placed[inside] = turned[taken]
    if np.count_nonzero(placed) != np.count_nonzero(turned):
        raise GeometryError(
            f"{what}: expected labels inside the CT ({grid.describe()}), got some outside it ({got.describe()}) in {path}; "
            "check that they belong to this CT"
        )
    return placed
