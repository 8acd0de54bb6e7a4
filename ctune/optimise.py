"""What training and tuning share: the optimiser, its schedule, batches of patches, and checkpoints that resume exactly.

AdamW with linear warm-up and cosine decay, as published (paper, section 3, "Implementation Details").
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from ctune.config import Optimisation
from ctune.data.files import write_atomically
from ctune.data.patches import PatchSampler, augment
from ctune.data.prepared import PreparedCase
from ctune.errors import ModelError
from ctune.types import UNLABELLED


@dataclass(frozen=True)
class Batch:
    """image: (N, 1, X, Y, Z) float32 in [0, 1]. target: (N, K, X, Y, Z) uint8: 0, 1 or UNLABELLED."""

    image: torch.Tensor
    target: torch.Tensor


def resolve_device(name: str) -> torch.device:
    """The device that a setting means; "auto" is the GPU where there is one. Raises ModelError when it is absent."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ModelError(
            f'expected a CUDA device for device = "{name}", found none; set device = "auto" or "cpu"'
        )
    return device


def learning_rate_factor(step: int, total_steps: int, warmup_steps: int) -> float:
    """Factor on the learning rate at `step` of `total_steps`: linear from 0 to 1, then half a cosine down to 0.

    >>> [round(learning_rate_factor(s, 10, 2), 2) for s in (0, 1, 2, 6, 9)]
    [0.5, 1.0, 1.0, 0.5, 0.04]
    """
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    span = max(1, total_steps - warmup_steps)
    return 0.5 * (1.0 + math.cos(math.pi * min(1.0, (step - warmup_steps) / span)))


def make_optimiser(
    parameters: Iterable[nn.Parameter], settings: Optimisation, *, fused: bool = False
) -> torch.optim.AdamW:
    """AdamW over the parameters given, with the settings' learning rate and weight decay.

    fused: in one kernel, which for the 34 small tensors of a pyramid takes 0.2 ms a step on a CPU instead of 1.1; the last bits
    differ, also of a run that went on from a checkpoint: not where that must end the same.
    """
    return torch.optim.AdamW(
        parameters, lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=fused
    )


def set_learning_rate(
    optimiser: torch.optim.Optimizer, settings: Optimisation, step: int, steps_per_epoch: int
) -> None:
    """Put the learning rate of `step` (counted from 0 over all epochs) into the optimiser."""
    total = settings.epochs * steps_per_epoch
    factor = learning_rate_factor(step, total, round(settings.warmup_epochs * steps_per_epoch))
    for group in optimiser.param_groups:
        group["lr"] = settings.learning_rate * factor


def target_of(labels: Mapping[str, np.ndarray], classes: Sequence[str], shape: tuple[int, ...]) -> np.ndarray:
    """(K, X, Y, Z) uint8 target, channel k is classes[k]; a class without an annotation is UNLABELLED throughout."""
    target = np.full((len(classes), *shape), UNLABELLED, dtype=np.uint8)
    for channel, name in enumerate(classes):
        if name in labels:
            target[channel] = labels[name]
    return target


@dataclass(frozen=True)
class Place:
    """Which patches of an epoch a batch is made of: positions in the epoch's order, and the cases there."""

    epoch: int
    positions: tuple[int, ...]
    cases: tuple[int, ...]


