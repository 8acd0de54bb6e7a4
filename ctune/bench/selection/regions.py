"""Errors as an expert sees them, by region, and what attention found of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from ctune.types import Grid

Booleans = npt.NDArray[np.bool_]

LEAST_ML = 0.2
COVERED = 0.1
"""Share of an error region from which on attention has found it."""
_CUBE = np.ones((3, 3, 3), dtype=bool)
_CROSS = ndimage.generate_binary_structure(3, 1)


@dataclass(frozen=True)
class Regions:
    """Counts over one class of one case; they add up.

    errors, found: error regions, and those that attention covers by a tenth. attended, right: attended regions
    (26-connected), and those that touch an error region. error_ml, attention_ml: volumes of all errors, those on the rim
    included, and of all attention.
    """

    errors: int = 0
    found: int = 0
    attended: int = 0
    right: int = 0
    error_ml: float = 0.0
    attention_ml: float = 0.0

    def __add__(self, other: Regions) -> Regions:
        return Regions(
            self.errors + other.errors,
            self.found + other.found,
            self.attended + other.attended,
            self.right + other.right,
            self.error_ml + other.error_ml,
            self.attention_ml + other.attention_ml,
        )

    @property
    def sensitivity(self) -> float | None:
        """Share of the error regions that were found; None without any."""
        return self.found / self.errors if self.errors else None

    @property
    def precision(self) -> float | None:
        """Share of the attended regions that are right; None without any."""
        return self.right / self.attended if self.attended else None

    @property
    def volume_ratio(self) -> float | None:
        """Volume of attention over that of all errors; None without errors."""
        return self.attention_ml / self.error_ml if self.error_ml else None


def error_regions(predicted: Booleans, truth: Booleans, grid: Grid) -> tuple[npt.NDArray[np.int32], int]:
    """Labels 1 to n of the error regions, (X, Y, Z), and n.

    A region is a 26-connected part of ``predicted xor truth`` of at least .2 mL after an opening by one voxel (the cross of
    six neighbours), which takes away the thin band that every boundary leaves.

    >>> grid, truth = Grid((9, 9, 9), np.diag([5.0, 5.0, 5.0, 1.0])), np.zeros((9, 9, 9), bool)
    >>> predicted = truth.copy(); predicted[2:6, 2:6, 2:6] = True; predicted[8] = True
    >>> error_regions(predicted, truth, grid)[1]
    1
    """
    opened = ndimage.binary_opening(predicted ^ truth, _CROSS)
    labels, count = ndimage.label(opened, _CUBE)
    large = np.bincount(labels.ravel(), minlength=count + 1) * grid.voxel_ml >= LEAST_ML
    large[0] = False
    numbers = np.where(large, np.cumsum(large), 0).astype(np.int32)
    return numbers[labels], int(large.sum())


def count_regions(predicted: Booleans, truth: Booleans, attended: Booleans, grid: Grid) -> Regions:
    """What attention found of one class in one case; all (X, Y, Z) bool on `grid`."""
    labels, errors = error_regions(predicted, truth, grid)
    sizes = np.bincount(labels.ravel(), minlength=errors + 1)[1:]
    covered = np.bincount(labels[attended], minlength=errors + 1)[1:]
    parts, count = ndimage.label(attended, _CUBE)
    near = ndimage.binary_dilation(labels > 0, _CUBE)
    right = np.setdiff1d(np.unique(parts[near]), [0])
    return Regions(
        errors,
        int((covered >= COVERED * sizes).sum()) if errors else 0,
        count,
        len(right),
        float((predicted ^ truth).sum()) * grid.voxel_ml,
        float(attended.sum()) * grid.voxel_ml,
    )
