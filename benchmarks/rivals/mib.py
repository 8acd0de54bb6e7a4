"""MiB (Cermelli et al., CVPR 2020, section 3): what is background changes its meaning from round to round.

With a softmax MiB says two things, and sigmoids make each of them simpler. Its cross-entropy (equation 5) asks of a voxel
that is not of the new class only that it be background or old, which is a probability of 1 - p(new): the cross-entropy of the
new class's own sigmoid, as all rivals have it. Its distillation (equation 8) lets the old background be background or new: of
the classes with a name it is the cross-entropy of what they say now with what they said before, and no class here is a
background. So what is left beside fine-tuning is that distillation, with the published weight of 10 and no temperature, as a
mean over classes, as in the authors' code (github.com/fcdl94/MiB).

What differs further: the new head begins with the odds of its class instead of a share of the background's; no share of the
distillation goes to a background; AdamW and the learning rate of all rivals.
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

WEIGHT = 10.0


def mib(network: Network, task: Task, state: State) -> State:
    """See ``ctune.bench.forgetting.rivals.Learn``."""
    teacher = copy.deepcopy(network).to(task.device).eval()

    def loss(image: torch.Tensor, target: torch.Tensor, features: Features) -> torch.Tensor:
        with torch.no_grad():
            said = torch.sigmoid(teacher(image, task.old).float())
        new = masked_dice_bce(network.logits(features, (task.new,)), target, task.settings.balance)
        now = network.logits(features, task.old).float()
        return new + WEIGHT * functional.binary_cross_entropy_with_logits(now, said)

    descend(network, task, task.cases, (task.new,), loss)
    return {}
