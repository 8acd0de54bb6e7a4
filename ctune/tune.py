"""Tune class-specific heads on a frozen base, from cached features, and prove that nothing else moved.

Each head is tuned by itself, with random numbers of its own: which other heads are tuned in the same call changes
nothing. The base makes no pass in the loop; its features of each window are computed once (``model.features``).
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, CancelledError, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import torch

from ctune.config import Tuning
from ctune.data.prepared import PreparedCase
from ctune.errors import FrozenChangedError
from ctune.interrupts import Stop, telling
from ctune.losses import masked_dice_bce
from ctune.model.base import Features
from ctune.model.features import Corner, FeatureCache, FeatureSource, LiveFeatures
from ctune.model.freeze import fingerprint, tune_only
from ctune.model.network import Network
from ctune.optimise import make_optimiser, set_learning_rate
from ctune.subpatches import SubPatches, feature_windows
from ctune.types import OnProgress, Progress, silent
from ctune.watch import Look, Validation, Watch


@dataclass(frozen=True)
class TuneResult:
    """What a tuning did. losses: {class: mean loss of each epoch}. seconds: the cache's share apart.

    looks: {class: what the validation cases said while it trained, oldest first}. kept: {class: the look whose weights were
    kept}; a class that no validation case annotates has none, and its last weights.
    """

    losses: Mapping[str, tuple[float, ...]]
    steps: Mapping[str, int]
    seconds: float
    cache_seconds: float
    looks: Mapping[str, tuple[Look, ...]] = field(default_factory=dict)
    kept: Mapping[str, Look] = field(default_factory=dict)


@dataclass(frozen=True)
class Snapshot:
    """What must not move: the base's fingerprint, and the logits of the unrevised classes on probe windows.

    logits: {class: (N, X, Y, Z) float32}.
    """

    base_fingerprint: str
    logits: Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class Proof:
    """The comparison of two snapshots; ``max_abs_change`` is over all voxels, by class, and 0.0 means equal bits."""

    base_fingerprint: str
    max_abs_change: Mapping[str, float]
    voxels: int


def tune_heads(
    network: Network,
    classes: Sequence[str],
    cases: Sequence[PreparedCase],
    settings: Tuning,
    *,
    window: Corner,
    overlap: float,
    seed: int,
    device: torch.device,
    cache: Path,
    validation: Validation | None = None,
    on_progress: OnProgress = silent,
) -> TuneResult:
    """Tune the heads of `classes` in place; the base and every other head stay as they are, bit for bit.

    `window` and `overlap` are those of prediction, so that a head learns from the features it will see. A case counts
    for the classes that its labels name. A head that `validation` covers ends with its best weights, and may stop early;
    any other with its last. Raises ModelError when a class has no head or no case annotates it.
    """
    started = time.perf_counter()
    network.to(device)
    tune_only(network, classes, trainable="heads")
    base_digest = fingerprint(network.base, modes=False)
    source = feature_source(cache, network, base_digest, settings, device)
    windows = feature_windows(source, cases, classes, window, overlap, settings, seed, on_progress)
    cached = time.perf_counter()
    pools = {name: SubPatches([w for w in windows if name in w.labels], name, settings) for name in classes}

    watches = _watches(network, classes, validation, settings)
    stop = Stop()

    def tell(step: Progress) -> None:
        # Threads cannot be ended from outside: once an epoch each asks whether to go on.
        if stop.told:
            raise CancelledError
        on_progress(step)

    def one(name: str) -> tuple[float, ...]:
        return _tune_one(network, name, pools[name], settings, seed, device, watches.get(name), tell)

    losses = dict(zip(classes, _side_by_side(one, classes, device, stop), strict=True))
    kept = {name: look for name, watch in watches.items() if (look := watch.restore())}
    for name in classes:
        network.head(name).base_digest = base_digest
    steps = {name: pools[name].steps_per_epoch * len(losses[name]) for name in classes}
    looks = {name: tuple(watch.looks) for name, watch in watches.items()}
    network.eval()
    return TuneResult(losses, steps, time.perf_counter() - started, cached - started, looks, kept)


def feature_source(
    folder: Path,
    network: Network,
    base_digest: str,
    settings: Tuning,
    device: torch.device,
    *,
    pin: bool = True,
) -> FeatureSource:
    """The cache in `folder`, or with ``settings.cache_gb = 0`` a pass of the base at every reading.

    pin: False for what is read seldom, as in ``FeatureCache``.
    """
    if settings.cache_gb == 0:
        return LiveFeatures(network.base, device)
    memory = None if settings.cache_memory_gb == "auto" else settings.cache_memory_gb
    return FeatureCache(
        folder, network.base, base_digest, device, limit_gb=settings.cache_gb, memory_gb=memory, pin=pin
    )


def _watches(
    network: Network, classes: Sequence[str], validation: Validation | None, settings: Tuning
) -> dict[str, Watch]:
    """One watch a head that validation covers: a head looks at itself alone."""
    if validation is None or settings.validate_every == 0:
        return {}
    return {
        name: Watch(network.head(name), partial(validation.dice, network, (name,)), settings)
        for name in validation.covers(classes)
    }


def _side_by_side(
    one: Callable[[str], tuple[float, ...]],
    classes: Sequence[str],
    device: torch.device,
    stop: Stop,
) -> list[tuple[float, ...]]:
    """Heads are small and independent: on a CPU each gets one core of its own, instead of all cores a few voxels each.

    One thread a head also makes its bytes the same whatever number of cores there is. An error in one, and Ctrl-C, tell
    `stop`: the others end too, instead of running on to their last epoch, and none begins.
    """
    if device.type != "cpu":
        return [one(name) for name in classes]
    threads = torch.get_num_threads()

    def alone(name: str) -> tuple[float, ...]:
        if stop.told:
            raise CancelledError
        torch.set_num_threads(1)
        # Gradients of a head that is nearly right are full of subnormal numbers, on which a CPU is slow: a step took 77 ms
        # with them and 28 ms with zeros in their place, at the same loss. The mode is this thread's, which ends here.
        torch.set_flush_denormal(True)
        return one(name)

    try:
        with telling(stop), ThreadPoolExecutor(max_workers=min(len(classes), threads)) as workers:
            running: list[Future[tuple[float, ...]]] = []
            try:
                running.extend(workers.submit(alone, name) for name in classes)
                done, _ = wait(running, return_when=FIRST_EXCEPTION)
                for future in done:
                    future.result()
            except BaseException:
                stop.told = True
                for future in running:
                    future.cancel()
                raise
            return [future.result() for future in running]
    finally:
        torch.set_num_threads(threads)


def _tune_one(
    network: Network,
    name: str,
    pool: SubPatches,
    settings: Tuning,
    seed: int,
    device: torch.device,
    watch: Watch | None,
    on_progress: OnProgress,
) -> tuple[float, ...]:
    rng = np.random.default_rng([seed, int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big")])
    optimiser = make_optimiser(network.head(name).parameters(), settings, fused=True)
    losses: list[float] = []

    def logits(features: Features) -> torch.Tensor:
        return network.logits(features.apply(lambda t: t.to(device)), (name,))

    for epoch in range(settings.epochs):
        if settings.hard_share and epoch and epoch % settings.mine_every == 0:
            with torch.no_grad():
                pool.mine(logits)
        total = 0.0
        for step in range(pool.steps_per_epoch):
            set_learning_rate(optimiser, settings, epoch * pool.steps_per_epoch + step, pool.steps_per_epoch)
            features, target = pool.draw(rng)
            loss = masked_dice_bce(logits(features), target.to(device), settings.balance)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            total += float(loss.detach())
        losses.append(total / pool.steps_per_epoch)
        on_progress(
            Progress(
                f"tune {name}", epoch + 1, settings.epochs, f"loss {losses[-1]:.3f}", {"loss": losses[-1]}
            )
        )
        if watch and watch.after(epoch + 1):
            break
    return tuple(losses)


def snapshot(network: Network, classes: Sequence[str], windows: torch.Tensor) -> Snapshot:
    """The base's fingerprint and the logits of `classes` on probe `windows` (N, 1, X, Y, Z) float32, as they are now."""
    network.eval()
    with torch.inference_mode():
        logits = (
            network(windows.to(next(network.parameters()).device), tuple(classes)).cpu() if classes else None
        )
    by_class = {} if logits is None else {name: logits[:, k].clone() for k, name in enumerate(classes)}
    return Snapshot(fingerprint(network.base), by_class)


def prove_unmoved(before: Snapshot, after: Snapshot) -> Proof:
    """Compare what must not have moved (design promise "zero forgetting").

    Raises FrozenChangedError when the base's fingerprint differs or a single bit of a logit does.
    """
    if before.base_fingerprint != after.base_fingerprint:
        raise FrozenChangedError(
            f"expected the base to stay {before.base_fingerprint[:12]}, got {after.base_fingerprint[:12]} after tuning; "
            "nothing was registered; tune again with trainable = heads"
        )
    change, voxels = {}, 0
    for name, old in before.logits.items():
        new = after.logits[name]
        change[name] = float((new - old).abs().max())
        voxels += old.numel()
        if not torch.equal(old.view(torch.int32), new.view(torch.int32)):
            raise FrozenChangedError(
                f"expected the logits of {name}, which was not revised, to stay equal bit for bit; they moved by up to "
                f"{change[name]:.3g}; nothing was registered; report this with the versions of torch and ctune"
            )
    return Proof(after.base_fingerprint, change, voxels)
