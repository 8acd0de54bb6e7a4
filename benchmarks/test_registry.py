"""Registering a head of 2 MiB, beside writing and fsyncing the same bytes in the same folder, in turns in one run.

The ratio is the figure to watch: a slow disk or a busy machine changes both times alike. Not quite: a neighbour who comes between
two writes was seen to double the median of three batches. It only ever adds, so the lower quartile of many short batches
counts: what is wrong with the code is wrong in all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import quantiles

from pytest_benchmark.fixture import BenchmarkFixture

from ctune.bench.registry.models import ALIAS, fill, model_name, register_base, register_head, weights
from ctune.bench.registry.protocol import BOUNDS, HEAD_BYTES, Size, registering
from ctune.types import silent
from registry import Registry

SIZE = Size(versions=20, names=2, looks=100, writes=8, processes=1)
BATCHES = range(1, 13)
"""Seeds of the batches; in each, both ways take turns."""


def test_register(benchmark: BenchmarkFixture, tmp_path: Path, gate: Callable[..., None]) -> None:
    registry = Registry.open(tmp_path)
    base = register_base(registry, 0)
    bodies = iter(range(100))

    def fresh() -> tuple[tuple[Registry, str, str, bytes], dict[str, object]]:
        return (registry, base, "liver", weights(f"round {next(bodies)}", HEAD_BYTES)), {}

    benchmark.pedantic(register_head, setup=fresh, rounds=15, warmup_rounds=1)
    found = [registering(registry, tmp_path, None, SIZE, seed)[0] for seed in BATCHES]
    figure = "register_ratio_to_plain_write"
    benchmark.extra_info["batches"] = found
    gate(
        "registry", figure, lower_quartile([batch["ratio_to_plain_write"] for batch in found]), BOUNDS[figure]
    )


def lower_quartile(values: Sequence[float]) -> float:
    """What a quarter of the values do not reach."""
    return quantiles(values, n=4, method="inclusive")[0]


def test_resolve(benchmark: BenchmarkFixture, tmp_path: Path) -> None:
    registry = Registry.open(tmp_path)
    fill(registry, SIZE.versions, SIZE.names, 0, silent)
    benchmark.pedantic(registry.resolve, args=(f"{model_name(1)}@{ALIAS}",), rounds=200, warmup_rounds=5)
