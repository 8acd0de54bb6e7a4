"""Masked Dice + BCE: what nobody labelled neither trains a class nor counts as its background.

A pair is one class in one sample. Each pair with a labelled voxel gets

    1 - (2 sum(p t) + 1) / (sum(p) + sum(t) + 1)  +  mean BCE(p, t)

over its labelled voxels, with p = sigmoid(logit). The 1 (voxel) above and below is the smooth term: a class
that is absent from a patch has loss near 0 once nothing is predicted. Dice is over the volume, never per
slice. The published loss (Liu et al., ICCV 2023, section 3.3: masked back-propagation) is the same with other
smooth terms.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from ctune.types import UNLABELLED

SMOOTH = 1.0


def masked_dice_bce(logits: Tensor, target: Tensor) -> Tensor:
    """Mean loss over the (sample, class) pairs that have a labelled voxel; 0 with a gradient when none has.

    logits: (N, K, X, Y, Z) any float dtype, K may be 0.
    target: (N, K, X, Y, Z) uint8: 0, 1 or UNLABELLED (255).
    Returns a float32 scalar. Raises ValueError when the shapes differ.

    >>> nothing_there = torch.zeros(1, 1, 2, 2, 2, dtype=torch.uint8)
    >>> round(float(masked_dice_bce(torch.full((1, 1, 2, 2, 2), -40.0), nothing_there)), 6)
    0.0
    """
    losses, labelled = pair_losses(logits, target)
    if not bool(labelled.any()):
        return losses.sum() * 0.0
    return losses[labelled].mean()


def pair_losses(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Loss of each pair, (N, K) float32, and which pairs have a labelled voxel, (N, K) bool.

    A pair without one has loss 0. Shapes as in ``masked_dice_bce``. A class is computed apart from the
    others, so its losses and gradients are the same bits whichever classes train beside it.
    """
    if logits.shape != target.shape:
        raise ValueError(
            f"expected a target of the logits' shape {tuple(logits.shape)}, got {tuple(target.shape)}"
        )
    samples, classes = logits.shape[:2]
    labelled = (target != UNLABELLED).flatten(2).any(dim=2)
    if classes == 0:
        return logits.float().sum(dim=tuple(range(2, logits.ndim))), labelled
    columns = [
        _class_losses(logits[:, k].reshape(samples, -1), target[:, k].reshape(samples, -1))
        for k in range(classes)
    ]
    return torch.stack(columns, dim=1), labelled


def _class_losses(logits: Tensor, target: Tensor) -> Tensor:
    """(N, V) logits and target of one class -> (N,) losses."""
    logits = logits.float()
    known = (target != UNLABELLED).float()
    truth = (target == 1).float()
    p = torch.sigmoid(logits) * known
    dice = (2 * (p * truth).sum(dim=1) + SMOOTH) / (p.sum(dim=1) + truth.sum(dim=1) + SMOOTH)
    voxels = known.sum(dim=1)
    bce = functional.binary_cross_entropy_with_logits(logits, truth, reduction="none") * known
    loss: Tensor = (1 - dice) + bce.sum(dim=1) / voxels.clamp(min=1)
    # 1 - dice is 0 already for a pair without labels: both sums are empty.
    return loss
