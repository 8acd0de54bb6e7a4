"""Full training: every weight of a network, on every case that annotates at least one of its classes.

The loss of a class counts only where the case has an annotation of it ("masked back-propagation"): a class that nobody
annotated is never taught as background. Several processes, or several parts of a batch, make the step of one whole batch: the
loss is the mean over the labelled pairs of all of it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias, cast

import numpy as np
import torch
from torch import Tensor, nn

from ctune.config import Optimisation
from ctune.data.prepared import PreparedCase
from ctune.distributed import ALONE, Group
from ctune.losses import pair_losses
from ctune.model.freeze import fingerprint
from ctune.model.network import Network
from ctune.optimise import (
    Batch,
    Checkpoint,
    PatchBatches,
    Place,
    identity_of,
    load_checkpoint,
    make_optimiser,
    save_checkpoint,
    set_aside,
    set_learning_rate,
)
from ctune.prefetch import Prefetched
from ctune.types import UNLABELLED, OnProgress, Progress, silent

OnEpoch: TypeAlias = Callable[[int, Network], bool]
"""Called with the number of epochs done and the network; True ends the training."""


@dataclass(frozen=True)
class TrainResult:
    """What a training did. losses: mean loss of each epoch, from the first one (also those before a resume).

    waited: of the seconds, those in which the network had nothing to do because no batch was there. resumed: epochs that an
    earlier run had done. note: why a checkpoint that was there was not continued; empty otherwise.
    """

    losses: tuple[float, ...]
    steps: int
    seconds: float
    waited: float = 0.0
    resumed: int = 0
    note: str = ""


def train(
    network: Network,
    cases: Sequence[PreparedCase],
    settings: Optimisation,
    *,
    seed: int,
    device: torch.device,
    checkpoint: Path | None = None,
    on_epoch: OnEpoch | None = None,
    on_progress: OnProgress = silent,
    group: Group = ALONE,
) -> TrainResult:
    """Train every parameter of `network` that requires a gradient, in place.

    With `checkpoint`, a safetensors file, the state is written there every `settings.checkpoint_every` epochs and a run
    that was killed goes on from it; the weights at the end equal those of a run that was never interrupted. A checkpoint of
    other data, settings or another network is set aside (``optimise.set_aside``) and said so.
    `on_epoch` is called with the number of epochs done and the network after each; True ends the training there.
    With several processes (`group`) each calls this with the same arguments; the first alone writes, and is asked by `on_epoch`.
    Raises ModelError when a case annotates none of the network's classes.
    """
    started = time.perf_counter()
    batches = PatchBatches(cases, network.classes, settings, seed)
    network.to(device)
    optimiser = make_optimiser([p for p in network.parameters() if p.requires_grad], settings)
    identity = identity_of(settings, seed, network, network.classes, cases)
    at, note = Checkpoint(0, ()), ""
    if checkpoint:
        found = load_checkpoint(checkpoint, network, optimiser, identity)
        note = "" if found else group.told(lambda: set_aside(checkpoint))
        at = found or at
    resumed, waited = at.epoch, 0.0
    if note:
        on_progress(Progress("train", 0, settings.epochs, note))
    network.train()
    with _Loop(network, batches, optimiser, settings, device, group) as loop:
        for epoch in range(at.epoch, settings.epochs):
            loss = loop.epoch(epoch)
            waited += loop.waited
            at = Checkpoint(epoch + 1, (*at.losses, loss))
            on_progress(Progress("train", at.epoch, settings.epochs, f"loss {loss:.3f}", {"loss": loss}))
            due = at.epoch % settings.checkpoint_every == 0 or at.epoch == settings.epochs
            if checkpoint and group.first and due:
                save_checkpoint(checkpoint, network, optimiser, at, identity)
            if on_epoch and group.told(lambda at=at: on_epoch(at.epoch, network)):  # type: ignore[misc]
                break
    network.eval()
    settle(network)
    seconds = time.perf_counter() - started
    return TrainResult(at.losses, at.epoch * batches.steps_per_epoch, seconds, waited, resumed, note)


def settle(network: Network) -> None:
    """From here on every head knows the base that it belongs to."""
    digest = fingerprint(network.base, modes=False)
    for name in network.classes:
        network.head(name).base_digest = digest


RAREST = 1e-5
"""Least share of voxels that a class counts as: of one that no case has, odds could not be told."""


def start_at_priors(network: Network, cases: Sequence[PreparedCase], classes: Sequence[str]) -> None:
    """The fresh heads of `classes` begin by expecting their class as often as `cases` show it: its share of the voxels judged for it.

    At a bias near 0 a class of a thousandth of the voxels begins with a loss that all voxels but its own decide.
    """
    for name in classes:
        masks = [np.asarray(case.labels[name]) for case in cases if name in case.labels]
        seen, judged = (
            sum(int((m == 1).sum()) for m in masks),
            sum(int((m != UNLABELLED).sum()) for m in masks),
        )
        network.head(name).start_at(min(max(seen / max(judged, 1), RAREST), 0.5))


def channels_last(network: Network, settings: Optimisation, device: torch.device) -> bool:
    """Whether a network trains in the memory format of channels last.

    Measured on one core: a step of unet_small takes 0.28 s with it and 0.34 s without. On a GPU the convolutions of mixed
    precision want it too. The attention of Swin UNETR works on another layout and gains nothing.
    """
    if settings.channels_last != "auto":
        return settings.channels_last
    convolutional = network.base.config.architecture != "swin_unetr"
    return convolutional and (device.type == "cpu" or (device.type == "cuda" and settings.mixed_precision))


class _Loop:
    """The steps of a training, and the network in the form in which it trains; left, the network is as it was."""

    def __init__(
        self,
        network: Network,
        batches: PatchBatches,
        optimiser: torch.optim.Optimizer,
        settings: Optimisation,
        device: torch.device,
        group: Group,
    ) -> None:
        self._network, self._batches, self._optimiser = network, batches, optimiser
        self._settings, self._device, self._group = settings, device, group
        self._last = channels_last(network, settings, device)
        self.waited = 0.0

    def __enter__(self) -> _Loop:
        if self._last:
            self._network.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
        forward: nn.Module = self._network
        if self._group.size > 1:
            ids = [self._device.index] if self._device.type == "cuda" else None
            forward = nn.parallel.DistributedDataParallel(
                self._network, device_ids=ids, process_group=self._group.steps
            )
        self._forward = cast("nn.Module", torch.compile(forward)) if self._settings.compile else forward
        return self

    def __exit__(self, *_: object) -> None:
        if self._last:
            self._network.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]

    def epoch(self, number: int) -> float:
        """All steps of an epoch; the mean of their losses. ``waited``: seconds without a batch."""
        places = self._batches.places(number, self._group.rank, self._group.size)
        drawn = Prefetched(self._draw, places, self._settings.prefetch)
        total, first = torch.zeros((), device=self._device), number * self._batches.steps_per_epoch
        for index, batch in enumerate(drawn):
            set_learning_rate(self._optimiser, self._settings, first + index, self._batches.steps_per_epoch)
            self._optimiser.zero_grad(set_to_none=True)
            total += self._backward(batch)
            self._optimiser.step()
        self.waited = drawn.waited
        # Read once an epoch: on a GPU each reading waits for all that was asked of it.
        return float(self._group.total(total)) / len(places)

    def _draw(self, place: Place) -> Batch:
        batch = self._batches.draw(place)
        return (
            Batch(batch.image.pin_memory(), batch.target.pin_memory())
            if self._device.type == "cuda"
            else batch
        )

    def _backward(self, batch: Batch) -> Tensor:
        """Gradients of a batch; its share of the loss of the whole batch that all processes make."""
        labelled = (batch.target != UNLABELLED).flatten(2).any(dim=2).sum().float()
        pairs = self._group.total(labelled.to(self._device)).clamp(min=1)
        images = batch.image.chunk(self._settings.accumulate)
        targets = batch.target.chunk(self._settings.accumulate)
        total = torch.zeros((), device=self._device)
        for part, (image, target) in enumerate(zip(images, targets, strict=True)):
            with self._together(last=part == len(images) - 1):
                loss = self._sum(image, target) / pairs
                # Processes' gradients are averaged where the sum is meant.
                (loss * self._group.size).backward()  # type: ignore[no-untyped-call]
            total += loss.detach()
        return total

    def _together(self, *, last: bool) -> AbstractContextManager[Any]:
        """Gradients travel between processes with the last part of a batch alone."""
        return nullcontext() if last or self._group.size == 1 else cast("Any", self._forward).no_sync()

    def _sum(self, image: Tensor, target: Tensor) -> Tensor:
        """The sum of the losses of all pairs that are labelled; 0 with a gradient when none is."""
        image, target = (t.to(self._device, non_blocking=True) for t in (image, target))
        if self._last:
            image = image.to(memory_format=torch.channels_last_3d)
        # bfloat16 convolutions are far slower than float32 on most CPUs, so mixed precision is for GPUs alone.
        on = self._settings.mixed_precision and self._device.type == "cuda"
        with torch.autocast(self._device.type, torch.bfloat16, enabled=on):
            logits = self._forward(image)
        # A pair without a label has loss 0.
        losses, _ = pair_losses(logits.float(), target, self._settings.balance)
        return losses.sum()
