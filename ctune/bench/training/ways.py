"""Full training by one way, in a process of its own that works when it is told to: ctune, or a plain loop of MONAI's parts.

    python -c "from ctune.bench.training.ways import work; work('job.json')"

prepares its cases, then trains one epoch for each line that it reads, and answers each with one line of JSON; at the end of
its input it says what it held at most. Both ways begin with the same weights and use the same loss, optimiser, schedule,
patches a step and precision.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ctune.bench.machine import peak_memory_mb
from ctune.classes import NINE_ORGANS
from ctune.config import Config, HUWindow
from ctune.data.files import read_json, sha256_of
from ctune.data.nifti import read_case, read_mask
from ctune.data.prepared import PreparedCase, prepare
from ctune.losses import masked_dice_bce
from ctune.model.base import build_base
from ctune.model.heads import build_head
from ctune.model.network import Network
from ctune.optimise import learning_rate_factor, make_optimiser
from ctune.train import train

Told = Callable[[Mapping[str, Any]], bool]
"""Hands an answer over and waits; whether to go on."""


def work(job: str) -> None:
    """Do one job; ``ctune.bench.training.protocol`` writes jobs.

    A job: way ("ctune" or "monai"), workers (processes that load for MONAI), cohort (folder of phantoms), scratch, config,
    seed, device, threads.
    """
    asked = read_json(Path(job))
    torch.set_num_threads(asked["threads"])
    config, device = Config.model_validate(asked["config"]), torch.device(asked["device"])
    cases = sorted(path.parent for path in Path(asked["cohort"]).glob("*/ct.nii.gz"))
    network = fresh(config, asked["seed"])

    def told(answer: Mapping[str, Any]) -> bool:
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()
        return bool(sys.stdin.readline())

    began = time.perf_counter()
    if asked["way"] == "ctune":
        prepared = [_prepared(case, config, Path(asked["scratch"])) for case in cases]
        if told({"prepare": time.perf_counter() - began}):
            _ctune(network, prepared, config, asked["seed"], device, told)
    else:
        loader = _loader(cases, config, asked["seed"], asked["workers"], device)
        if told({"prepare": time.perf_counter() - began}):
            _monai(network, loader, config, device, told)
    on_gpu = {"gpu_peak_mb": torch.cuda.max_memory_allocated() / 2**20} if device.type == "cuda" else {}
    told({"peak_mb": peak_memory_mb(started=False), **on_gpu})


def fresh(config: Config, seed: int) -> Network:
    """The network that every way begins with."""
    base = build_base(config.base, seed)
    kind = config.heads.kind
    return Network(
        base, {name: build_head(name, kind, base, seed, config.heads) for name in NINE_ORGANS}
    ).train()


def _prepared(folder: Path, config: Config, scratch: Path) -> PreparedCase:
    ct = folder / "ct.nii.gz"
    grid = read_case(ct, folder.name).grid
    masks = {n: read_mask(folder / "segmentations" / f"{n}.nii.gz", grid, n) for n in NINE_ORGANS}
    load = partial(read_case, ct, folder.name)
    return prepare(folder.name, load, sha256_of(ct), masks, config.preprocessing, scratch)


def _ctune(
    network: Network,
    cases: Sequence[PreparedCase],
    config: Config,
    seed: int,
    device: torch.device,
    told: Told,
) -> None:
    """The training of ``ctune train``, held after each epoch until it is told to go on."""
    began, waiting = time.perf_counter(), 0.0

    def on_epoch(_: int, __: Network) -> bool:
        nonlocal began, waiting
        _finish(device)
        ended = time.perf_counter()
        on = told({"seconds": ended - began})
        waiting += time.perf_counter() - ended
        began = time.perf_counter()
        return not on

    whole = time.perf_counter()
    done = train(network, cases, config.train, seed=seed, device=device, on_epoch=on_epoch)
    told({"seconds": time.perf_counter() - whole - waiting, "wait": done.waited, "losses": done.losses})


def _monai(network: Network, loader: Any, config: Config, device: torch.device, told: Told) -> None:
    """The loop as MONAI's tutorials write it."""
    settings, sums = config.train, {"seconds": 0.0, "wait": 0.0}
    network.to(device)
    optimiser = make_optimiser(network.parameters(), settings)
    warmup = round(settings.warmup_epochs * len(loader))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser,
        partial(learning_rate_factor, total_steps=settings.epochs * len(loader), warmup_steps=warmup),
    )
    mixed = settings.mixed_precision and device.type == "cuda"
    losses, on = [], True
    while on:
        began, loss_sum = time.perf_counter(), 0.0
        for batch in _counted(loader, sums):
            image, target = batch["image"].to(device), batch["label"].to(device)
            optimiser.zero_grad()
            with torch.autocast(device.type, torch.bfloat16, enabled=mixed):
                logits = network(image)
            loss = masked_dice_bce(logits.float(), target, settings.balance)
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()
            loss_sum += loss.item()
        losses.append(loss_sum / len(loader))
        _finish(device)
        seconds = time.perf_counter() - began
        sums["seconds"] += seconds
        on = told({"seconds": seconds})
    told({**sums, "losses": losses})


