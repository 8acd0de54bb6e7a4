"""Full training beside the same network in a plain loop of MONAI's parts, turn by turn on one thread.

Each step does the same arithmetic on as many patches; ``ctune bench training`` measures more of it, with more turns.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from ctune.bench.training.protocol import CTUNE, PLAIN, Scale, compare, summary
from ctune.data.phantom import write_cohort

SCALE = Scale(4, 6, "small", "phantom", {})


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("training")
    write_cohort(folder / "cohort", SCALE.cases, 0, SCALE.size)
    return folder


@pytest.fixture(scope="module")
def found(work: Path) -> dict[str, Any]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return summary([compare(work / "cohort", "cpu", SCALE, 0, work, (CTUNE, PLAIN))])
    finally:
        torch.set_num_threads(threads)


def test_full_training_is_not_slower_than_a_plain_loop(
    benchmark: BenchmarkFixture, found: dict[str, Any], gate: Callable[..., None]
) -> None:
    figure = "time_ratio_monai_over_ctune"
    value = benchmark.pedantic(found.__getitem__, args=(figure,), rounds=1)
    benchmark.extra_info.update(found["steps_per_second"])
    gate("training", figure, value, 1.0, at_most=False)


def test_full_training_does_not_wait_for_patches(
    benchmark: BenchmarkFixture, found: dict[str, Any], gate: Callable[..., None]
) -> None:
    value = benchmark.pedantic(found.__getitem__, args=("computing_share",), rounds=1)
    gate("training", "computing_share", value, 0.9, at_most=False)
