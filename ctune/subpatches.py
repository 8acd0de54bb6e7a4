"""What a head is tuned on: sub-patches of cached windows, around the organ and elsewhere."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch

from ctune.config import Tuning
from ctune.data.patches import foreground
from ctune.data.prepared import PreparedCase
from ctune.errors import ModelError
from ctune.model.base import Features
from ctune.model.features import (
    Corner,
    FeatureSource,
    PassedFeatures,
    View,
    WindowFeatures,
    augmented,
    cut,
    stack,
    window_corners,
)
from ctune.types import UNLABELLED, OnProgress, Progress


@dataclass(frozen=True)
class Window:
    """One view of a window with its labels {class: (X, Y, Z) uint8} and the foreground voxels (n, 3) of each class.

    neighbours: {class: voxels (n, 3) of other classes beside it}; empty unless ``settings.neighbour_share`` asks.
    """

    case_id: str
    view: WindowFeatures
    labels: Mapping[str, np.ndarray]
    foreground: Mapping[str, np.ndarray]
    neighbours: Mapping[str, np.ndarray] = field(default_factory=dict)


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

    For each class those that hold it and, of the others of a case, ``settings.background_windows`` drawn by `seed`, case and
    class: which other classes are tuned changes nothing. Each in ``settings.views`` views: as it is, and augmented ones
    drawn by `seed` and case.
    """
    out = []
    left_out = 0
    for number, case in enumerate(cases):
        for corner, names in chosen_windows(case, classes, size, overlap, settings, seed).items():
            for index in range(settings.views):
                view = augmented(View(case.key, corner, size), index, seed, settings.intensity_shift)
                labels = {name: view.of_labels(case.labels[name], UNLABELLED) for name in names}
                found = {name: foreground(mask) for name, mask in labels.items()}
                beside = {}
                if settings.neighbour_share:
                    every = {name: view.of_labels(mask, UNLABELLED) for name, mask in case.labels.items()}
                    beside = {name: neighbours(every, name, settings.patch_size) for name in names}
                features = source.open(view, partial(view.of_image, case.image))
                out.append(Window(case.case_id, features, labels, found, beside))
                left_out += settings.cache_gb > 0 and isinstance(features, PassedFeatures)
        # Said aloud, because the base then runs in the loop, which may be a hundred times slower.
        full = f", {left_out} windows did not fit: raise tune.cache_gb" if left_out else ""
        on_progress(Progress("cache features", number + 1, len(cases), f"{case.case_id}{full}"))
    return out


def chosen_windows(
    case: PreparedCase, classes: Sequence[str], size: Corner, overlap: float, settings: Tuning, seed: int
) -> dict[Corner, list[str]]:
    """{corner of a window: the classes that it teaches}, in the order of corners."""
    corners = window_corners(case.image.shape, size, overlap)
    teaches: dict[Corner, list[str]] = {corner: [] for corner in corners}
    for name in classes:
        if name not in case.labels:
            continue
        mask = case.labels[name]
        holds = [bool((cut(mask, corner, size, UNLABELLED) == 1).any()) for corner in corners]
        theirs = [corner for corner, held in zip(corners, holds, strict=True) if held]
        others = [corner for corner, held in zip(corners, holds, strict=True) if not held]
        kept = covering(mask, theirs, size) if settings.window_cover == "organ" else theirs
        about = hashlib.sha256(json.dumps([seed, case.key, name]).encode()).digest()
        rng = np.random.default_rng(int.from_bytes(about[:8], "big"))
        count = len(others) if settings.background_windows == "all" else settings.background_windows
        drawn = rng.permutation(len(others))[:count]
        for corner in {*kept, *(others[i] for i in drawn)}:
            teaches[corner].append(name)
    return {corner: names for corner, names in teaches.items() if names}