class PatchBatches:
    """Batches of random patches. Each patch is drawn by a generator of its own (seed, epoch, position): any of them can be
    drawn again, in any order, by any process.

    `classes` gives the channels of the targets; cases that annotate none of them are refused (ModelError).
    """

    def __init__(
        self, cases: Sequence[PreparedCase], classes: Sequence[str], settings: Optimisation, seed: int
    ) -> None:
        useless = [case.case_id for case in cases if not set(case.labels) & set(classes)]
        if useless or not cases:
            raise ModelError(
                f"expected cases with an annotation of at least one of {', '.join(classes)}; "
                f"got {'none for ' + useless[0] if useless else 'no case at all'}; annotate or leave the case out"
            )
        self.classes, self.settings, self.seed = tuple(classes), settings, seed
        self.samplers = [
            PatchSampler(
                c.image, {k: v for k, v in c.labels.items() if k in self.classes}, settings.patch_size
            )
            for c in cases
        ]

    @property
    def steps_per_epoch(self) -> int:
        return math.ceil(len(self.samplers) * self.settings.patches_per_case / self.settings.batch_size)

    def places(self, epoch: int, rank: int = 0, size: int = 1) -> list[Place]:
        """The batches of one epoch, every case `patches_per_case` times, in an order drawn for this epoch.

        Of `size` processes the one of `rank` gets every `size`-th patch of each batch; there may be none in the last one.
        """
        rng = np.random.default_rng([self.seed, epoch])
        order = rng.permutation(np.repeat(np.arange(len(self.samplers)), self.settings.patches_per_case))
        out = []
        for start in range(0, len(order), self.settings.batch_size):
            stop = min(start + self.settings.batch_size, len(order))
            positions = range(start + rank, stop, size)
            out.append(Place(epoch, tuple(positions), tuple(int(order[p]) for p in positions)))
        return out

    def draw(self, place: Place) -> Batch:
        """The patches of a batch; one with nothing labelled where the place has none, so that every process has a step."""
        pairs = [self._draw(place.epoch, p, c) for p, c in zip(place.positions, place.cases, strict=True)]
        if not pairs:
            image, target = self._draw(place.epoch, 0, 0)
            pairs = [(image, np.full_like(target, UNLABELLED))]
        return Batch(
            torch.from_numpy(np.stack([image for image, _ in pairs])[:, None]),
            torch.from_numpy(np.stack([target for _, target in pairs])),
        )

    def epoch(self, number: int) -> Iterator[Batch]:
        """The batches of one epoch."""
        return map(self.draw, self.places(number))

    def _draw(self, epoch: int, position: int, index: int) -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng([self.seed, epoch, position])
        image, labels = self.samplers[index].draw(rng, self.settings.positive_share)
        image, labels = augment(image, labels, self.settings, rng)
        return np.ascontiguousarray(image), target_of(labels, self.classes, image.shape)


@dataclass(frozen=True)
class Checkpoint:
    """Where an optimisation stands after `epoch` whole epochs."""

    epoch: int
    losses: tuple[float, ...]


RECIPE = 2
"""Version of what the code does with settings and data. Raise it when a loss or a draw changes: a checkpoint of the
recipe before is then set aside instead of continued by another rule."""

HOW = {"accumulate", "prefetch", "channels_last", "compile", "checkpoint_every"}
"""Settings of how a training runs, not of what comes of it: a checkpoint may be continued with others."""


def identity_of(
    settings: Optimisation,
    seed: int,
    module: nn.Module,
    classes: Sequence[str],
    cases: Sequence[PreparedCase],
) -> str:
    """What must be equal for a checkpoint to be continued: recipe, settings, seed, network, and every byte of the data."""
    shapes = {name: list(value.shape) for name, value in module.state_dict().items()}
    what = settings.model_dump(mode="json", exclude=HOW)
    plain = [RECIPE, what, seed, shapes, list(classes), sorted(case.digest() for case in cases)]
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


def save_checkpoint(
    path: Path, module: nn.Module, optimiser: torch.optim.Optimizer, at: Checkpoint, identity: str
) -> None:
    """Write weights, optimiser state and position as one safetensors file, whole or not at all."""
    tensors = {f"weights.{k}": v.detach().cpu().contiguous() for k, v in module.state_dict().items()}
    for index, state in optimiser.state_dict()["state"].items():
        for key, value in state.items():
            tensors[f"optimiser.{index}.{key}"] = torch.as_tensor(value).detach().cpu().contiguous()
    about = {"epoch": str(at.epoch), "losses": json.dumps(at.losses), "identity": identity}
    with write_atomically(path) as temporary:
        save_file(tensors, temporary, metadata=about)


def set_aside(path: Path) -> str:
    """Rename a checkpoint that is not continued; what happened in words, empty when there was none."""
    if not path.exists():
        return ""
    aside = path.with_suffix(".other" + path.suffix)
    path.replace(aside)
    return f"begins anew: the checkpoint {path.name} is damaged, or of other data, settings, another network or another version of ctune; it is now {aside.name}"


def load_checkpoint(
    path: Path, module: nn.Module, optimiser: torch.optim.Optimizer, identity: str
) -> Checkpoint | None:
    """Continue where a checkpoint stands; None when there is none, it is damaged, or it belongs to other settings."""
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            about = file.metadata() or {}
            if about.get("identity") != identity:
                return None
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a mapping
    except (SafetensorError, OSError):
        return None
    module.load_state_dict(
        {k.removeprefix("weights."): v for k, v in tensors.items() if k.startswith("weights.")}
    )
    state: dict[int, dict[str, torch.Tensor]] = {}
    for key, value in tensors.items():
        if key.startswith("optimiser."):
            _, index, name = key.split(".", 2)
            state.setdefault(int(index), {})[name] = value
    optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})
    return Checkpoint(int(about["epoch"]), tuple(json.loads(about["losses"])))
