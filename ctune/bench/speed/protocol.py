"""Continual tuning against full training: seconds, steps and Dice, from the same annotations, in one run.

Continual tuning is timed from the registered base and the revised cases to the registered heads: reading, caching, tuning,
proof and registration, with an empty cache. Full training is timed by its steps alone, which favours it. On a CPU the
ratio is of processor seconds: on a machine that others use too, wall seconds measure the neighbours. Processor seconds know
them as well, a little: so a few steps of full training are timed right before and after each tuning too, and
the ratio of its steps at that pace is what is promised.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from statistics import mean
from typing import Any

import torch

from ctune.bench.catalogue import Preset
from ctune.bench.earlier import EarlierSeeds
from ctune.bench.machine import torch_device
from ctune.bench.result import Measured
from ctune.bench.run import part, plain
from ctune.bench.speed.figures import gates, ratio_gates, summary
from ctune.bench.statistics import shares_cases
from ctune.bench.study import (
    WIDE_EPOCHS,
    Clock,
    Scale,
    Study,
    curve,
    full_training,
    make_study,
    score_tests,
    seconds_a_step,
    wide,
)
from ctune.classes import NEW_FOUR
from ctune.compositions import Tuned, load_model, register_model
from ctune.config import Config
from ctune.config import preset as settings_of
from ctune.errors import BenchNotHereError
from ctune.foundation import retune_model
from ctune.project import Project
from ctune.types import OnProgress

SCALES = {
    Preset.SMOKE: Scale(cases=16, revised=4, tests=4, epochs=8, tune_epochs=3, new=NEW_FOUR[:2]),
    Preset.CPU: Scale(
        cases=200, revised=12, tests=50, epochs=30, base_epochs=20, look_every=5, tune_epochs=3
    ),
    Preset.GPU: Scale(
        cases=200, revised=12, tests=50, epochs=120, size="medium", look_every=20, tune_epochs=WIDE_EPOCHS
    ),
}
HIPPOCAMPUS = {
    Preset.SMOKE: Scale(cases=16, revised=6, tests=6, epochs=4, old=("anterior",), new=("posterior",)),
    Preset.CPU: Scale(cases=60, revised=12, tests=40, epochs=40, old=("anterior",), new=("posterior",)),
}
ARMS: Mapping[str, Mapping[str, Any]] = {
    "pyramid": {"head": "pyramid"},
    "text": {"head": "text"},
    "pyramid, no cache": {"head": "pyramid", "cache_gb": 0.0},
    "text, no cache": {"head": "text", "cache_gb": 0.0},
}
"""Ways of continual tuning, and what each changes in the settings; the last is the paper's: the base runs in every step."""
LENGTHS: Mapping[Preset, tuple[int, ...]] = {
    Preset.SMOKE: (1,),
    Preset.CPU: (1, 2, 6, 12),
    Preset.GPU: (15, 30, 120, 240),
}
"""Epochs of further continual tunings, shorter and longer: what fewer or more seconds would give. Each is whole, its schedule of its own length."""


def run(preset: str, seeds: Sequence[int], work: Path, on_progress: OnProgress) -> Measured:
    """See ``ctune.bench.catalogue.Bench``."""
    found = _run("speed", preset, SCALES[Preset(preset)], seeds, work, on_progress, config_of)
    return replace(found, gates=[*found.gates, *ratio_gates(found.measures, preset)])


def run_hippocampus(preset: str, seeds: Sequence[int], work: Path, on_progress: OnProgress) -> Measured:
    """The same on real images: the Decathlon's hippocampus, in the folder that CTUNE_HIPPOCAMPUS names.

    Raises BenchNotHereError when it names none.
    """
    data = os.environ.get("CTUNE_HIPPOCAMPUS")
    if not data:
        raise BenchNotHereError(
            "expected the folder of the Decathlon's Task04_Hippocampus in CTUNE_HIPPOCAMPUS, got nothing; set it"
        )
    return _run(
        "hippocampus", preset, HIPPOCAMPUS[Preset(preset)], seeds, work, on_progress, mr_config_of, Path(data)
    )


def _run(
    what: str,
    preset: str,
    scale: Scale,
    seeds: Sequence[int],
    work: Path,
    on_progress: OnProgress,
    config: Callable[[str, int], Config],
    cohort: Path | None = None,
) -> Measured:
    device, by_seed, data = torch.device(torch_device(preset)), {}, {}
    earlier = EarlierSeeds(what, preset)
    for seed in seeds:
        known = earlier.seed(seed, lambda _, found: _as_now(found, scale, Preset(preset)))
        if known is not None:
            by_seed[f"seed {seed}"] = known
            continue
        folder = work / f"seed-{seed}"
        study = make_study(folder, config(preset, seed), scale, seed, on_progress, cohort)
        data[f"cohort, seed {seed}"] = study.digest()
        by_seed[f"seed {seed}"] = part(
            folder / "seed.json", measure, study, Preset(preset), folder, device, on_progress
        )
    data |= earlier.data
    measures = summary(list(by_seed.values()), device, shares_cases(data))
    return Measured(measures, by_seed, (), data, gates(measures, preset), earlier.parts)


def _as_now(found: Mapping[str, Any], scale: Scale, preset: Preset) -> bool:
    """Whether the details of a seed are of this scale and have tunings of all lengths."""
    lengths = {str(epochs) for epochs in LENGTHS[preset] if epochs != scale.tune_epochs}
    return found.get("scale") == plain(asdict(scale)) and set(found.get("lengths", {})) == lengths


def config_of(preset: str, seed: int) -> Config:
    """The settings of a study: the phantom preset on a CPU, Swin UNETR 48 on 96^3 patches on an accelerator."""
    name = "ct" if preset == Preset.GPU else "phantom"
    return _config(name, preset, seed, SCALES[Preset(preset)])


