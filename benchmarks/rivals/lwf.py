"""Learning without forgetting (Li and Hoiem, TPAMI 2018, section 3): on the new images, the old classes keep saying what they
said before.

As published: temperature 2 and weight 1 of the old answers (equations 2 and 3), their losses summed over old classes, as for a
task of several labels; a warm-up, in which the new head alone trains, before everything does.

What differs: the cross-entropy of softened answers is that of each class by itself, since each has a sigmoid of its own, and
the mean over voxels; the warm-up takes a share of the budget, where the paper trains until it converges; AdamW and the
learning rate of all rivals.
"""

from __future__ import annotations

import copy

import torch
from torch.nn import functional

from ctune.bench.forgetting.rivals import State, Task
from ctune.losses import masked_dice_bce
from ctune.model.base import Features
from ctune.model.network import Network

from .descent import descend

TEMPERATURE = 2.0
WEIGHT = 1.0
WARM = 0.2
"""Share of the budget in which the new head alone trains."""


def lwf(network: Network, task: Task, state: State) -> State:
    """See ``ctune.bench.forgetting.rivals.Learn``."""
    teacher = copy.deepcopy(network).to(task.device).eval()

    def loss(image: torch.Tensor, target: torch.Tensor, features: Features) -> torch.Tensor:
        with torch.no_grad():
            before = teacher(image, task.old).float()
        new = masked_dice_bce(network.logits(features, (task.new,)), target, task.settings.balance)
        return new + WEIGHT * softened(network.logits(features, task.old).float(), before)

    descend(network, task, task.cases, (task.new,), prefixes=(f"heads.{task.new}",), until=WARM)
    descend(network, task, task.cases, (task.new,), loss)
    return {}


def softened(now: torch.Tensor, before: torch.Tensor) -> torch.Tensor:
    """(N, K, X, Y, Z) logits of the old classes, now and before -> cross-entropy of the softened answers, summed over classes."""
    said = torch.sigmoid(before / TEMPERATURE)
    each = functional.binary_cross_entropy_with_logits(now / TEMPERATURE, said, reduction="none")
    return each.sum(dim=1).mean()
