"""What the benchmark of full training draws."""

from __future__ import annotations

from statistics import median
from typing import Any

from ctune.bench.report.plots import Bar, Bars, Plot
from ctune.bench.result import BenchResult

_SHORT = {"forward, backward, optimiser": "compute", "wait for patches": "wait"}


def plots(result: BenchResult) -> list[Plot]:
    """Seconds of a step by way with their spread, where they go, and memory."""
    found: Any = result.measures
    seeds: list[Any] = [each for name, each in sorted(result.details.items()) if name.startswith("seed ")]
    ways = list(found["steps_per_second"])
    steps = {
        way: [turn[way] / seed["steps_a_turn"] for seed in seeds for turn in seed["turns"]] for way in ways
    }
    stages = found["step_stage_seconds"]
    return [
        Bars(
            "A step of full training",
            "seconds",
            [Bar(way, median(each), min(each), max(each)) for way, each in steps.items()],
            f"Median of {len(steps[ways[0]])} epochs of each, in turns; lines from the fastest to the slowest.",
        ),
        Bars(
            "Where the time goes",
            "seconds of a step",
            [
                Bar(f"{_SHORT.get(stage, stage)}: {way}", stages[way][stage], colour=number)
                for stage in stages[ways[0]]
                for number, way in enumerate(ways, start=1)
            ],
            "Over all epochs. Compute: forward, backward and optimiser; wait: for patches.",
        ),
        Bars(
            "Peak memory of the process that trains",
            "MiB",
            [Bar(way, peak) for way, peak in found["peak_mb"].items()],
            "Highest of all seeds; processes that only load do not count.",
        ),
    ]
