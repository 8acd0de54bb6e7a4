"""To the network's space and back: nothing moves in the world, whatever the orientation, spacing or angle."""

from __future__ import annotations

import itertools

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ctune.config import PercentileWindow, Preprocessing
from ctune.data.preprocess import labels_to_network, to_network, to_source
from ctune.types import UNLABELLED, Case, Grid

NATIVE = Preprocessing(spacing_mm="native", crop_foreground=False)
ORIENTATIONS = [
    (axes, signs)
    for axes in itertools.permutations(range(3))
    for signs in itertools.product((1, -1), repeat=3)
]


def affine_of(
    axes: tuple[int, ...], signs: tuple[int, ...], spacing: tuple[float, ...], degrees: float = 0.0
) -> np.ndarray:
    affine = np.eye(4)
    affine[:3, :3] = 0
    for column, (axis, sign) in enumerate(zip(axes, signs, strict=True)):
        affine[axis, column] = sign * spacing[column]
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    affine[:3, :3] = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) @ affine[:3, :3]
    affine[:3, 3] = (12.5, -40, 7)
    return affine


def case_of(shape: tuple[int, int, int], affine: np.ndarray, seed: int = 0) -> Case:
    return Case(
        "c", np.random.default_rng(seed).normal(40, 120, shape).astype(np.float32), Grid(shape, affine)
    )


def world(mask: np.ndarray, grid: Grid) -> np.ndarray:
    points = nib.affines.apply_affine(grid.affine, np.argwhere(mask))
    return points[np.lexsort(points.round(3).T)]


@pytest.mark.parametrize(("axes", "signs"), ORIENTATIONS)
def test_every_orientation_is_undone_exactly_at_native_spacing(
    axes: tuple[int, ...], signs: tuple[int, ...]
) -> None:
    case = case_of((5, 6, 7), affine_of(axes, signs, (1, 1.5, 3)))
    volume, frame = to_network(case, NATIVE)
    assert nib.aff2axcodes(frame.network.affine) == ("R", "A", "S")
    mask = (case.volume > 60).astype(np.uint8)
    moved = labels_to_network(mask, frame)
    assert np.allclose(world(mask, case.grid), world(moved, frame.network))
    p = np.random.default_rng(1).random((2, *volume.shape), dtype=np.float32)
    back = to_source(p, frame)
    assert np.array_equal(np.sort(back, axis=None), np.sort(p, axis=None))
    assert np.array_equal(labels_to_network((back[1] > 0.5).astype(np.uint8), frame), p[1] > 0.5)


@settings(max_examples=60, deadline=None)
@given(
    orientation=st.sampled_from(ORIENTATIONS),
    spacing=st.tuples(*[st.floats(0.6, 4.0)] * 3),
    degrees=st.floats(-30, 30),
    target=st.tuples(*[st.floats(0.8, 3.0)] * 3),
    crop=st.booleans(),
)
def test_a_ball_stays_where_it_is(
    orientation: tuple[tuple[int, ...], tuple[int, ...]],
    spacing: tuple[float, float, float],
    degrees: float,
    target: tuple[float, float, float],
    crop: bool,
) -> None:
    """A ball of 40 mm: its centre of mass in the world moves by less than half a voxel, there and back."""
    affine = affine_of(*orientation, spacing, degrees)
    shape = tuple(round(70 / s) for s in spacing)
    centre = nib.affines.apply_affine(affine, [(n - 1) / 2 for n in shape])
    points = nib.affines.apply_affine(affine, np.argwhere(np.ones(shape)))
    ball = (np.linalg.norm(points - centre, axis=1) < 20).reshape(shape).astype(np.uint8)
    case = Case("ball", np.where(ball, 100, -1000).astype(np.float32), Grid(shape, affine))
    volume, frame = to_network(case, Preprocessing(spacing_mm=target, crop_foreground=crop))
    assert volume.shape == frame.network.shape and volume.dtype == np.float32
    moved = labels_to_network(ball, frame)
    tolerance = 0.5 * max(*spacing, *target)
    assert np.linalg.norm(world(moved, frame.network).mean(axis=0) - centre) < tolerance
    back = to_source(moved[None].astype(np.float32), frame)[0] > 0.5
    assert back.shape == shape
    assert np.linalg.norm(world(back, case.grid).mean(axis=0) - centre) < tolerance
    overlap = 2 * (back & (ball == 1)).sum() / (back.sum() + ball.sum())
    assert overlap > 0.75


def test_a_spacing_that_equals_up_to_rounding_is_not_interpolated() -> None:
    case = case_of((6, 6, 6), np.diag([1.5000001, 1.5, 1.4999999, 1]))
    volume, frame = to_network(case, Preprocessing(crop_foreground=False))
    assert frame.keeps_spacing
    assert np.array_equal(volume, np.clip((case.volume + 175) * np.float32(1 / 425), 0, 1))


def test_the_crop_is_undone_and_air_gets_no_probability() -> None:
    hu = np.full((9, 8, 7), -1000, dtype=np.float32)
    hu[2:5, 3:6, 1:4] = 50
    volume, frame = to_network(Case("c", hu, Grid(hu.shape, np.eye(4))), Preprocessing(spacing_mm="native"))
    assert volume.shape == (3, 3, 3)
    back = to_source(np.ones((1, 3, 3, 3), dtype=np.float32), frame)
    assert np.array_equal(back[0] == 1, hu == 50)


def test_a_volume_of_air_alone_is_not_cropped_away() -> None:
    hu = np.full((4, 4, 4), -1000, dtype=np.float32)
    assert to_network(Case("c", hu, Grid(hu.shape, np.eye(4))), Preprocessing(spacing_mm="native"))[
        0
    ].shape == (4, 4, 4)


def test_unjudged_voxels_stay_unjudged() -> None:
    case = case_of((6, 6, 6), np.eye(4))
    _, frame = to_network(case, Preprocessing(spacing_mm=(0.7, 0.7, 0.7), crop_foreground=False))
    mask = np.zeros((6, 6, 6), dtype=np.uint8)
    mask[3:] = UNLABELLED
    assert set(np.unique(labels_to_network(mask, frame))) == {0, UNLABELLED}


def test_hu_window_and_percentile_window() -> None:
    volume = np.array([-500, -175, 37.5, 250, 900], dtype=np.float32).reshape(5, 1, 1)
    case = Case("c", volume, Grid((5, 1, 1), np.eye(4)))
    assert np.allclose(to_network(case, NATIVE)[0].ravel(), [0, 0, 0.5, 1, 1])
    mr = Preprocessing(
        spacing_mm="native", crop_foreground=False, window=PercentileWindow(low=0.5, high=99.5)
    )
    for gain in (1.0, 1e4):
        scan = Case(
            "m",
            np.linspace(0, 1, 1000, dtype=np.float32).reshape(10, 10, 10) * gain,
            Grid((10, 10, 10), np.eye(4)),
        )
        windowed, _ = to_network(scan, mr)
        assert windowed.min() == 0 and windowed.max() == 1
        assert abs(float(np.median(windowed)) - 0.5) < 0.01


def test_the_case_is_not_changed() -> None:
    case = case_of((6, 6, 6), np.eye(4))
    before = case.volume.copy()
    for preprocessing in (NATIVE, Preprocessing()):
        to_network(case, preprocessing)
        assert np.array_equal(case.volume, before)