def mr_config_of(preset: str, seed: int) -> Config:
    """The same for one MR contrast."""
    return _config("mr", preset, seed, HIPPOCAMPUS[Preset(preset)])


def _config(name: str, preset: str, seed: int, scale: Scale) -> Config:
    config = settings_of(name, name="speed", seed=seed, classes=scale.classes)
    in_parts, covered = wide(preset)
    train = {"epochs": scale.epochs, "checkpoint_every": 2, "validate_every": 0, **in_parts}
    tune = {"epochs": scale.tune_epochs, "validate_every": 0, **covered}
    return config.model_copy(update={
        "train": config.train.model_copy(update=train), "tune": config.tune.model_copy(update=tune),
        "device": torch_device(preset),
    })  # fmt: skip


def measure(
    study: Study, preset: Preset, folder: Path, device: torch.device, on_progress: OnProgress
) -> dict[str, Any]:
    """Everything of one seed: Dice by case and class, seconds and steps of each arm."""
    known = part(folder / "base.json", full, study, "base", folder / "base", device, on_progress)
    registry = study.project.open_registry()
    if not any(found.name == "base" for found in registry.names()):
        base = full_training(study, "base", folder / "base", device, on_progress)
        made = {name: Tuned((), {}, study.seed, 0) for name in base.classes}
        register_model(registry, "base", base, study.project.config, made, note="base of a benchmark")
    tuned = {
        arm: part(
            folder / f"continual-{_file(arm)}.json",
            continual,
            study,
            arm,
            changes,
            device,
            known["dice"],
            on_progress,
        )
        for arm, changes in ARMS.items()
    }
    lengths = {
        str(epochs): part(
            folder / f"continual-{epochs}-epochs.json",
            of_length,
            study,
            epochs,
            device,
            known["dice"],
            on_progress,
        )
        for epochs in LENGTHS[preset]
        if epochs != study.scale.tune_epochs
    }
    trained = {
        arm: part(folder / f"{arm}.json", full, study, arm, folder / arm, device, on_progress)
        for arm in ("rival", "ceiling")
    }
    return {
        "scale": asdict(study.scale), "base": known, "continual": tuned, "lengths": lengths, "full": trained,
    }  # fmt: skip


def full(
    study: Study, arm: str, folder: Path, device: torch.device, on_progress: OnProgress
) -> dict[str, Any]:
    """One full training: its curve, its steps, and Dice of the test cases at its end."""
    network = full_training(study, arm, folder, device, on_progress)
    dice = score_tests(study, network, study.tests(), device)
    return {"dice": dice, "curve": curve(folder), "steps": full_steps(study, arm)}


def _file(arm: str) -> str:
    return arm.replace(", ", "-").replace(" ", "-")


def of_length(
    study: Study,
    epochs: int,
    device: torch.device,
    old: Mapping[str, Mapping[str, float | None]],
    on_progress: OnProgress,
) -> dict[str, Any]:
    """Continual tuning as it is, of another number of epochs: its seconds, its steps, and Dice of the new classes.

    It warms up for a third of them at most: one that ends at its highest learning rate would say little of its length.
    """
    warm = min(study.project.config.tune.warmup_epochs, epochs / 3)
    changes = {**ARMS["pyramid"], "epochs": epochs, "warmup_epochs": warm}
    found = continual(study, f"pyramid, {epochs} epochs", changes, device, old, on_progress, beside=False)
    dice = {name: found["dice"][name] for name in study.scale.new}
    return {key: found[key] for key in ("cpu_seconds", "seconds", "steps")} | {"dice": dice}


def full_steps(study: Study, arm: str) -> int:
    """Optimisation steps of a full training."""
    settings = study.settings(arm)
    return settings.epochs * -(-study.scale.cases * settings.patches_per_case // settings.batch_size)


def continual(
    study: Study,
    arm: str,
    changes: Mapping[str, Any],
    device: torch.device,
    old: Mapping[str, Mapping[str, float | None]],
    on_progress: OnProgress,
    *,
    beside: bool = True,
) -> dict[str, Any]:
    """One continual tuning from the registered base: its seconds, its Dice, and what moved of the old classes.

    beside: time steps of full training before and after it, where it has a cache.
    """
    config = study.project.config
    tune = config.tune.model_copy(update=dict(changes))
    project = Project(study.project.root, config.model_copy(update={"tune": tune}))
    shutil.rmtree(project.cache / "features", ignore_errors=True)
    # Those that run the base in every step are compared with each other, not with full training.
    beside = beside and tune.cache_gb > 0
    paces = [seconds_a_step(study, "rival", device)] if beside else []
    clock = Clock()
    clock.start()
    digest, done = retune_model(
        project,
        "base",
        study.scale.new,
        name=f"continual-{_file(arm)}",
        device=device,
        on_progress=on_progress,
    )
    clock.stop()
    if beside:
        paces.append(seconds_a_step(study, "rival", device))
    network = load_model(project.open_registry(), f"sha256:{digest}", device).network
    dice = score_tests(study, network, study.tests(), device)
    assert done.proof is not None
    return {
        **clock.read(),
        "full_step": {unit: mean(each[unit] for each in paces) for unit in paces[0]} if paces else None,
        "cache_seconds": done.result.cache_seconds,
        "steps": dict(done.result.steps),
        "losses": {name: list(losses) for name, losses in done.result.losses.items()},
        "dice": dice,
        "parameters": {n: sum(p.numel() for p in network.head(n).parameters()) for n in study.scale.new},
        "unrevised_max_abs_logit_change": max(done.proof.max_abs_change.values()),
        "unrevised_dice_moved": [name for name in study.scale.old if dice[name] != old[name]],
    }
