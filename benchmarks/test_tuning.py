"""Continual tuning against full training and against itself without a cache, what it must not move, and its Dice.

Each bound is far enough from the reference that a busy machine does not break it, and near enough that the fault behind it
does: without the cache a tuning takes five times longer. ``benchmarks/worsen.py`` shows it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import tuning
from pytest_benchmark.fixture import BenchmarkFixture

from ctune.bench.study import Study

FULL_OVER_CONTINUAL, UNCACHED_OVER_CACHED = 1.2, 2.0
"""What holds whatever the reference says; without the cache the first is .31."""
SHARE = 0.5
"""Of the reference, of both ratios: a tuning that takes twice as long fails. Not nearer: with neighbours on the machine a step of a head was
seen to slow down 2.4 times where a step of full training did 1.4 times. The ratio to full training is that of ten epochs
against three of tuning; the one without the cache is of one epoch, which pays for the cache too."""
BAND = 0.1
"""How far the Dice of the new classes, seed 0, may be from the reference on another processor, below or above."""


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tuning")


@pytest.fixture(scope="module")
def study(work: Path) -> Study:
    return tuning.make_base(work)


@pytest.fixture(scope="module")
def tuned(study: Study) -> dict[str, Any]:
    return tuning.tune(study, "pyramid")


def test_full_training_takes_longer(
    benchmark: BenchmarkFixture, study: Study, tuned: dict[str, Any], work: Path, gate: Callable[..., None]
) -> None:
    seconds = benchmark.pedantic(tuning.train_in_full, args=(study, work), rounds=1)
    benchmark.extra_info.update({"full": seconds, "continual": tuned["cpu_seconds"]})
    figure = "time_ratio_full_over_continual"
    gate("speed", figure, seconds / tuned["cpu_seconds"], FULL_OVER_CONTINUAL, share=SHARE, at_most=False)


def test_the_cache_saves_time(benchmark: BenchmarkFixture, study: Study, gate: Callable[..., None]) -> None:
    def seconds(way: str) -> float:
        return float(tuning.tune(study, way, epochs=1)["cpu_seconds"])

    cached = benchmark.pedantic(seconds, args=("pyramid",), rounds=1)
    uncached = seconds("pyramid, no cache")
    benchmark.extra_info.update({"cached": cached, "uncached": uncached})
    figure = "time_ratio_uncached_over_cached"
    gate("speed", figure, uncached / cached, UNCACHED_OVER_CACHED, share=SHARE, at_most=False)


def test_nothing_else_moves(
    benchmark: BenchmarkFixture, tuned: dict[str, Any], gate: Callable[..., None]
) -> None:
    figure = "unrevised_max_abs_logit_change"
    change = benchmark.pedantic(tuned.__getitem__, args=(figure,), rounds=1)
    gate("speed", figure, change, 0.0)


def test_dice_stays_where_it_was(
    benchmark: BenchmarkFixture, tuned: dict[str, Any], gate: Callable[..., None]
) -> None:
    found = benchmark.pedantic(tuning.dice, args=(tuned,), rounds=1)
    gate("speed", "dice_new_classes", found, band=BAND)
