"""Importance: the published recipe by hand, and ctune's own without its flaws."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from scipy import ndimage

from ctune.config import ImportanceConfig
from ctune.importance import (
    aa8k,
    binary_entropy,
    inconsistency,
    one_sided_entropy,
    overlaps,
    read_importances,
    score_case,
    write_importances,
)
from ctune.importance.morphology import wide
from ctune.types import Grid, Prediction

CTUNE, AA8K = ImportanceConfig(recipe="ctune"), ImportanceConfig(recipe="aa8k")


def ball(spacing: float, radius: float = 20.0, half: float = 40.0, sharpness: float = 0.4) -> np.ndarray:
    """Probability of a soft ball: a logistic of the distance to its surface in mm."""
    axis = np.arange(-half, half, spacing) + spacing / 2
    r = np.sqrt(sum(a**2 for a in np.meshgrid(axis, axis, axis, indexing="ij")))
    return (1 / (1 + np.exp(sharpness * (r - radius)))).astype(np.float32)


def prediction(*channels: np.ndarray, spacing: float = 1.0, spread: np.ndarray | None = None) -> Prediction:
    names = ("liver", "spleen", "aorta")[: len(channels)]
    stacked = np.stack(channels)
    grid = Grid(stacked.shape[1:], np.diag([spacing] * 3 + [1.0]))
    return Prediction("c", names, stacked, grid, "m", spread)


@given(st.floats(0, 1, width=32))
def test_entropies_are_finite_and_bounded(p: float) -> None:
    values = np.array([p], dtype=np.float32)
    assert 0 <= binary_entropy(values)[0] <= 1 + 1e-6
    assert -1e-7 <= one_sided_entropy(values)[0] <= 1 / math.e + 1e-6


def test_entropies_by_hand() -> None:
    p = np.array([0.0, 0.25, 0.5, 1.0], dtype=np.float32)
    assert np.allclose(binary_entropy(p), [0, 0.811278, 1, 0], atol=1e-5)
    assert np.allclose(one_sided_entropy(p), [0, 0.25 * math.log(4), 0.5 * math.log(2), 0], atol=1e-6)


def test_inconsistency_is_the_population_deviation() -> None:
    members = np.array([[0.2], [0.6]], dtype=np.float32)
    assert inconsistency(members)[0] == pytest.approx(0.2)
    assert inconsistency(members[:1])[0] == 0.0


def test_overlap_is_where_two_classes_claim_a_voxel() -> None:
    masks = np.zeros((3, 4, 1, 1), dtype=bool)
    masks[0, :3], masks[1, 2:] = True, True
    assert overlaps(masks)[:, :, 0, 0].tolist() == [
        [False, False, True, False],
        [False, False, True, False],
        [False] * 4,
    ]


# The published recipe -------------------------------------------------------------------------------------------------


def cube(low: int, high: int, value: float, size: int = 16) -> np.ndarray:
    p = np.zeros((size, size, size), dtype=np.float32)
    p[low:high, low:high, low:high] = value
    return p


def test_aa8k_by_hand_one_model() -> None:
    """A cube of 7^3 at p = .6: -p ln p = .306 > .05 there and nowhere else; the opening of a cube is itself."""
    result = aa8k(cube(4, 11, 0.6)[None, None])
    assert result.uncertain.sum() == 343 and result.inconsistent.sum() == 0 and result.overlapping.sum() == 0
    assert result.attention.sum() == 343
    assert np.allclose(result.heat[result.attention], 1.0)


def test_aa8k_by_hand_two_models_that_disagree() -> None:
    """p = 1 against p = 0 in a cube of 5^3: deviation .5, no entropy, and the ensemble mask (mean .5) is empty."""
    result = aa8k(np.stack([cube(5, 10, 1.0), cube(5, 10, 0.0)])[:, None])
    assert result.inconsistent.sum() == 125 and result.uncertain.sum() == 0
    assert result.heat.max() == 1.0


def test_aa8k_soft_mask_ends_one_voxel_outside_the_hard_one() -> None:
    """Two models with equal hard masks but different rims: only the rim within one voxel counts as disagreement."""
    a, b = cube(5, 10, 1.0, 20), cube(5, 10, 1.0, 20)
    a[a == 0] = 0.4
    result = aa8k(np.stack([a, b])[:, None])
    rim = cube(4, 11, 1.0, 20) - cube(5, 10, 1.0, 20)
    spread = np.where(rim > 0, 0.2, 0.0)
    # The rim is one voxel thick: the opening of two erosions deletes it, the flaw that ctune's recipe must not have.
    assert (spread > 0.1).sum() == 218 and result.inconsistent.sum() == 0


def test_aa8k_overlap_only_between_listed_classes() -> None:
    channels = np.stack([cube(2, 9, 1.0), cube(6, 12, 1.0), cube(2, 9, 1.0)])[None]
    both = aa8k(channels, overlap_classes=[0, 1]).overlapping
    # The third class is not listed: others do not count it, but it counts the first, in which it lies whole.
    assert [int(o.sum()) for o in both] == [27, 27, 343]
    assert aa8k(channels[:, :1]).overlapping.sum() == 0


def test_aa8k_without_attention_is_zero_not_nan() -> None:
    result = aa8k(np.zeros((1, 2, 6, 6, 6), dtype=np.float32))
    assert not result.attention.any() and (result.heat == 0).all()
    assert score_case(prediction(np.zeros((6, 6, 6), np.float32)), AA8K).score == 0.0


# ctune's own ----------------------------------------------------------------------------------------------------------


def test_spacing_does_not_decide() -> None:
    coarse, fine = (score_case(prediction(ball(s), spacing=s), CTUNE).score for s in (2.0, 1.0))
    assert abs(coarse - fine) / fine < 0.05
    a, b = (score_case(prediction(ball(s), spacing=s), AA8K).score for s in (2.0, 1.0))
    assert b > 5 * a, "the published score counts voxels"


def test_field_of_view_does_not_decide() -> None:
    p = ball(2.0, sharpness=1.0)
    padded = np.pad(p, 10)
    assert score_case(prediction(padded, spacing=2.0), CTUNE).score == pytest.approx(
        score_case(prediction(p, spacing=2.0), CTUNE).score, rel=1e-3
    )


def test_a_thin_structure_counts() -> None:
    """Two voxels wide, 4 mm: half a millilitre."""
    vessel = np.zeros((20, 20, 20), dtype=np.float32)
    vessel[10:12, 10:12, :] = 0.6
    found = score_case(prediction(vessel, spacing=2.0), CTUNE)
    assert found.score > 0 and found.attention[10:12, 10:12].min() > 200
    assert score_case(prediction(vessel, spacing=2.0), AA8K).score == 0.0, "the published opening deletes it"


def test_an_unsure_model_scores_higher_than_a_sure_one() -> None:
    sure, unsure = (
        score_case(prediction(ball(2.0, sharpness=k), spacing=2.0), CTUNE).score for k in (2.0, 0.3)
    )
    assert unsure > 2 * sure


def test_inconsistency_and_overlap_add_to_the_score() -> None:
    p = ball(2.0)
    alone = score_case(prediction(p, spacing=2.0), CTUNE)
    shaky = score_case(prediction(p, spacing=2.0, spread=np.full((1, *p.shape), 0.1, np.float32)), CTUNE)
    assert shaky.score > alone.score and "mL inconsistent" in shaky.classes["liver"].reason
    double = score_case(prediction(p, p, spacing=2.0), CTUNE)
    assert (
        double.classes["liver"].overlapping > 0 and "overlap other classes" in double.classes["liver"].reason
    )


def test_neighbours_that_touch_do_not_overlap() -> None:
    """Both claim one plane where they meet, as in every case; two planes are an error of 2 mm; so is one plane of 5 mm."""
    left, right = (np.zeros((24, 24, 24), dtype=np.float32) for _ in range(2))
    left[:12], right[11:] = 1.0, 1.0

    def ml(*masks: np.ndarray, spacing: tuple[float, float, float] = (1.0, 1.0, 1.0)) -> tuple[float, int]:
        grid = Grid(masks[0].shape, np.diag([*spacing, 1.0]))
        found = score_case(Prediction("case", ("liver", "spleen"), np.stack(masks), grid, model="m"), CTUNE)
        return found.classes["liver"].overlapping, int((found.attention > 0).sum())

    assert ml(left, right) == (0.0, 0)
    right[10] = 1.0
    overlapping, attended = ml(left, right)
    assert overlapping == pytest.approx(1.152) and attended >= 1152, "two planes of 576 mm3"
    right[10] = 0.0
    assert ml(left, right, spacing=(5.0, 1.0, 1.0))[0] == pytest.approx(2.88), "a plane of 5 mm is no sheet"


@given(arrays(bool, array_shapes(min_dims=3, max_dims=3, max_side=7)), st.booleans())
def test_what_is_wide_is_an_opening_by_two_voxels(mask: np.ndarray, thick: bool) -> None:
    box = np.ones((2, 2, 1 if thick else 2), dtype=bool)
    opened = ndimage.binary_opening(np.pad(mask, 2), box)[2:-2, 2:-2, 2:-2]
    assert np.array_equal(wide(mask, (1.0, 2.9, 3.0 if thick else 1.0)), opened)


def test_reasons_are_words_with_millilitres() -> None:
    p = ball(2.0)
    p[1:3, 1:3, 1:3] = 1.0
    reason = score_case(prediction(p, spacing=2.0), CTUNE).classes["liver"].reason
    assert reason.startswith("liver: ") and "mL uncertain" in reason and reason.endswith("two components")
    assert (
        "not found" in score_case(prediction(np.zeros((5, 5, 5), np.float32)), CTUNE).classes["liver"].reason
    )


def test_attention_is_bytes_on_the_cts_grid_and_only_the_asked_classes_count() -> None:
    p = prediction(ball(2.0), np.full((40, 40, 40), 0.5, np.float32), spacing=2.0)
    found = score_case(p, CTUNE, classes=["liver"])
    assert found.attention.dtype == np.uint8 and found.attention.shape == (40, 40, 40)
    assert found.classes.keys() == {"liver"} and found.attention[0, 0, 0] < 10


def test_scores_on_disk(tmp_path: Path) -> None:
    summary = score_case(prediction(ball(2.0), spacing=2.0), CTUNE).summary()
    write_importances(tmp_path / "scores.json", [summary])
    assert read_importances(tmp_path / "scores.json") == [summary]
