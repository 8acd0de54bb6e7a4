"""Random patches of a prepared case, and the published augmentation of them.

Centres are drawn evenly over classes first and over voxels second, so that a gall bladder is seen as often as a liver.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from ctune.config import Optimisation
from ctune.types import UNLABELLED, Mask, Volume

KEPT_VOXELS = 4000
"""Foreground voxels remembered of each class, evenly spaced over it: memory does not grow with an organ's size."""


def foreground(mask: Mask) -> npt.NDArray[np.int32]:
    """Up to about KEPT_VOXELS voxels of a mask's 1s, evenly spaced in memory order: (n, 3) int32."""
    flat = np.flatnonzero(np.asarray(mask) == 1)
    kept = flat[:: max(1, len(flat) // KEPT_VOXELS)]
    return np.stack(np.unravel_index(kept, mask.shape), axis=1).astype(np.int32)


class PatchSampler:
    """Draws patches of one case.

    image: (X, Y, Z) float32 in [0, 1]. labels: {class: (X, Y, Z) uint8 0, 1 or UNLABELLED}. Both may be memory-mapped;
    only the voxels of a patch are read. A volume smaller than the patch is padded: image 0, labels UNLABELLED.
    """

    def __init__(self, image: Volume, labels: Mapping[str, Mask], patch_size: tuple[int, int, int]) -> None:
        self.image, self.labels, self.patch_size = image, labels, patch_size
        self.voxels = {name: v for name, mask in labels.items() if len(v := foreground(mask))}

    def draw(self, rng: np.random.Generator, positive_share: float) -> tuple[Volume, dict[str, Mask]]:
        """A patch (x, y, z) float32 and its labels; with probability `positive_share` centred on a class's voxel."""
        centre = self._centre(rng, positive_share)
        size = np.array(self.patch_size)
        room = np.maximum(np.array(self.image.shape) - size, 0)
        corner = np.clip(centre - size // 2, 0, room)
        image = _cut(self.image, corner, self.patch_size, 0)
        return image, {
            name: _cut(mask, corner, self.patch_size, UNLABELLED) for name, mask in self.labels.items()
        }

    def _centre(self, rng: np.random.Generator, positive_share: float) -> npt.NDArray[np.int64]:
        if self.voxels and rng.random() < positive_share:
            name = sorted(self.voxels)[int(rng.integers(len(self.voxels)))]
            voxels = self.voxels[name]
            return np.asarray(voxels[int(rng.integers(len(voxels)))], dtype=np.int64)
        return np.asarray(rng.integers(self.image.shape))


def augment(
    image: Volume, labels: Mapping[str, Mask], settings: Optimisation, rng: np.random.Generator
) -> tuple[Volume, dict[str, Mask]]:
    """Published augmentation: a 90-degree rotation about the body's axis and a shift of intensity; never a flip.

    A flip would turn a left kidney into a right one. The inputs stay as they are. A rotation is left out where the
    patch is not square in the axial plane.
    """
    out = dict(labels)
    if rng.random() < settings.rotation_probability and image.shape[0] == image.shape[1]:
        turns = int(rng.integers(1, 4))
        image = np.rot90(image, turns, axes=(0, 1))
        out = {name: np.rot90(mask, turns, axes=(0, 1)) for name, mask in out.items()}
    if rng.random() < settings.intensity_shift_probability:
        image = image + np.float32(rng.uniform(-settings.intensity_shift, settings.intensity_shift))
    return image, out


def _cut(
    array: npt.NDArray[Any], corner: npt.NDArray[np.int64], size: tuple[int, int, int], fill: float
) -> npt.NDArray[Any]:
    part = array[tuple(slice(int(c), int(c) + s) for c, s in zip(corner, size, strict=True))]
    missing = [(0, s - n) for s, n in zip(size, part.shape, strict=True)]
    return np.pad(part, missing, constant_values=fill) if any(m for _, m in missing) else np.array(part)
