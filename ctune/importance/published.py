"""The recipe of AbdomenAtlas-8K (Qu et al., NeurIPS 2023, section 3), exactly, kept for comparison."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ctune.importance.measures import inconsistency, one_sided_entropy
from ctune.importance.morphology import dilated, opened
from ctune.types import Volume

Booleans = npt.NDArray[np.bool_]
Cleaner = Callable[[int, Booleans], Booleans]
"""(channel, mask (X, Y, Z) bool) -> the mask post-processed."""


@dataclass(frozen=True, eq=False)
class AA8K:
    """attention: (K, X, Y, Z) bool. heat: (K, X, Y, Z) float32 in [0, 1]. uncertain, inconsistent, overlapping: bool."""

    attention: Booleans
    heat: npt.NDArray[np.float32]
    uncertain: Booleans
    inconsistent: Booleans
    overlapping: Booleans


def aa8k(
    members: npt.NDArray[np.float32],
    overlap_classes: Sequence[int] | None = None,
    cleaner: Cleaner | None = None,
) -> AA8K:
    """The attention of AbdomenAtlas-8K from probabilities (M, K, X, Y, Z) of M models.

    hard_mk = post-processed (p_mk > 0.5), by `cleaner`, or as it is. soft_mk = p_mk within a 26-connected dilation of hard_mk
    by one voxel, else 0. Inconsistency I_k: population standard deviation over m of soft_mk, kept where
    opening(I_k > 0.1) holds (two erosions, two dilations); 0 when M = 1. Uncertainty U_k: mean over m of -p ln p, kept where
    opening(U_k > 0.05) holds. Overlap O_k: where the mask of k (mean soft > 0.5, post-processed) meets that of another class
    in `overlap_classes` (channels; all by default). Attention: any of the three. Heat of a class: (I + U + O) / its
    maximum, 0 where there is no attention at all (the published code divides 0 by 0).
    """
    classes = range(members.shape[1])
    ensembles = np.stack([ensemble_mask(members[:, k], k, cleaner) for k in classes])
    listed = list(classes if overlap_classes is None else overlap_classes)
    found = []
    for k in classes:
        others = ensembles[[other for other in listed if other != k]].any(axis=0)
        uncertain: Volume = one_sided_entropy(members[:, k]).mean(axis=0, dtype=np.float32)
        found.append(of_class(uncertain, spread_of(members[:, k], k, cleaner), ensembles[k] & others))
    return AA8K(*(np.stack([getattr(one, name) for one in found]) for name in AA8K.__annotations__))


def soft_masks(members: npt.NDArray[np.float32], channel: int, cleaner: Cleaner | None) -> Volume:
    """soft_mk of one class, (M, X, Y, Z)."""
    hard = [m > 0.5 for m in members]
    if cleaner is not None:
        hard = [cleaner(channel, mask) for mask in hard]
    return np.where(np.stack([dilated(mask) for mask in hard]), members, np.float32(0))


def spread_of(members: npt.NDArray[np.float32], channel: int, cleaner: Cleaner | None) -> Volume | None:
    """I_k, the population standard deviation over the models of soft_mk; None with one model, where it is 0."""
    return inconsistency(soft_masks(members, channel, cleaner)) if len(members) > 1 else None


def ensemble_mask(members: npt.NDArray[np.float32], channel: int, cleaner: Cleaner | None) -> Booleans:
    """(M, X, Y, Z) -> (X, Y, Z) bool: where the mean of the soft masks is above 0.5, post-processed."""
    if len(members) == 1 and cleaner is None:
        return np.asarray(members[0] > 0.5)
    mask = soft_masks(members, channel, cleaner).mean(axis=0) > 0.5
    return cleaner(channel, mask) if cleaner is not None else mask


def of_class(uncertain: Volume, spread: Volume | None, overlap: Booleans) -> AA8K:
    """One class from its U_k, I_k (None: 0 everywhere) and O_k, (X, Y, Z) as the arrays of the result."""
    keep_u, keep_i = opened(np.asarray(uncertain > 0.05)), np.zeros_like(overlap)
    total = uncertain * keep_u
    if spread is not None:
        keep_i = opened(np.asarray(spread > 0.1))
        total += spread * keep_i
    total += overlap
    peak = float(total.max(initial=0.0))
    if peak > 0:
        total /= np.float32(peak)
    return AA8K(keep_i | keep_u | overlap, total, keep_u, keep_i, overlap)
