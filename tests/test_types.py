"""Grids: spacing, volume and equality in world space, from affines one can picture."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest

from ctune.types import UNLABELLED, Grid, Progress, Source, Split, silent

TURN = np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])


def affine(linear: np.ndarray, origin: tuple[float, float, float] = (0, 0, 0)) -> np.ndarray:
    out = np.eye(4)
    out[:3, :3] = linear
    out[:3, 3] = origin
    return out


def test_spacing_is_read_along_the_voxel_axes_in_any_orientation() -> None:
    spacing = np.diag([0.7, 0.8, 5.0])
    for turn in (np.eye(3), TURN, np.diag([-1.0, -1, 1]), TURN.T @ np.diag([1.0, 1, -1])):
        assert Grid((2, 2, 2), affine(turn @ spacing)).spacing_mm == pytest.approx((0.7, 0.8, 5.0))


def test_the_volume_of_a_voxel_follows_the_shear() -> None:
    sheared = np.array([[1.0, 0, 0.5], [0, 2, 0], [0, 0, 3]])
    assert Grid((2, 2, 2), affine(sheared)).voxel_ml == pytest.approx(1 * 2 * 3 / 1000)
    assert Grid((2, 2, 2), affine(-sheared)).voxel_ml == pytest.approx(0.006)


def test_equal_grids_are_equal_and_hash_alike() -> None:
    a, b = Grid((2, 3, 4), affine(np.eye(3))), Grid((2, 3, 4), affine(np.eye(3)))
    assert a == b
    assert hash(a) == hash(b)
    assert a != Grid((2, 3, 4), affine(np.eye(3), (0, 0, 1e-9)))
    assert a != "a grid"


def test_a_grid_keeps_its_own_affine() -> None:
    given = affine(np.eye(3))
    grid = Grid((2, 2, 2), given)
    given[0, 0] = 9
    assert grid.affine[0, 0] == 1
    with pytest.raises(ValueError, match="read-only"):
        grid.affine[0, 0] = 2


@pytest.mark.parametrize(
    ("shape", "other", "same"),
    [
        ((100, 2, 2), affine(np.eye(3), (0.009, 0, 0)), True),
        ((100, 2, 2), affine(np.eye(3), (0.011, 0, 0)), False),
        # A spacing that differs by a thousandth of a millimetre is a tenth of one at the far corner.
        ((100, 2, 2), affine(np.diag([1.001, 1, 1])), False),
        ((5, 2, 2), affine(np.diag([1.001, 1, 1])), True),
        ((100, 2, 2), affine(np.diag([-1.0, 1, 1]), (99, 0, 0)), False),
    ],
)
def test_grids_match_by_where_their_corners_lie(
    shape: tuple[int, int, int], other: np.ndarray, same: bool
) -> None:
    assert Grid(shape, affine(np.eye(3))).matches(Grid(shape, other)) is same


def test_grids_of_another_shape_never_match() -> None:
    assert not Grid((2, 2, 3), np.eye(4)).matches(Grid((2, 3, 2), np.eye(4)))


def test_a_grid_describes_itself_in_one_line() -> None:
    grid = Grid((512, 512, 90), affine(np.diag([-0.75, -0.75, 2.5]), (190.5, 12, -400)))
    assert grid.describe() == (
        "shape 512x512x90, spacing 0.75x0.75x2.5 mm, origin (190.50, 12.00, -400.00) mm, axes LPS"
    )


def test_the_values_that_files_hold() -> None:
    assert UNLABELLED == 255
    assert [str(s) for s in Source] == ["original", "revised", "predicted"]
    assert [str(s) for s in Split] == ["pool", "validation", "test"]


def test_a_silent_listener_takes_any_step() -> None:
    step = Progress("tune", 1, 2, figures={"loss": 0.5})
    silent(step)
    assert isinstance(step.figures, Mapping)
