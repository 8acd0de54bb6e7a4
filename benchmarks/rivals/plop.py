"""PLOP (Douillard et al., CVPR 2021): pseudo-labels for the old classes, and features that stay put at several scales.

By the authors' code (github.com/arthurdouillard/CVPR2021_PLOP), which differs from the paper in the distance:

- Pseudo-labels (section 3.3): what the model before this round says of an old class is its label where it is sure. Sure is an
  entropy below the median of all voxels of the round's cases where it says the same, or below a floor. The loss of a sample weighs what share of its voxels, those of the new class aside, is sure (equation 8).
- Local POD (section 3.2): each map of the base is squared and averaged along one axis within boxes of a whole, a half and a
  quarter of the patch; the embedding of all boxes moves by its Euclidean norm, not squared and not normalised. The same of
  the old classes' logits. Mean over maps; weights .01 and .0005, times sqrt(classes / new classes).

What differs: each class has a sigmoid of its own, so it has two medians, where it is found and where it is not, and a voxel may
be sure of one class and not of another; the published floor of .001, in units of its normalised entropy over the 16 classes of
VOC 15-1, is an entropy of .125 nats. A voxel of the new class keeps its pseudo-labels: organs may overlap. Maps are those of
encoder, bottleneck and decoder of a U-Net in 3D: strips along one of three axes are as many numbers as theirs on a ResNet. The
new head begins with the odds of its class; AdamW and the learning rate of all rivals.
"""

from __future__ import annotations

import copy
import math

import torch
from torch.nn import functional

from ctune.bench.forgetting.rivals import State, Task
from ctune.losses import pair_losses
from ctune.model.base import Features
from ctune.model.network import Network
from ctune.optimise import PatchBatches
from ctune.types import UNLABELLED

from .descent import descend

WEIGHT, WEIGHT_OF_LOGITS = 0.01, 0.0005
SCALES = (1, 2, 4)
FLOOR = 0.125
"""Entropy in nats up to which every voxel is sure: a probability beyond about .97."""
BINS = 100
"""Of the histogram in which medians are found, as published: the entropies of all voxels would not fit in memory."""


def plop(network: Network, task: Task, state: State) -> State:
    """See ``ctune.bench.forgetting.rivals.Learn``."""
    teacher = copy.deepcopy(network).to(task.device).eval()
    bounds = medians(teacher, task)
    schedule = math.sqrt(len(task.old) + 1)

    def loss(image: torch.Tensor, target: torch.Tensor, features: Features) -> torch.Tensor:
        with torch.no_grad():
            before = teacher.base(image)
            said = teacher.logits(before, task.old).float()
            labels = pseudo_labels(said, bounds)
        logits = network.logits(features, (task.new, *task.old)).float()
        pairs, _ = pair_losses(logits, torch.cat((target, labels), dim=1), task.settings.balance)
        # Summed over classes: the published cross-entropy has one term a voxel, whatever the number of classes.
        learnt = (share_of_sure(labels, target) * pairs.sum(dim=1)).mean()
        return learnt + schedule * local_pod(features, before, logits[:, 1:], said)

    descend(network, task, task.cases, (task.new,), loss)
    return {}


# Pseudo-labels --------------------------------------------------------------------------------------------------------


def entropy(logits: torch.Tensor) -> torch.Tensor:
    """In nats, of each voxel and class by itself: 0 to log 2."""
    p = torch.sigmoid(logits.float())
    return -(p * functional.logsigmoid(logits) + (1 - p) * functional.logsigmoid(-logits))


def medians(teacher: Network, task: Task) -> torch.Tensor:
    """(K, 2) medians of the entropy of each old class over one epoch of the round's patches: not found, found; at least FLOOR."""
    batches = PatchBatches(task.cases, (task.new,), task.settings, task.seed)
    counts = torch.zeros(len(task.old), 2, BINS)
    for batch in batches.epoch(0):
        with torch.no_grad():
            counts += histogram(teacher(batch.image.to(task.device), task.old)).cpu()
    return median_of(counts).clamp(min=FLOOR).to(task.device)


def histogram(logits: torch.Tensor) -> torch.Tensor:
    """(N, K, X, Y, Z) logits -> (K, 2, BINS) voxels by entropy, 0 to log 2, where a class is not found and where it is."""
    place = (entropy(logits) / math.log(2) * BINS).long().clamp(max=BINS - 1) + BINS * (logits > 0).long()
    return torch.stack([torch.bincount(of.flatten(), minlength=2 * BINS) for of in place.unbind(1)]).view(
        -1, 2, BINS
    )


def median_of(counts: torch.Tensor) -> torch.Tensor:
    """(..., BINS) voxels by entropy -> their median as the upper end of its bin, and 0 where there is no voxel."""
    sums = counts.cumsum(dim=-1)
    total = sums[..., -1]
    reached = (sums * 2 >= total.unsqueeze(-1)).float().argmax(dim=-1)
    found: torch.Tensor = torch.where(total > 0, (reached + 1) * (math.log(2) / BINS), 0.0)
    return found


def pseudo_labels(logits: torch.Tensor, bounds: torch.Tensor) -> torch.Tensor:
    """(N, K, X, Y, Z) logits -> uint8: 0 or 1 where the entropy is below the bound of that answer, else UNLABELLED.

    bounds: (K, 2) in nats, where a class is not found and where it is.
    """
    found = logits > 0
    shape = (1, -1, *[1] * (logits.ndim - 2))
    bound = torch.where(found, bounds[:, 1].view(shape), bounds[:, 0].view(shape))
    return torch.where(entropy(logits) < bound, found.to(torch.uint8), UNLABELLED)


def share_of_sure(labels: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """(N, K, ...) pseudo-labels and (N, 1, ...) target of the new class -> (N,) share that is sure of what is not of it."""
    others = (target != 1).expand_as(labels).flatten(1)
    sure = (labels != UNLABELLED).flatten(1) & others
    return sure.sum(dim=1) / others.sum(dim=1).clamp(min=1)


# Local POD ------------------------------------------------------------------------------------------------------------


def local_pod(now: Features, before: Features, logits: torch.Tensor, said: torch.Tensor) -> torch.Tensor:
    """Weighted mean over maps and the logits of how far their embeddings moved."""
    pairs = [*zip(_maps(now), _maps(before), strict=True), (logits, said)]
    weights = [WEIGHT] * (len(pairs) - 1) + [WEIGHT_OF_LOGITS]
    return torch.stack([w * distance(a, b) for w, (a, b) in zip(weights, pairs, strict=True)]).mean()


def distance(now: torch.Tensor, before: torch.Tensor) -> torch.Tensor:
    """Mean over samples of the Euclidean distance between the embeddings of two maps (N, C, X, Y, Z)."""
    moved: torch.Tensor = torch.linalg.vector_norm(embedding(now) - embedding(before), dim=1)
    return moved.mean()


def _maps(features: Features) -> tuple[torch.Tensor, ...]:
    return (*features.skips, features.bottleneck, *features.levels)


def embedding(maps: torch.Tensor) -> torch.Tensor:
    """(N, C, X, Y, Z) -> (N, D): squares averaged along each axis in boxes of each scale; what is left of a side is left out."""
    squared, parts = maps.float() ** 2, []
    for scale in SCALES:
        for axis in (2, 3, 4):
            if not (length := maps.shape[axis] // scale):
                continue
            boxes = squared.narrow(axis, 0, length * scale).unflatten(axis, (scale, length))
            parts.append(boxes.mean(dim=axis + 1).flatten(1))
    return torch.cat(parts, dim=1)
