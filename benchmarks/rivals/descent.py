"""The steps that all rivals share: AdamW on masked Dice + BCE over random patches, and a term of their own."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from ctune.bench.rivals import Task
from ctune.data.prepared import PreparedCase
from ctune.losses import masked_dice_bce
from ctune.model.base import Features
from ctune.model.network import Network
from ctune.optimise import PatchBatches, learning_rate_factor, make_optimiser
from ctune.types import Progress

RATE = 1 / 3
"""Of the learning rate of training from nothing: these weights are nearly right."""

Extra = Callable[[torch.Tensor, Features], torch.Tensor]
"""(patches (N, 1, X, Y, Z), their features in the network that trains) -> a term of the loss."""


def descend(
    network: Network,
    task: Task,
    cases: Sequence[PreparedCase],
    classes: Sequence[str],
    extra: Extra | None = None,
) -> None:
    """`task.steps` steps over every parameter, on the labels of `classes` that `cases` name."""
    batches = PatchBatches(cases, classes, task.settings, task.seed)
    network.to(task.device).requires_grad_(True)
    network.training_prefixes = ("",)
    network.train()
    optimiser = make_optimiser(network.parameters(), task.settings)
    warmup, step, epoch = task.steps // 20 + 1, 0, 0
    while step < task.steps:
        for batch in batches.epoch(epoch):
            for group in optimiser.param_groups:
                group["lr"] = (
                    RATE * task.settings.learning_rate * learning_rate_factor(step, task.steps, warmup)
                )
            image = batch.image.to(task.device)
            features = network.base(image)
            logits, target = network.logits(features, classes), batch.target.to(task.device)
            loss = masked_dice_bce(logits, target, task.settings.balance)
            if extra is not None:
                loss = loss + extra(image, features)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
            step += 1
            task.on_progress(Progress(f"learn {task.new}", step, task.steps))
            if step == task.steps:
                break
        epoch += 1
    network.eval()
