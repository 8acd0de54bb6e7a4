"""Learning without forgetting (Li and Hoiem, TPAMI 2018, equations 2 and 3): on the new images, the old classes keep saying
what they said before.

The published loss is the cross-entropy of softened class probabilities, temperature 2, weight 1. Classes here overlap and
each has a sigmoid of its own, so the cross-entropy is that of each class by itself, softened alike. Gradients of softened
probabilities are T^2 smaller, which the factor T^2 makes good (Hinton et al. 2015, section 2).
"""

from __future__ import annotations

import copy

import torch
from torch.nn import functional

from ctune.bench.rivals import State, Task
from ctune.model.base import Features
from ctune.model.network import Network

from .descent import descend

TEMPERATURE = 2.0
WEIGHT = 1.0


def lwf(network: Network, task: Task, state: State) -> State:
    """See ``ctune.bench.rivals.Rival``."""
    teacher = copy.deepcopy(network).to(task.device).eval()

    def distil(image: torch.Tensor, features: Features) -> torch.Tensor:
        with torch.no_grad():
            said = torch.sigmoid(teacher(image, task.old) / TEMPERATURE)
        now = network.logits(features, task.old) / TEMPERATURE
        return WEIGHT * TEMPERATURE**2 * functional.binary_cross_entropy_with_logits(now, said)

    descend(network, task, task.cases, (task.new,), distil)
    return {}
