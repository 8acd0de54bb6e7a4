"""Patches: small organs are seen as often as large ones, and nothing is flipped."""

from __future__ import annotations

import numpy as np
import pytest

from ctune.config import Optimisation
from ctune.data.patches import KEPT_VOXELS, PatchSampler, augment, foreground
from ctune.types import UNLABELLED


def scene() -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """A large liver at one end, one voxel of gall bladder at the other."""
    image = np.random.default_rng(0).random((40, 16, 16), dtype=np.float32)
    liver, gall = np.zeros(image.shape, np.uint8), np.zeros(image.shape, np.uint8)
    liver[2:16, 2:14, 2:14] = 1
    gall[36, 8, 8] = 1
    return image, {"liver": liver, "gall_bladder": gall}


def test_one_voxel_is_drawn_as_often_as_two_thousand() -> None:
    image, labels = scene()
    sampler, rng = PatchSampler(image, labels, (8, 8, 8)), np.random.default_rng(0)
    seen = [bool(sampler.draw(rng, 1.0)[1]["gall_bladder"].any()) for _ in range(300)]
    assert 0.4 < np.mean(seen) < 0.6


def test_image_and_labels_are_of_the_same_place() -> None:
    image, labels = scene()
    labels["liver"] = (image > 0.5).astype(np.uint8)
    sampler, rng = PatchSampler(image, labels, (8, 8, 8)), np.random.default_rng(1)
    for _ in range(50):
        patch, found = sampler.draw(rng, 0.5)
        assert patch.shape == (8, 8, 8) and patch.dtype == np.float32
        assert np.array_equal(found["liver"], patch > 0.5)


def test_beyond_the_volume_nothing_is_labelled() -> None:
    image, labels = scene()
    patch, found = PatchSampler(image[:, :4], {"liver": labels["liver"][:, :4]}, (8, 8, 8)).draw(
        np.random.default_rng(0), 0.0
    )
    assert (patch[:, 4:] == 0).all() and (found["liver"][:, 4:] == UNLABELLED).all()
    assert (found["liver"][:, :4] != UNLABELLED).all()


def test_remembered_voxels_are_bounded_and_spread_over_the_organ() -> None:
    mask = np.zeros((60, 60, 60), np.uint8)
    mask[5:55, 5:55, 5:55] = 1
    voxels = foreground(mask)
    assert KEPT_VOXELS <= len(voxels) < 2 * KEPT_VOXELS
    assert voxels.min(axis=0).tolist() == [5, 5, 5] and voxels.max() >= 50
    assert foreground(np.full((2, 2, 2), UNLABELLED, np.uint8)).shape == (0, 3)


def test_augmentation_rotates_and_shifts_but_never_flips() -> None:
    settings = Optimisation(rotation_probability=1.0, intensity_shift_probability=1.0)
    corner = np.zeros((4, 4, 4), np.float32)
    corner[0, 1, 0] = 1.0
    before, seen = corner.copy(), set()
    for seed in range(60):
        image, labels = augment(
            corner, {"a": (corner > 0).astype(np.uint8)}, settings, np.random.default_rng(seed)
        )
        at = np.unravel_index(image.argmax(), image.shape)
        assert labels["a"][at] == 1 and at[2] == 0, "labels turn with the image; the body's axis stays"
        assert abs(float(image.min())) <= settings.intensity_shift
        seen.add(tuple(int(i) for i in at[:2]))
    # The three turns of (0, 1); a flip would give (3, 1), (0, 2), (1, 0) or (2, 3).
    assert seen == {(1, 3), (3, 2), (2, 0)}
    assert np.array_equal(corner, before)


@pytest.mark.parametrize("probability", [0.0])
def test_without_augmentation_the_patch_is_itself(probability: float) -> None:
    image, labels = scene()
    settings = Optimisation(rotation_probability=probability, intensity_shift_probability=probability)
    got, found = augment(image, labels, settings, np.random.default_rng(0))
    assert got is image and found == labels
