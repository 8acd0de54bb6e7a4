"""Elastic weight consolidation (Kirkpatrick et al., PNAS 2017, equation 3): weights that mattered are held by springs.

Loss + lambda / 2 * sum over i of F_i (theta_i - theta*_i)^2. F is the diagonal of the Fisher information, here the mean
squared gradient of the loss over single patches of the task just learnt; those of all tasks are summed and the anchor is the
newest (Huszar, PNAS 2018). The loss is a mean over voxels, so its gradients, and with them F, are far smaller than those of
a likelihood: F is scaled to a mean of 1 over all weights, and lambda is in these units.
"""

from __future__ import annotations

import torch

from ctune.bench.rivals import State, Task
from ctune.losses import masked_dice_bce
from ctune.model.base import Features
from ctune.model.network import Network
from ctune.optimise import PatchBatches

from .descent import descend

STRENGTH = 1.0
PATCHES = 24
"""That F is a mean of; fewer where a round has fewer steps."""


def ewc(network: Network, task: Task, state: State) -> State:
    """See ``ctune.bench.rivals.Rival``. The state is the sum of the Fisher diagonals so far."""
    network.to(task.device)
    total = fisher(network, task)
    for name, before in state.items():
        total[name] = total[name] + before.to(task.device)
    old = {n: p for n, p in network.named_parameters() if n in total}
    anchor = {n: p.detach().clone() for n, p in old.items()}

    def spring(image: torch.Tensor, features: Features) -> torch.Tensor:
        pull = [(total[n] * (p - anchor[n]) ** 2).sum() for n, p in old.items()]
        return STRENGTH / 2 * torch.stack(pull).sum()

    descend(network, task, task.cases, (task.new,), spring)
    return {name: value.cpu() for name, value in total.items()}


def fisher(network: Network, task: Task) -> dict[str, torch.Tensor]:
    """{parameter: mean squared gradient over patches of the last task}, of base and old heads, with a mean of 1."""
    cases, classes = task.earlier[-1], task.old
    one = task.settings.model_copy(update={"batch_size": 1})
    batches = PatchBatches(cases, classes, one, task.seed)
    network.requires_grad_(True)
    named = {n: p for n, p in network.named_parameters() if not n.startswith(f"heads.{task.new}.")}
    total = {n: torch.zeros_like(p) for n, p in named.items()}
    seen, epoch, patches = 0, 0, min(PATCHES, task.steps)
    while seen < patches:
        for batch in batches.epoch(epoch):
            network.zero_grad(set_to_none=True)
            logits = network(batch.image.to(task.device), classes)
            masked_dice_bce(logits, batch.target.to(task.device)).backward()
            for name, parameter in named.items():
                if parameter.grad is not None:
                    total[name] += parameter.grad.detach() ** 2
            seen += 1
            if seen == patches:
                break
        epoch += 1
    network.zero_grad(set_to_none=True)
    mean = sum(float(t.sum()) for t in total.values()) / sum(t.numel() for t in total.values())
    return {name: value / max(mean, 1e-30) for name, value in total.items()}
