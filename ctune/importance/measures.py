"""Measures of doubt, pure functions on probabilities: any shape, float32 in [0, 1], one value a voxel or one a class.

Values a voxel become millilitres by a sum over voxels times the volume of one; values a class (`doubt` and what follows it)
are shares without a unit, so that neither spacing nor the field of view nor the size of an organ decides.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from ctune.importance.blocks import block_sizes, block_sums
from ctune.importance.crops import occupied
from ctune.types import Grid, Volume

CUBE = np.ones((3, 3, 3), dtype=bool)
"""26-connected neighbourhood."""

SOFTENING_ML = 0.2
"""Added to both sides of a share, so that no wisp decides: as much as makes an error that is worth a look."""
SOFTENING_OF_NOTHING_ML = 1.0
"""The same where no voxel is above the threshold: less than this is no organ that was missed. Of an organ that was found a
millilitre would be too much: some have two."""

# A value a voxel ------------------------------------------------------------------------------------------------------


def binary_entropy(p: Volume) -> Volume:
    """-p log2 p - (1 - p) log2(1 - p), any shape float32 in [0, 1] -> [0, 1] (Shannon 1948); 0 at p = 0 and 1.

    >>> float(binary_entropy(np.float32([0.5]))[0])
    1.0
    """
    q = 1.0 - p
    with np.errstate(divide="ignore", invalid="ignore"):
        h = -(p * np.log2(p)) - (q * np.log2(q))
    return np.asarray(np.nan_to_num(h, nan=0.0), dtype=np.float32)


def one_sided_entropy(p: Volume) -> Volume:
    """-p ln p, any shape float32 in [0, 1] -> [0, 1/e]: the uncertainty of AbdomenAtlas-8K (Qu et al., NeurIPS 2023)."""
    with np.errstate(divide="ignore", invalid="ignore"):
        h = -(p * np.log(p))
    return np.asarray(np.nan_to_num(h, nan=0.0), dtype=np.float32)


def inconsistency(members: npt.NDArray[np.float32]) -> Volume:
    """Population standard deviation over the members, (M, ...) -> (...) in [0, 1/2]; 0 when M = 1.

    Members are models (AbdomenAtlas-8K), mirrored or shifted views of the image, mirrored or shifted back (test-time
    augmentation; Wang et al., Neurocomputing 2019), or the heads of the last rounds over the same base.
    """
    return np.asarray(np.std(members, axis=0, dtype=np.float64), dtype=np.float32)


def mutual_information(members: npt.NDArray[np.float32]) -> Volume:
    """H(mean p) - mean H(p) in bits, (M, ...) -> (...) in [0, 1]; 0 when M = 1 or where all members agree.

    BALD (Houlsby et al., 2011; Gal et al., ICML 2017): what the members disagree about, without what each is unsure of.

    >>> float(mutual_information(np.float32([[0.0], [1.0]]))[0]), float(mutual_information(np.float32([[0.5], [0.5]]))[0])
    (1.0, 0.0)
    """
    mean = members.mean(axis=0, dtype=np.float64)
    each = np.mean([binary_entropy(member) for member in members], axis=0, dtype=np.float64)
    return np.maximum(binary_entropy(mean.astype(np.float32)) - each, 0.0).astype(np.float32)


def overlaps(masks: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """(K, X, Y, Z) bool -> the same: voxels of each class that another class claims too."""
    crowded = masks.sum(axis=0, dtype=np.uint8) > 1
    return np.asarray(masks & crowded)


# A value a class ------------------------------------------------------------------------------------------------------


def doubt(inside_ml: float, volume_ml: float, soft_ml: float) -> float:
    """1 - the Dice that the probabilities themselves promise: 1 - (2 sum of p in the mask + s) / (|mask| + sum of p + s).

    inside_ml: sum of p over the mask; soft_ml: over everything; s = .2 mL, of an empty mask 1 mL. In [0, 1]. Soft Dice confidence
    (Borges et al., 2024): of calibrated probabilities it is close to the expected Dice.

    >>> doubt(10.0, 10.0, 10.0), doubt(0.0, 0.0, 9.0)
    (0.0, 0.9)
    """
    s = softening_ml(volume_ml)
    return 1.0 - (2 * inside_ml + s) / (volume_ml + soft_ml + s)


def share(part_ml: float, volume_ml: float, soft_ml: float) -> float:
    """2 `part_ml` / (2 `part_ml` + |mask| + sum of p + s), in [0, 1), s as of ``doubt``: a part of the class against all of it.

    >>> share(5.0, 10.0, 9.8), share(1000.0, 10.0, 9.0) < 1
    (0.3333333333333333, True)
    """
    return 2 * part_ml / (2 * part_ml + volume_ml + soft_ml + softening_ml(volume_ml))


def softening_ml(volume_ml: float) -> float:
    """s of a mask of this volume."""
    return SOFTENING_ML if volume_ml else SOFTENING_OF_NOTHING_ML


def fragments(mask: npt.NDArray[np.bool_], grid: Grid, network_mm: float = 0.0) -> tuple[int, int]:
    """(26-connected parts, voxels outside the largest of them) of a mask (X, Y, Z) bool; (0, 0) when it is empty.

    Parts less than a block (``block_sizes``, for a network at `network_mm`) apart count as one.
    """
    blocks = block_sums(mask.T, block_sizes(grid, network_mm))
    there = blocks > 0
    box = occupied(there)
    blocks, there = blocks[box], there[box]
    if not there.size:
        return 0, 0
    labels, count = ndimage.label(there, CUBE)
    if count < 2:
        return count, 0
    sizes = np.bincount(labels[there], weights=blocks[there])
    return count, int(sizes.sum() - sizes.max())
