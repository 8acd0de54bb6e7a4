"""Elastic weight consolidation (Kirkpatrick et al., PNAS 2017, equation 3): weights that mattered are held by springs.

Loss + lambda / 2 * sum over i of F_i (theta_i - theta*_i)^2. F is the diagonal of the Fisher information of the task just
learnt; those of all tasks are summed and the anchor is the newest (Huszar, PNAS 2018).

The equation weighs two log-likelihoods, sums over observations, against each other; the loss here is a mean over voxels. With
both sides divided by the voxels of a patch V, the spring gets V times the squared gradient of the mean cross-entropy of a
patch, and with lambda = 1 it is Laplace's approximation of a task that counts as much as the new one. That holds far too
little here. There is no published lambda to take, the paper searched one for each problem, and so do we: mean Dice of all classes
after two rounds (seed 0, ``--preset cpu``, long budget) was .32 with 1, .31 with 10, .37 with 100, .42 with 300, .63 with 1,000
and with 10,000, of which the first learns more.

What differs: F is empirical, with the labels of the cases in place of labels drawn from the network, over a few patches; the
cross-entropy alone makes it, while Dice trains too; voxels of a patch count as if they were independent of each other.
"""

from __future__ import annotations

import torch
from torch.nn import functional

from ctune.bench.forgetting.rivals import State, Task
from ctune.losses import masked_dice_bce
from ctune.model.base import Features
from ctune.model.network import Network
from ctune.optimise import PatchBatches
from ctune.types import UNLABELLED

from .descent import descend

STRENGTH = 1000.0
PATCHES = 12
"""That F is a mean of."""


def ewc(network: Network, task: Task, state: State) -> State:
    """See ``ctune.bench.forgetting.rivals.Learn``. The state is the sum of the Fisher diagonals so far."""
    network.to(task.device)
    total = fisher(network, task)
    for name, before in state.items():
        total[name] = total[name] + before.to(task.device)
    old = {n: p for n, p in network.named_parameters() if n in total}
    anchor = {n: p.detach().clone() for n, p in old.items()}

    def loss(image: torch.Tensor, target: torch.Tensor, features: Features) -> torch.Tensor:
        new = masked_dice_bce(network.logits(features, (task.new,)), target, task.settings.balance)
        pull = [(total[n] * (p - anchor[n]) ** 2).sum() for n, p in old.items()]
        return new + STRENGTH / 2 * torch.stack(pull).sum()

    descend(network, task, task.cases, (task.new,), loss)
    return {name: value.cpu() for name, value in total.items()}


def fisher(network: Network, task: Task) -> dict[str, torch.Tensor]:
    """{parameter: Fisher information per voxel of the last task}, of base and old heads."""
    # Of the base's cases every class, of a later round's the one that it added: what its cases are labelled for.
    cases = task.earlier[-1]
    classes = [name for name in task.old if name in cases[0].labels]
    one = task.settings.model_copy(update={"batch_size": 1})
    batches = PatchBatches(cases, classes, one, task.seed)
    network.requires_grad_(True)
    named = {n: p for n, p in network.named_parameters() if not n.startswith(f"heads.{task.new}.")}
    total = {n: torch.zeros_like(p) for n, p in named.items()}
    seen, epoch = 0, 0
    while seen < PATCHES:
        for batch in batches.epoch(epoch):
            network.zero_grad(set_to_none=True)
            logits, target = network(batch.image.to(task.device), classes), batch.target.to(task.device)
            surprise(logits, target).backward()
            voxels = batch.image[0, 0].numel()
            for name, parameter in named.items():
                if parameter.grad is not None:
                    total[name] += voxels * parameter.grad.detach() ** 2 / PATCHES
            seen += 1
            if seen == PATCHES:
                break
        epoch += 1
    network.zero_grad(set_to_none=True)
    return total


def surprise(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Minus the log-likelihood of the labels of all classes, as a mean over voxels; (N, K, X, Y, Z) each."""
    known, truth = (target != UNLABELLED).float(), (target == 1).float()
    each = functional.binary_cross_entropy_with_logits(logits, truth, reduction="none") * known
    return each.sum(dim=1).mean()
