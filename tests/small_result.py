"""A result around what a benchmark measured, for tests of what is drawn of it."""

from __future__ import annotations

from typing import Any

from ctune.bench.result import Attempt, BenchResult
from ctune.bench.run import plain


def result_of(what: str, measured: Any, preset: str = "smoke", device: str = "cpu") -> BenchResult:
    """As ``run_bench`` would keep it."""
    began = "2026-01-02T03:04:05+00:00"
    return BenchResult(
        what=what, preset=preset, device=device, machine={"cores": 2}, versions={"ctune": "0.1"}, seeds=(0,), started=began,
        seconds=1.0, peak_memory_mb=1.0, attempts=(Attempt(started=began, seconds=1.0, peak_memory_mb=1.0, commit="abc"),),
        measures=plain(measured.measures), details=plain(measured.details), gates=tuple(measured.gates),
    )  # fmt: skip
