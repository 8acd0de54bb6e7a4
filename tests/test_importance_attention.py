"""Attention of ctune: errors, not the rim that every organ has; independent of field of view and spacing."""

from __future__ import annotations

import numpy as np
import pytest

from ctune.config import ImportanceConfig
from ctune.importance import Importance, score_case
from ctune.importance.blocks import block_sizes
from ctune.types import Grid, Prediction

OWN = ImportanceConfig()


def radius(spacing: float, half: float = 48.0, at: tuple[float, float, float] = (0, 0, 0)) -> np.ndarray:
    """Distance in mm to `at`, on a cube of 2 `half` mm."""
    axis = np.arange(-half, half, spacing) + spacing / 2
    return np.sqrt(
        sum((a - b) ** 2 for a, b in zip(np.meshgrid(axis, axis, axis, indexing="ij"), at, strict=True))
    )


def soft(r: np.ndarray, size: float, width: float) -> np.ndarray:
    """Probability that falls from 1 to 0 over about `width` mm at `size` mm."""
    return (1 / (1 + np.exp(np.minimum((r - size) * 4 / width, 50)))).astype(np.float32)


def score(p: np.ndarray, spacing: float, **more: object) -> Importance:
    grid = Grid(p.shape, np.diag([spacing] * 3 + [1.0]))
    return score_case(Prediction("c", ("liver",), p[None], grid, "m"), OWN, **more)  # type: ignore[arg-type]


def with_an_error(spacing: float) -> tuple[np.ndarray, np.ndarray]:
    """A sure ball, and a lobe of 12 mm on its side of which the model is not sure; where the lobe is."""
    ball, r = soft(radius(spacing), 25.0, 2.0), radius(spacing, at=(30.0, 0, 0))
    return np.maximum(ball, 0.45 * soft(r, 12.0, 2.0)), (r < 12.0) & (ball < 0.5)


@pytest.mark.parametrize("spacing", [1.5, 3.0])
def test_the_unsure_lobe_is_found_and_the_sure_rim_is_left(spacing: float) -> None:
    p, lobe = with_an_error(spacing)
    attended = score(p, spacing).attention > 0
    assert attended[lobe].mean() > 0.8
    assert attended[(p < 0.02) & (radius(spacing, at=(30.0, 0, 0)) > 20)].mean() < 0.02
    sure = score(soft(radius(spacing), 25.0, 0.2), spacing).attention > 0
    assert not sure.any(), "a border sharper than a voxel calls for nothing"


def test_an_island_that_one_of_three_models_sees_alone_is_not_attended_and_what_divides_them_is() -> None:
    """An island at .97 in one and at 0 in two has a mean of .32; where the second is unsure it has one of .47. Both are doubt."""
    grid, sure = Grid((64, 64, 64), np.diag([1.5, 1.5, 1.5, 1.0])), soft(radius(1.5), 25.0, 0.2)
    island = 0.97 * soft(radius(1.5, at=(40.0, 0, 0)), 8.0, 1.0)

    def attended(*shares: float) -> int:
        models = [
            Prediction("c", ("liver",), np.maximum(sure, share * island)[None], grid, "m") for share in shares
        ]
        return int((score_case(models, OWN).attention[56:] > 0).sum())

    assert attended(1.0, 0.0, 0.0) == 0 and attended(1.0, 0.45, 0.0) > 0
    assert attended(0.33) == attended(0.33, 0.33, 0.33) > 0, "a third of which all are sure is no minority"


def test_what_is_too_small_to_correct_is_no_region() -> None:
    speck = np.zeros((20, 20, 20), dtype=np.float32)
    speck[10:13, 10:13, 10:13] = 0.5
    assert (score(speck, 1.0).attention > 0).sum() == 0, "27 mm3 at an even chance: 0.014 mL expected"
    assert (score(speck, 4.0).attention > 0).sum() > 0, "the same voxels of 4 mm: 0.9 mL expected"


def test_what_is_finer_than_the_networks_voxels_is_no_region() -> None:
    """The same probabilities on the same CT: a region of a few voxels of a coarse network is how it interpolates."""
    speck = np.zeros((20, 20, 20), dtype=np.float32)
    speck[8:13, 8:13, 8:13] = 0.5
    grid = Grid(speck.shape, np.diag([2.5, 2.5, 2.5, 1.0]))

    def attended(*spacing_mm: float) -> int:
        of = Prediction("c", ("liver",), speck[None], grid, "m", network_spacing_mm=spacing_mm or None)  # type: ignore[arg-type]
        return int((score_case(of, OWN).attention > 0).sum())

    assert attended() == attended(2.5, 2.5, 2.5) > 0, "1 mL expected: 62 voxels' worth of a network at 2.5 mm"
    assert attended(5.0, 5.0, 5.0) == 0, "less than ten voxels of 5 mm"


@pytest.mark.parametrize(
    ("network_mm", "blocks"), [(0.0, (1, 2, 2)), (1.5, (1, 2, 2)), (2.7, (2, 3, 3)), (9.0, (3, 3, 3))]
)
def test_a_block_is_as_large_as_a_voxel_of_the_network(network_mm: float, blocks: tuple[int, ...]) -> None:
    assert block_sizes(Grid((9, 9, 9), np.diag([0.7, 0.7, 1.4, 1.0])), network_mm) == blocks


def test_nothing_gives_nothing() -> None:
    found = score(np.zeros((5, 6, 7), dtype=np.float32), 1.0)
    assert found.score == 0.0 and not found.attention.any() and found.attention.shape == (5, 6, 7)


def test_padding_and_cropping_air_change_nothing() -> None:
    p, _ = with_an_error(3.0)
    padded = score(np.pad(p, ((7, 2), (0, 9), (4, 4))), 3.0)
    alone = score(p, 3.0)
    assert padded.classes == alone.classes and padded.score == alone.score
    assert np.array_equal(padded.attention[7:-2, :-9, 4:-4], alone.attention)
    tight = [slice(int(a.min()), int(a.max()) + 1) for a in np.nonzero(p > 0.02)]
    assert score(p[tuple(tight)], 3.0).score == alone.score


def test_the_same_body_resampled_scores_nearly_the_same() -> None:
    coarse, fine = (score(with_an_error(spacing)[0], spacing) for spacing in (3.0, 1.5))
    a, b = coarse.classes["liver"], fine.classes["liver"]
    assert a.score == pytest.approx(b.score, rel=0.05)
    assert a.uncertain == pytest.approx(b.uncertain, rel=0.05)
    assert a.expected_ml == pytest.approx(b.expected_ml, rel=0.05)
    assert a.measures["doubt"] == pytest.approx(b.measures["doubt"], rel=0.05)


def test_every_measure_is_there_and_none_is_a_number_of_voxels() -> None:
    found = score(with_an_error(3.0)[0], 3.0).classes["liver"]
    assert list(found.measures) == [
        "doubt", "inconsistency", "disagreement", "overlap", "fragments", "volume", "side",
    ]  # fmt: skip
    assert all(0.0 <= value <= 1.0 for value in found.measures.values())
