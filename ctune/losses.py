"""Masked Dice + BCE: what nobody labelled neither trains a class nor counts as its background.

A pair is one class in one sample. Each pair with a labelled voxel gets

    1 - (2 sum(p t) + s) / (sum(p) + sum(t) + s)  +  mean of w BCE(p, t)

over its labelled voxels, with p = sigmoid(logit). The smooth term s is 1 (voxel) where the class is absent from the
patch, so that silence costs nothing there, and 0 where it is present: 1 above the line would pay for silence there
too, by 1 / (sum(t) + 1)^2 for every voxel, and an organ of 30 voxels in a window of 64,000 never got above it
(docs/method.md). Dice is over the volume, never per slice. The published loss (Liu et al., ICCV 2023, section 3.3:
masked back-propagation) is the same with 1 below the line alone, and nothing to learn for Dice from an absent class.

w is 1, as published, or with `balance` b on the voxels of the class (others / its own)^b, counted in the patch: b = .5
is the square root of the inverse frequency (Mahajan et al., ECCV 2018, section 3.1, where images are drawn so).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from ctune.types import UNLABELLED


def masked_dice_bce(logits: Tensor, target: Tensor, balance: float = 0.0) -> Tensor:
    """Mean loss over the (sample, class) pairs that have a labelled voxel; 0 with a gradient when none has.

    logits: (N, K, X, Y, Z) any float dtype, K may be 0.
    target: (N, K, X, Y, Z) uint8: 0, 1 or UNLABELLED (255). balance: exponent of a class's weight, 0 to 1.
    Returns a float32 scalar. Raises ValueError when the shapes differ.

    >>> nothing_there = torch.zeros(1, 1, 2, 2, 2, dtype=torch.uint8)
    >>> round(float(masked_dice_bce(torch.full((1, 1, 2, 2, 2), -40.0), nothing_there)), 6)
    0.0
    """
    losses, labelled = pair_losses(logits, target, balance)
    if not bool(labelled.any()):
        return losses.sum() * 0.0
    return losses[labelled].mean()


def pair_losses(logits: Tensor, target: Tensor, balance: float = 0.0) -> tuple[Tensor, Tensor]:
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
    # Unbound, not indexed: the gradient of each index would be a whole zero tensor of all classes.
    columns = [
        _class_losses(of.reshape(samples, -1), truth.reshape(samples, -1), balance)
        for of, truth in zip(logits.unbind(1), target.unbind(1), strict=True)
    ]
    return torch.stack(columns, dim=1), labelled


def _class_losses(logits: Tensor, target: Tensor, balance: float) -> Tensor:
    """(N, V) logits and target of one class -> (N,) losses."""
    logits = logits.float()
    known = (target != UNLABELLED).float()
    truth = (target == 1).float()
    p = torch.sigmoid(logits) * known
    own, judged = truth.sum(dim=1), known.sum(dim=1)
    # Also 0 / 0 of a pair without labels: 1 / 1, a loss of 0.
    smooth = (own == 0).float()
    dice = (2 * (p * truth).sum(dim=1) + smooth) / (p.sum(dim=1) + own + smooth)
    bce = functional.binary_cross_entropy_with_logits(logits, truth, reduction="none") * known
    if balance:
        weight = ((judged - own) / own.clamp(min=1)).clamp(min=1) ** balance
        bce = bce * (1 + (weight - 1).unsqueeze(1) * truth)
    loss: Tensor = (1 - dice) + bce.sum(dim=1) / judged.clamp(min=1)
    return loss
