"""Full training: every weight of a network, on every case that annotates at least one of its classes.

The loss of a class counts only where the case has an annotation of it ("masked back-propagation"): a class that nobody
annotated is never taught as background.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import torch

from ctune.config import Optimisation
from ctune.data.prepared import PreparedCase
from ctune.losses import masked_dice_bce
from ctune.model.freeze import fingerprint
from ctune.model.network import Network
from ctune.optimise import (
    Batch,
    Checkpoint,
    PatchBatches,
    identity_of,
    load_checkpoint,
    make_optimiser,
    save_checkpoint,
    set_learning_rate,
)
from ctune.types import OnProgress, Progress, silent

OnEpoch: TypeAlias = Callable[[int, Network], bool]
"""Called with the number of epochs done and the network; True ends the training."""


@dataclass(frozen=True)
class TrainResult:
    """What a training did. losses: mean loss of each epoch, from the first one (also those before a resume)."""

    losses: tuple[float, ...]
    steps: int
    seconds: float


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
) -> TrainResult:
    """Train every parameter of `network` that requires a gradient, in place.

    With `checkpoint`, a safetensors file, the state is written there every `settings.checkpoint_every` epochs and a run
    that was killed goes on from it; the weights at the end equal those of a run that was never interrupted.
    `on_epoch` is called with the number of epochs done and the network after each; True ends the training there.
    Raises ModelError when a case annotates none of the network's classes.
    """
    started = time.perf_counter()
    batches = PatchBatches(cases, network.classes, settings, seed)
    network.to(device)
    parameters = [p for p in network.parameters() if p.requires_grad]
    optimiser = make_optimiser(parameters, settings)
    identity = identity_of(settings, seed, network.classes, [c.case_id for c in cases])
    at = load_checkpoint(checkpoint, network, optimiser, identity) if checkpoint else None
    at = at or Checkpoint(0, ())
    network.train()
    for epoch in range(at.epoch, settings.epochs):
        loss = _epoch(network, batches, optimiser, settings, epoch, device)
        at = Checkpoint(epoch + 1, (*at.losses, loss))
        on_progress(Progress("train", at.epoch, settings.epochs, f"loss {loss:.3f}", {"loss": loss}))
        if checkpoint and (at.epoch % settings.checkpoint_every == 0 or at.epoch == settings.epochs):
            save_checkpoint(checkpoint, network, optimiser, at, identity)
        if on_epoch and on_epoch(at.epoch, network):
            break
    network.eval()
    settle(network)
    return TrainResult(at.losses, at.epoch * batches.steps_per_epoch, time.perf_counter() - started)


def settle(network: Network) -> None:
    """From here on every head knows the base that it belongs to."""
    digest = fingerprint(network.base, modes=False)
    for name in network.classes:
        network.head(name).base_digest = digest


def _epoch(
    network: Network,
    batches: PatchBatches,
    optimiser: torch.optim.Optimizer,
    settings: Optimisation,
    epoch: int,
    device: torch.device,
) -> float:
    total, count = 0.0, 0
    for number, batch in enumerate(batches.epoch(epoch)):
        set_learning_rate(
            optimiser, settings, epoch * batches.steps_per_epoch + number, batches.steps_per_epoch
        )
        loss = _loss(network, batch, settings, device)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        total, count = total + float(loss.detach()), count + 1
    return total / count


def _loss(network: Network, batch: Batch, settings: Optimisation, device: torch.device) -> torch.Tensor:
    image, target = batch.image.to(device, non_blocking=True), batch.target.to(device, non_blocking=True)
    # bfloat16 convolutions are far slower than float32 on most CPUs, so mixed precision is for GPUs alone.
    with torch.autocast(
        device.type, torch.bfloat16, enabled=settings.mixed_precision and device.type == "cuda"
    ):
        logits = network(image)
    return masked_dice_bce(logits.float(), target)
