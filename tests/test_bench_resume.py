"""A benchmark of tuning can be cut into pieces of any length by ``--minutes`` and ends the same: the same command goes on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ctune.bench import study
from ctune.bench.catalogue import Preset
from ctune.bench.forgetting import protocol as forgetting
from ctune.bench.paper import protocol as paper
from ctune.bench.paper.protocol import PROTOCOLS, Protocol, Sizes
from ctune.bench.run import run_bench
from ctune.bench.scaling import protocol as scaling
from ctune.bench.scaling.model import Round
from ctune.bench.scaling.protocol import Plan
from ctune.bench.speed import protocol as speed
from ctune.bench.study import Scale
from ctune.config import Config
from ctune.errors import BenchPausedError

TINY = Scale(
    cases=1,
    revised=1,
    tests=1,
    epochs=1,
    look_every=1,
    tune_epochs=1,
    old=("liver",),
    new=("aorta", "stomach"),
)
MOST = 40
"""Attempts after which a benchmark counts as one that never ends."""


def small_forgetting(patch: pytest.MonkeyPatch) -> None:
    patch.setitem(forgetting.SCALES, Preset.SMOKE, TINY)
    patch.setitem(forgetting.STEPS, Preset.SMOKE, 1)
    patch.setitem(forgetting.CHANNELS, Preset.SMOKE, (2, 4))
    patch.setenv("CTUNE_RIVALS", "LwF")


def small_paper(patch: pytest.MonkeyPatch) -> None:
    scale = Sizes(cases=2, revised=2, tests=1, epochs=1, look_every=9, tune_epochs=1)
    patch.setitem(
        PROTOCOLS, Preset.SMOKE, Protocol({"unet_small": scale}, {"unet_small": (("hybrid", "heads"),)})
    )
    patch.setattr(paper, "SETTINGS", ("table 2",))


def small_scaling(patch: pytest.MonkeyPatch) -> None:
    plan = Plan((Round(1, 1, 1),), (Round(2, 1, 1),), 1, 1, channels=(2, 4))
    patch.setitem(scaling.PLANS, Preset.SMOKE, plan)
    patch.setattr(scaling, "carried_on", lambda rate: {})


def small_speed(patch: pytest.MonkeyPatch) -> None:
    patch.setitem(speed.SCALES, Preset.SMOKE, replace(TINY, epochs=4, tune_epochs=2))
    patch.setattr(study, "STEPS_BESIDE", 1)
    plain = speed.config_of

    def small(preset: str, seed: int) -> Config:
        config = plain(preset, seed)
        return config.model_copy(update={"base": config.base.model_copy(update={"channels": (2, 4)})})

    patch.setattr(speed, "config_of", small)


@pytest.mark.parametrize(
    ("what", "small"),
    [
        ("forgetting", small_forgetting),
        ("paper", small_paper),
        ("scaling", small_scaling),
        ("speed", small_speed),
    ],
)
def test_pieces_of_no_length_come_to_an_end(
    what: str, small: Callable[[pytest.MonkeyPatch], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small(monkeypatch)
    pauses = 0
    found: Any = None
    while found is None:
        try:
            found, path = run_bench(what, "smoke", None, tmp_path, minutes=0)
        except BenchPausedError:
            pauses += 1
            assert pauses < MOST, "it stops at the same place for ever"
    assert pauses > 2 and len(found.attempts) == pauses + 1
    assert path.exists() and not (tmp_path / ".unfinished").exists()