def _counted(loader: Any, sums: dict[str, float]) -> Iterator[dict[str, Tensor]]:
    """The loader's batches; the time until each is there is added to ``sums["wait"]``."""
    batches = iter(loader)
    while True:
        began = time.perf_counter()
        batch = next(batches, None)
        sums["wait"] += time.perf_counter() - began
        if batch is None:
            return
        yield batch


def _loader(cases: Sequence[Path], config: Config, seed: int, workers: int, device: torch.device) -> Any:
    """CacheDataset and DataLoader: what does not change is done once and held, the voxels of organs too."""
    from monai.data import CacheDataset, DataLoader, list_data_collate
    from monai.utils import set_determinism

    set_determinism(seed)
    files = [
        {"image": str(c / "ct.nii.gz"), **{n: str(c / "segmentations" / f"{n}.nii.gz") for n in NINE_ORGANS}}
        for c in cases
    ]
    data = CacheDataset(files, _transforms(config), progress=False, num_workers=0)
    return DataLoader(
        data, batch_size=max(1, config.train.batch_size // config.train.patches_per_case), shuffle=True,
        num_workers=workers, persistent_workers=workers > 0, pin_memory=device.type == "cuda",
        collate_fn=list_data_collate,
    )  # fmt: skip


def _transforms(config: Config) -> Any:
    """ctune's preprocessing, patches and augmentation, of MONAI's transforms."""
    from monai import transforms as t

    window, settings, spacing = config.preprocessing.window, config.train, config.preprocessing.spacing_mm
    assert isinstance(window, HUWindow)
    both, names = ("image", "label"), list(NINE_ORGANS)
    modes = ("bilinear", *("nearest" for _ in names))
    size, share = settings.patch_size, settings.positive_share
    return t.Compose(
        [
            t.LoadImaged(["image", *names]),
            t.EnsureChannelFirstd(["image", *names]),
            *([] if spacing == "native" else [t.Spacingd(["image", *names], spacing, mode=modes)]),
            t.ScaleIntensityRanged("image", window.low, window.high, 0.0, 1.0, clip=True),
            t.ConcatItemsd(names, "label"),
            t.SpatialPadd(both, size),
            t.CopyItemsd("label", names="organs"),
            t.Lambdad("organs", lambda label: label.max(dim=0, keepdim=True).values),
            t.FgBgToIndicesd("organs"),
            t.DeleteItemsd([*names, "organs"]),
            t.EnsureTyped("image", dtype=torch.float32, track_meta=False),
            t.EnsureTyped("label", dtype=torch.uint8, track_meta=False),
            t.RandCropByPosNegLabeld(
                both, "label", size, pos=share, neg=1 - share, num_samples=settings.patches_per_case,
                fg_indices_key="organs_fg_indices", bg_indices_key="organs_bg_indices",
            ),
            t.DeleteItemsd(["organs_fg_indices", "organs_bg_indices"]),
            t.RandRotate90d(both, prob=settings.rotation_probability, max_k=3),
            t.RandShiftIntensityd("image", settings.intensity_shift, prob=settings.intensity_shift_probability),
        ]
    )  # fmt: skip


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()
