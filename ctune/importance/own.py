"""The recipe of ctune, one class at a time: measures in mL and as shares, a score, a reason, and where to look."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ctune.importance.attention import attention
from ctune.importance.crops import Booleans, Crop, Levels, claimed_twice
from ctune.importance.measures import binary_entropy, doubt, fragments, mutual_information, share
from ctune.importance.plausibility import Usual, is_right, odd_volume, partner, wrong_side
from ctune.importance.values import ClassImportance
from ctune.importance.weights import Weights
from ctune.importance.words import reason
from ctune.types import Grid

FLOOR = 13
"""Of 255: a probability or an inconsistency of less than .05 counts as 0."""

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
    """Each class's importance and its attention in its box, one class after the other."""
    masks = [one.p > threshold * 255.0 for one in found]
    middles = [_middle(one, mask, grid) for one, mask in zip(found, masks, strict=True)]
    places = {one.name: middle for one, middle in zip(found, middles, strict=True)}
    for one, mask, crowded in zip(found, masks, claimed_twice(masks, found, grid), strict=True):
        strayed = _strayed(one, mask, grid, places)
        yield (
            _importance(one, mask, crowded, strayed, grid, pool),
            attention(one, mask, crowded | strayed, grid),
        )


def _importance(
    one: Crop, mask: Booleans, crowded: Booleans, strayed: Booleans, grid: Grid, pool: Pool
) -> ClassImportance:
    ml = grid.voxel_ml
    # A plane at a time: bincount makes eight bytes of every value.
    counts = sum((np.bincount(plane.ravel(), minlength=256) for plane in one.p.T), np.zeros(256))
    volume, soft = float(mask.sum()) * ml, float(counts @ _LEVELS) * ml
    inside = float(one.p.T[mask.T].sum(dtype=np.int64)) / 255.0 * ml
    uncertain = float(counts @ _ENTROPY) * ml
    # The standard deviation of values in [0, 1] is at most 1/2.
    inconsistent = 0.0 if one.spread is None else float(one.spread.sum(dtype=np.int64)) * 2 / 255.0 * ml
    overlapping, side = float(crowded.sum()) * ml, float(strayed.sum()) * ml
    components, outside = fragments(mask, grid, one.network_mm)
    usual = pool.usual.get(one.name)
    measures = {
        "doubt": doubt(inside, volume, soft),
        "inconsistency": share(inconsistent, volume, soft),
        "disagreement": share(_disagreement(one) * ml, volume, soft),
        "overlap": share(overlapping, volume, soft),
        "fragments": share(outside * ml, volume, soft),
        "volume": odd_volume(volume, usual),
        "side": share(side, volume, soft),
    }
    score = pool.weights.score(measures)
    after = max(soft, float(np.exp(usual.median)) * usual.found if usual and volume == 0 else 0.0)
    expected = min(1.0, score) * (volume + after)
    why = reason(
        one.name, volume_ml=volume, uncertain_ml=uncertain, inconsistent_ml=inconsistent, overlapping_ml=overlapping,
        wrong_side_ml=side, components=components, measures=measures,
    )  # fmt: skip
    return ClassImportance(
        score, uncertain, inconsistent, overlapping, components, volume, why, measures, expected,
        pool.weights.minutes_for(expected),
    )  # fmt: skip


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
    """Voxels of a mask with a side that lie beyond the middle between it and its partner, as the affine has it."""
    other = partner(one.name)
    here, there = places.get(one.name), places.get(other) if other else None
    if here is None or there is None:
        return np.zeros_like(mask)
    return wrong_side(mask, one.start, grid, (here + there) / 2, is_right(one.name))
