"""The recipe of ctune, one class at a time: measures in mL and as shares, a score, a reason, and where to look."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ctune.importance.attention import attention
from ctune.importance.crops import Booleans, Crop, Levels, claimed_twice, histogram
from ctune.importance.measures import binary_entropy, doubt, fragments, mutual_information, share
from ctune.importance.morphology import wide
from ctune.importance.plausibility import (
    Usual,
    is_right,
    odd_volume,
    on_both_sides,
    partner,
    wrong_side,
)
from ctune.importance.values import ClassImportance
from ctune.importance.weights import Weights
from ctune.importance.words import reason
from ctune.types import Grid

FLOOR = 13
"""Of 255: a probability or an inconsistency of less than .05 counts as 0."""

UNKNOWN_ML = 500.0
"""What an expert is expected to change at most of a class of which nobody knows how large it usually is: an assumption."""

_LEVELS = np.arange(256, dtype=np.float32) / np.float32(255)
_ENTROPY = binary_entropy(_LEVELS).astype(np.float64)


@dataclass(frozen=True)
class Pool:
    """What is known beyond the case: how large classes usually are, and what the measures are worth."""

    usual: Mapping[str, Usual]
    weights: Weights


def score_classes(
    found: Sequence[Crop], grid: Grid, threshold: float, pool: Pool
) -> Iterator[tuple[ClassImportance, Levels]]:
    """Each class's importance and its attention in its box, one class after the other. No attention depends on the pool."""
    # Of whole numbers: above the threshold is above the whole number below it, and bytes are compared ten times as fast.
    level = math.floor(threshold * 255.0)
    masks = [one.p > level for one in found]
    middles = [_middle(one, mask, grid) for one, mask in zip(found, masks, strict=True)]
    places = {one.name: middle for one, middle in zip(found, middles, strict=True)}
    for one, mask, claimed in zip(found, masks, claimed_twice(masks, found, grid), strict=True):
        # Neighbours that touch overlap in a sheet of one voxel in every case, which says nothing about this one.
        crowded = wide(claimed, grid.spacing_mm)
        strayed = _strayed(one, mask, grid, places)
        yield (
            in_pool(one.name, _measured(one, level, mask, crowded, strayed, grid), pool),
            attention(one, mask, crowded | strayed, grid),
        )


def _measured(
    one: Crop, level: int, mask: Booleans, crowded: Booleans, strayed: Booleans, grid: Grid
) -> ClassImportance:
    """What the voxels say; ``in_pool`` adds what depends on the rest of the pool. level: the mask is what lies above it."""
    ml, counts = grid.voxel_ml, histogram(one.p)
    above = counts[level + 1 :]
    volume, soft = float(above.sum()) * ml, float(counts @ _LEVELS) * ml
    inside = float(above @ np.arange(level + 1, 256)) / 255.0 * ml
    uncertain = float(counts @ _ENTROPY) * ml
    # The standard deviation of values in [0, 1] is at most 1/2.
    inconsistent = 0.0 if one.spread is None else float(one.spread.sum(dtype=np.int64)) * 2 / 255.0 * ml
    overlapping, side = np.count_nonzero(crowded) * ml, np.count_nonzero(strayed) * ml
    components, outside = fragments(mask, grid, one.network_mm)
    measures = {
        "doubt": doubt(inside, volume, soft),
        "inconsistency": share(inconsistent, volume, soft),
        "disagreement": share(_disagreement(one) * ml, volume, soft),
        "overlap": share(overlapping, volume, soft),
        "fragments": share(outside * ml, volume, soft),
        "volume": 0.0,
        "side": share(side, volume, soft),
    }
    return ClassImportance(
        0.0, uncertain, inconsistent, overlapping, components, volume, "", measures, soft_ml=soft, wrong_side_ml=side
    )  # fmt: skip


def in_pool(name: str, one: ClassImportance, pool: Pool) -> ClassImportance:
    """A class's importance as the pool has it now: measure of its volume, score, reason, expected mL and minutes."""
    usual, volume = pool.usual.get(name), one.volume_ml
    measures = {**one.measures, "volume": odd_volume(volume, usual)}
    score = pool.weights.score(measures)
    why = reason(
        name, volume_ml=volume, uncertain_ml=one.uncertain, inconsistent_ml=one.inconsistent,
        overlapping_ml=one.overlapping, wrong_side_ml=one.wrong_side_ml, components=one.components, measures=measures,
    )  # fmt: skip
    expected = expected_ml(score, volume, one.soft_ml, usual)
    return replace(
        one,
        measures=measures,
        score=score,
        reason=why,
        expected_ml=expected,
        minutes=pool.weights.minutes_for(expected),
    )


def expected_ml(score: float, volume_ml: float, soft_ml: float, usual: Usual | None) -> float:
    """How much an expert is expected to change: the score, at most 1, x (V + S), and no more than is plausible.

    S is at least the usual volume, as often as the organ is there, where nothing was found. Plausible is twice the upper end
    of what is usual (one mask taken away, one drawn), and `UNKNOWN_ML` where nothing is known: a base that has hardly
    trained leaves litres of haze, which nobody corrects millilitre by millilitre.

    >>> expected_ml(0.5, 100.0, 100.0, None), expected_ml(2.0, 0.0, 16000.0, None)
    (100.0, 500.0)
    """
    missed = float(np.exp(usual.median)) * usual.found if usual and volume_ml == 0 else 0.0
    most = 2 * float(np.exp(usual.median + 2 * usual.spread)) if usual else UNKNOWN_ML
    return min(min(1.0, score) * (volume_ml + max(soft_ml, missed)), most)


def _disagreement(one: Crop) -> float:
    """Mutual information over models, summed over voxels; 0 of one model."""
    if len(one.members) < 2:
        return 0.0
    # A plane at a time: members as floats are four times as large.
    planes = range(one.p.shape[0])
    return float(
        sum(mutual_information(_LEVELS[np.stack([m[x] for m in one.members])]).sum() for x in planes)
    )


def _middle(one: Crop, mask: Booleans, grid: Grid) -> float | None:
    """World x in mm of the centre of a mask with a side; None without one."""
    if partner(one.name) is None or not mask.any():
        return None
    index = [
        float(
            np.average(np.arange(n) + first, weights=mask.sum(axis=tuple(a for a in range(3) if a != axis)))
        )
        for axis, (n, first) in enumerate(zip(mask.shape, one.start, strict=True))
    ]
    return float(grid.affine[0, :3] @ index + grid.affine[0, 3])


def _strayed(one: Crop, mask: Booleans, grid: Grid, places: Mapping[str, float | None]) -> Booleans:
    """Voxels of a mask with a side that lie beyond the middle between it and its partner, as the affine has it; where the
    partner was looked for and not found, a second part of the mask that is its likeness on the other side."""
    other = partner(one.name)
    here, there = places.get(one.name), places.get(other) if other else None
    if here is None or other not in places:
        return np.zeros_like(mask)
    if there is None:
        return on_both_sides(mask, one.start, grid, is_right(one.name))
    return wrong_side(mask, one.start, grid, (here + there) / 2, is_right(one.name))
