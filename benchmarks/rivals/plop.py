"""PLOP (Douillard et al., CVPR 2021): pseudo-labels for the old classes, and features that stay put at several scales.

Pseudo-labels (section 3.3): what the model before this round finds of an old class is its label, where it is sure; voxels
where its entropy is above the class's median do not train. Local POD (section 3.2, equations 3 to 5): strips of each map of
the base, averaged along one axis within boxes of a whole, a half and a quarter of the patch, stay where they were; each
embedding is scaled to length 1. The weight is the published .01 times sqrt(classes / new classes).

MiB (Cermelli et al., CVPR 2020) repairs a background that means something else in each round. Here each class has a sigmoid
and an unlabelled one is no background, so of MiB the distillation of old classes alone is left, which is ``lwf``.
"""

from __future__ import annotations

import copy
import math

import torch
from torch.nn import functional

from ctune.bench.rivals import State, Task
from ctune.losses import masked_dice_bce
from ctune.model.base import Features
from ctune.model.network import Network
from ctune.types import UNLABELLED

from .descent import descend

WEIGHT = 0.01
SCALES = (1, 2, 4)


def plop(network: Network, task: Task, state: State) -> State:
    """See ``ctune.bench.rivals.Rival``."""
    teacher = copy.deepcopy(network).to(task.device).eval()
    weight = WEIGHT * math.sqrt(len(task.old) + 1)

    def keep(image: torch.Tensor, features: Features) -> torch.Tensor:
        with torch.no_grad():
            before = teacher.base(image)
            labels = pseudo_labels(teacher.logits(before, task.old))
        same = masked_dice_bce(network.logits(features, task.old), labels)
        return same + weight * local_pod(features, before)

    descend(network, task, task.cases, (task.new,), keep)
    return {}


def pseudo_labels(logits: torch.Tensor) -> torch.Tensor:
    """(N, K, X, Y, Z) logits -> uint8: 0 or 1 where the entropy is at most the class's median over what it finds."""
    p = torch.sigmoid(logits)
    entropy = -(p * p.clamp_min(1e-6).log() + (1 - p) * (1 - p).clamp_min(1e-6).log())
    found = p > 0.5
    labels = found.to(torch.uint8)
    for k in range(logits.shape[1]):
        inside = entropy[:, k][found[:, k]]
        if inside.numel():
            labels[:, k][entropy[:, k] > inside.median()] = UNLABELLED
    return labels


def local_pod(now: Features, before: Features) -> torch.Tensor:
    """Mean over maps of the squared distance between the embeddings of two features of the same patches."""
    pairs = zip((now.bottleneck, *now.levels), (before.bottleneck, *before.levels), strict=True)
    return torch.stack([((embedding(a) - embedding(b)) ** 2).sum(dim=1).mean() for a, b in pairs]).mean()


def embedding(maps: torch.Tensor) -> torch.Tensor:
    """(N, C, X, Y, Z) -> (N, D) of length 1: strips along each axis in boxes of each scale that the map's sides allow."""
    parts = []
    for scale in SCALES:
        if any(side % scale or side < scale for side in maps.shape[2:]):
            continue
        for axis in (2, 3, 4):
            kernel = [1, 1, 1]
            kernel[axis - 2] = maps.shape[axis] // scale
            parts.append(functional.avg_pool3d(maps.float(), kernel).flatten(1))
    return functional.normalize(torch.cat(parts, dim=1), dim=1)
