"""What a head is tuned on: sub-patches of cached windows, around the organ and elsewhere."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from ctune.config import Tuning
from ctune.data.patches import foreground
from ctune.data.prepared import PreparedCase
from ctune.errors import ModelError
from ctune.model.base import Features
from ctune.model.features import Corner, FeatureSource, View, WindowFeatures, augmented, stack, window_corners
from ctune.types import UNLABELLED, OnProgress, Progress


@dataclass(frozen=True)
class Window:
    """One view of a window with its labels {class: (X, Y, Z) uint8} and the foreground voxels (n, 3) of each class."""

    case_id: str
    view: WindowFeatures
    labels: Mapping[str, np.ndarray]
    foreground: Mapping[str, np.ndarray]


def feature_windows(
    source: FeatureSource,
    cases: Sequence[PreparedCase],
    classes: Sequence[str],
    size: Corner,
    overlap: float,
    settings: Tuning,
    seed: int,
    on_progress: OnProgress,
) -> list[Window]:
    """The windows of all cases that annotate one of `classes`, laid as prediction lays them, with their features.

    Each in ``settings.views`` views: as it is, and augmented ones drawn by `seed` and case.
    """
    out = []
    for number, case in enumerate(cases):
        names = [name for name in classes if name in case.labels]
        for corner in window_corners(case.image.shape, size, overlap) if names else ():
            for index in range(settings.views):
                view = augmented(View(case.key, corner, size), index, seed, settings.intensity_shift)
                labels = {name: view.of_labels(case.labels[name], UNLABELLED) for name in names}
                found = {name: foreground(mask) for name, mask in labels.items()}
                features = source.open(view, partial(view.of_image, case.image))
                out.append(Window(case.case_id, features, labels, found))
        on_progress(Progress("cache features", number + 1, len(cases), case.case_id))
    return out


class SubPatches:
    """Draws batches of sub-patches of one class: around its voxels, and elsewhere for what it must not mistake."""

    def __init__(self, windows: Sequence[Window], name: str, settings: Tuning) -> None:
        if not windows:
            raise ModelError(
                f"expected at least one case with an annotation of {name}, got none; revise one first"
            )
        self.windows, self.name, self.settings = windows, name, settings
        self.positive = [w for w in windows if len(w.foreground[name])]

    @property
    def steps_per_epoch(self) -> int:
        cases = len({w.case_id for w in self.windows})
        return math.ceil(cases * self.settings.patches_per_case / self.settings.batch_size)

    def draw(self, rng: np.random.Generator) -> tuple[Features, torch.Tensor]:
        """(features of N sub-patches, target (N, 1, X, Y, Z) uint8)."""
        parts = [self._one(rng) for _ in range(self.settings.batch_size)]
        return stack([f for f, _ in parts]), torch.from_numpy(np.stack([t for _, t in parts]))[:, None]

    def _one(self, rng: np.random.Generator) -> tuple[Features, np.ndarray]:
        size = self.settings.patch_size
        positive = bool(self.positive) and rng.random() < self.settings.positive_share
        among = self.positive if positive else self.windows
        window = among[int(rng.integers(len(among)))]
        if positive:
            voxels = window.foreground[self.name]
            # Off-centre by up to a quarter of the sub-patch: the organ is not always seen in the middle.
            offset = rng.integers([-(s // 4) for s in size], [s // 4 + 1 for s in size])
            centre = voxels[int(rng.integers(len(voxels)))] + offset
        else:
            centre = rng.integers(window.view.size)
        corner = window.view.aligned(centre - np.array(size) // 2, size)
        where = tuple(slice(c, c + s) for c, s in zip(corner, size, strict=True))
        return window.view.read(corner, size), window.labels[self.name][where]