def covering(mask: np.ndarray, corners: Sequence[Corner], size: Corner) -> list[Corner]:
    """Few of the windows at `corners` that together hold every voxel of a class that any of them holds.

    Greedily, as in Chvatal (1979), A greedy heuristic for the set-covering problem; a voxel counts where it is at least an
    eighth of a window from its rim, when there is such a window, so that its surroundings are seen too. mask: (X, Y, Z) uint8.
    """
    low, sides = np.array(corners).reshape(-1, 3), np.array(size)
    # By blocks of a twenty-fourth of a window: a liver has a million voxels.
    block = np.maximum(sides // 24, 1)
    voxels = np.unique(np.argwhere(mask == 1) // block, axis=0) * block + block // 2
    inside = ((voxels[None] >= low[:, None]) & (voxels[None] < (low + sides)[:, None])).all(axis=2)
    rim = sides // 8
    amid = inside & (
        (voxels[None] >= (low + rim)[:, None]) & (voxels[None] < (low + sides - rim)[:, None])
    ).all(axis=2)
    sees = np.where(amid.any(axis=0), amid, inside)
    left, chosen = sees.any(axis=0), []
    while left.any():
        best = int((sees & left).sum(axis=1).argmax())
        chosen.append(corners[best])
        left &= ~sees[best]
    return chosen


def neighbours(labels: Mapping[str, np.ndarray], name: str, size: Corner) -> np.ndarray:
    """Voxels (n, 3) of other classes beside `name`: in its box, half a sub-patch of `size` larger on each side, and judged
    not to be of it. labels: {class: (X, Y, Z) uint8} of one window; none where the window does not hold the class.
    """
    own = foreground(labels[name])
    if not len(own):
        return own
    low, high = (own.min(axis=0), own.max(axis=0) + 1)
    box = tuple(
        slice(max(0, int(a) - s // 2), int(b) + s // 2) for a, b, s in zip(low, high, size, strict=True)
    )
    others = [mask[box] == 1 for other, mask in labels.items() if other != name]
    beside = np.any(others, axis=0) if others else np.zeros(labels[name][box].shape, bool)
    found = foreground((beside & (labels[name][box] == 0)).astype(np.uint8))
    shifted: np.ndarray = found + np.array([part.start for part in box])
    return shifted


class SubPatches:
    """Draws batches of sub-patches of one class: around its voxels, and elsewhere for what it must not mistake.

    Windows that hold the class are drawn evenly, and voxels in them: an organ of 30 voxels in one case of twelve is in
    ``settings.positive_share`` of the sub-patches, as a liver is. Of the others, ``settings.neighbour_share`` are around
    other classes beside it, and of what is left ``settings.hard_share`` around what the head took for the class when
    ``mine`` looked last.
    """

    def __init__(self, windows: Sequence[Window], name: str, settings: Tuning) -> None:
        if not windows:
            raise ModelError(
                f"expected at least one case with an annotation of {name}, got none; revise one first"
            )
        self.windows, self.name, self.settings = windows, name, settings
        self.positive = [(w, w.foreground[name]) for w in windows if len(w.foreground[name])]
        beside = [(w, w.neighbours.get(name, ())) for w in windows if settings.neighbour_share]
        self.beside = [(w, np.asarray(voxels)) for w, voxels in beside if len(voxels)]
        self.mistaken: list[tuple[Window, np.ndarray]] = []

    @property
    def steps_per_epoch(self) -> int:
        cases = len({w.case_id for w in self.windows})
        return math.ceil(cases * self.settings.patches_per_case / self.settings.batch_size)

    def mine(self, logits: Callable[[Features], torch.Tensor]) -> int:
        """Remember where the head finds the class and an annotation says that it is not; the number of such windows.

        logits: features of a window -> (1, 1, X, Y, Z), more than 0 where the head finds the class.
        """
        self.mistaken = []
        for window in self.windows:
            found = logits(window.view.read((0, 0, 0), window.view.size))[0, 0].cpu().numpy() > 0
            wrong = foreground((found & (window.labels[self.name] == 0)).astype(np.uint8))
            if len(wrong):
                self.mistaken.append((window, wrong))
        return len(self.mistaken)

    def draw(self, rng: np.random.Generator) -> tuple[Features, torch.Tensor]:
        """(features of N sub-patches, target (N, 1, X, Y, Z) uint8)."""
        parts = [self._one(rng) for _ in range(self.settings.batch_size)]
        return stack([f for f, _ in parts]), torch.from_numpy(np.stack([t for _, t in parts]))[:, None]

    def _one(self, rng: np.random.Generator) -> tuple[Features, np.ndarray]:
        size = self.settings.patch_size
        if self.positive and rng.random() < self.settings.positive_share:
            window, centre = self._around(self.positive, rng)
        elif self.beside and rng.random() < self.settings.neighbour_share:
            window, centre = self._around(self.beside, rng)
        elif self.mistaken and rng.random() < self.settings.hard_share:
            window, centre = self._around(self.mistaken, rng)
        else:
            window = self.windows[int(rng.integers(len(self.windows)))]
            centre = rng.integers(window.view.size)
        corner = window.view.aligned(centre - np.array(size) // 2, size)
        where = tuple(slice(c, c + s) for c, s in zip(corner, size, strict=True))
        return window.view.read(corner, size), window.labels[self.name][where]

    def _around(
        self, among: Sequence[tuple[Window, np.ndarray]], rng: np.random.Generator
    ) -> tuple[Window, np.ndarray]:
        """A window and a voxel near one of its voxels, both drawn evenly."""
        window, voxels = among[int(rng.integers(len(among)))]
        # Off-centre by up to a quarter of the sub-patch: the organ is not always seen in the middle.
        size = self.settings.patch_size
        offset = rng.integers([-(s // 4) for s in size], [s // 4 + 1 for s in size])
        return window, voxels[int(rng.integers(len(voxels)))] + offset
