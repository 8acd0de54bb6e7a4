"""One small study for the gates of tuning: a base, full training on the same annotations, continual tuning.

Processor seconds of one thread, so that a busy machine changes both sides alike. The study is far too small for good Dice: its
Dice is there to notice a change, on a fixed seed.
"""

from __future__ import annotations

from pathlib import Path
from statistics import mean
from typing import Any

import torch

from ctune.bench.catalogue import Preset
from ctune.bench.speed import protocol as speed
from ctune.bench.study import Scale, Study, curve, full_training, make_study, means
from ctune.compositions import Tuned, register_model
from ctune.types import silent

SCALE = Scale(
    cases=8, revised=6, tests=4, epochs=10, look_every=1000, tune_epochs=3, new=("aorta", "stomach")
)
SEED = 0
CPU = torch.device("cpu")


def make_base(work: Path) -> Study:
    """The study with its base trained and registered."""
    config = speed.config_of(Preset.SMOKE, SEED)
    train = config.train.model_copy(update={"epochs": SCALE.epochs})
    tune_ = config.tune.model_copy(update={"epochs": SCALE.tune_epochs})
    config = config.model_copy(update={"classes": SCALE.classes, "train": train, "tune": tune_})
    study = make_study(work, config, SCALE, SEED, silent)
    base = full_training(study, "base", work / "base", CPU, silent)
    made = {name: Tuned((), {}, SEED, 0) for name in base.classes}
    register_model(study.project.open_registry(), "base", base, config, made)
    return study


def tune(study: Study, way: str, **changes: Any) -> dict[str, Any]:
    """One way of continual tuning (``ctune.bench.speed.protocol.ARMS``): its seconds, its Dice, what moved of the old classes."""
    old: dict[str, dict[str, float | None]] = {name: {} for name in SCALE.old}
    return speed.continual(study, way, {**speed.ARMS[way], **changes}, CPU, old, silent)


def dice(tuned: dict[str, Any]) -> float:
    """Mean over the new classes of their mean Dice."""
    return mean(means({name: tuned["dice"][name] for name in SCALE.new}).values())


def train_in_full(study: Study, work: Path) -> float:
    """Processor seconds of full training on the annotations that there are."""
    full_training(study, "rival", work / "rival", CPU, silent)
    return float(curve(work / "rival")[-1]["cpu_seconds"])
