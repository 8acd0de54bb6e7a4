"""The steps that all rivals share: AdamW on masked Dice + BCE over random patches, or on a loss of their own."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from ctune.bench.forgetting.rivals import Task
from ctune.data.prepared import PreparedCase
from ctune.losses import masked_dice_bce
from ctune.model.base import Features
from ctune.model.network import Network, belongs
from ctune.optimise import Batch, PatchBatches, learning_rate_factor, make_optimiser
from ctune.train import channels_last
from ctune.types import UNLABELLED, Progress

RATE = 1.0
"""Of the learning rate of training from nothing."""
_FINE, _WARMUP = 1000, 50
"""A descent in thousandths: a budget of seconds does not know how many steps it will be."""

Loss = Callable[[torch.Tensor, torch.Tensor, Features], torch.Tensor]
"""(patches (N, 1, X, Y, Z), targets (N, K, X, Y, Z) uint8, their features in the network that trains) -> the loss of a step."""


def descend(
    network: Network,
    task: Task,
    cases: Sequence[PreparedCase],
    classes: Sequence[str],
    loss: Loss | None = None,
    *,
    prefixes: tuple[str, ...] = ("",),
    until: float = 1.0,
) -> None:
    """Train what `prefixes` name, on the labels of `classes` that `cases` have, until that share of the task's pace is gone.

    loss: of a step, a mean over its samples; None is masked Dice + BCE of `classes`. The learning rate warms up and falls to 0
    within this call.
    """
    batches = PatchBatches(cases, classes, task.settings, task.seed)
    last = channels_last(network, task.settings, task.device)
    network.to(task.device)
    if last:
        network.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(belongs(name, prefixes))
    network.training_prefixes = prefixes
    network.train()
    optimiser = make_optimiser((p for p in network.parameters() if p.requires_grad), task.settings)
    begun, epoch = task.pace.share, task.pace.taken
    while task.pace.goes_on(until):
        for batch in batches.epoch(epoch):
            if not task.pace.goes_on(until):
                break
            # Nothing is left of a budget that went before the first step, on springs, say: that one step is the first.
            way = (task.pace.share - begun) / max(until - begun, 1e-9)
            factor = learning_rate_factor(round(_FINE * min(way, 1.0)), _FINE, _WARMUP)
            for group in optimiser.param_groups:
                group["lr"] = RATE * task.settings.learning_rate * factor
            optimiser.zero_grad(set_to_none=True)
            _backward(network, task, batch, classes, loss)
            optimiser.step()
            task.pace.step()
            task.on_progress(Progress(f"learn {task.new}", round(_FINE * task.pace.share), _FINE))
        epoch += 1
    if last:
        network.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    network.eval()


def _backward(network: Network, task: Task, batch: Batch, classes: Sequence[str], loss: Loss | None) -> None:
    """Gradients of a batch, in as many parts and in the precision that full training has.

    A part weighs what it is of the batch: pairs with a label in masked Dice + BCE, which is a mean over them, else samples.
    """
    parts, autocast = task.settings.accumulate, task.settings.mixed_precision and task.device.type == "cuda"
    whole = _pairs(batch.target) if loss is None else len(batch.target)
    for images, targets in zip(batch.image.chunk(parts), batch.target.chunk(parts), strict=True):
        share = (_pairs(targets) if loss is None else len(targets)) / max(whole, 1)
        image, target = images.to(task.device), targets.to(task.device)
        with torch.autocast(task.device.type, torch.bfloat16, enabled=autocast):
            features = network.base(image)
            value = (
                masked_dice_bce(network.logits(features, classes), target, task.settings.balance)
                if loss is None
                else loss(image, target, features)
            )
        (value * share).backward()


def _pairs(target: torch.Tensor) -> int:
    """(N, K, X, Y, Z) uint8 -> how many of the N * K pairs have a label."""
    return int((target != UNLABELLED).flatten(2).any(dim=2).sum())
