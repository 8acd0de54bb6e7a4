"""Full training beside the same network in a plain loop of MONAI's parts, turn by turn on one thread.

Each step does the same arithmetic on as many patches; ``ctune bench training`` measures more of it, with more turns.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from pytest_benchmark.fixture import BenchmarkFixture

from ctune.bench.training import CTUNE, PLAIN, Scale, compare, summary
from ctune.data.phantom import write_cohort

SCALE = Scale(4, 6, "small", "phantom", {})


def test_full_training_is_not_slower_than_a_plain_loop(
    benchmark: BenchmarkFixture, tmp_path: Path, gate: Callable[..., None]
) -> None:
    write_cohort(tmp_path / "cohort", SCALE.cases, 0, SCALE.size)
    arguments = (tmp_path / "cohort", "cpu", SCALE, 0, tmp_path, (CTUNE, PLAIN))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        found = summary([benchmark.pedantic(compare, args=arguments, rounds=1)])
    finally:
        torch.set_num_threads(threads)
    benchmark.extra_info.update(found["steps_per_second"])
    for figure, bound in (("time_ratio_monai_over_ctune", 1.0), ("computing_share", 0.9)):
        gate("training", figure, found[figure], bound, at_most=False)
