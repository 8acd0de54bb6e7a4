"""All of a prediction but the network: reading, resampling, blending, the way back and writing, beside MONAI's parts.

One thread, and what it computed rather than what the wall clock says: a busy machine changes little. The network is untrained,
so that masks are noise all over the CT: the worst for an engine that leaves out what is empty. Organs in a whole CT are
measured by ``ctune bench inference``.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from ctune.bench.inference.pipelines import PIPELINES
from ctune.classes import NINE_ORGANS
from ctune.config import BaseConfig, preset
from ctune.data.phantom import write_cohort
from ctune.inference.clock import Clock
from ctune.model.base import build_base
from ctune.model.heads import build_head
from ctune.model.network import Network

CONFIG = preset(
    "ct",
    base={"architecture": "unet_small", "channels": (2, 4)},
    preprocessing={"spacing_mm": (3.0, 3.0, 3.0)},
    inference={"patch_size": (48, 48, 48), "overlap": 0.0},
)

BOUND = 1.2
"""What holds whatever the reference says."""
SHARE = 0.7
"""Of the reference; 1.6 to 2.1 were seen on two busy cores."""


@pytest.fixture(scope="module")
def ct(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("phantom")
    (case_id,) = write_cohort(folder, 1, 0, "medium")
    return folder / case_id / "ct.nii.gz"


def around_network(pipeline: str, ct: Path, out: Path, rounds: int) -> float:
    """Least processor seconds of all stages but the network, of some rounds."""
    base = build_base(BaseConfig(architecture="unet_small", channels=(2, 4)), 0)
    network = Network(base, {name: build_head(name, "text", base, 0) for name in NINE_ORGANS})
    found = []
    for number in range(rounds):
        clock = Clock()
        PIPELINES[pipeline](CONFIG, network, out / f"{pipeline}-{number}", clock)(ct)
        found.append(sum(seconds for stage, seconds in clock.processor.items() if stage != "network"))
    return min(found)


def test_around_the_network(
    benchmark: BenchmarkFixture, ct: Path, tmp_path: Path, gate: Callable[..., None]
) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        ours = benchmark.pedantic(around_network, args=("ctune", ct, tmp_path, 2), rounds=1)
        theirs = around_network("monai", ct, tmp_path, 2)
    finally:
        torch.set_num_threads(threads)
    benchmark.extra_info.update({"ctune_seconds": ours, "monai_seconds": theirs})
    gate("inference", "around_network_speedup_over_monai", theirs / ours, BOUND, share=SHARE, at_most=False)
