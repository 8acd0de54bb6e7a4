"""What the benchmark of inference draws."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import median
from typing import Any

from ctune.bench.report.plots import Bar, Bars, Plot
from ctune.bench.result import BenchResult

_NAMES = {"ctune": "ctune", "monai": "plain MONAI"}
_ORDER = ("read", "resample", "network", "accumulate", "invert", "postprocess", "write")


def plots(result: BenchResult) -> list[Plot]:
    """Seconds and memory of both pipelines, whole and by stage."""
    pairs: list[Any] = [each for name, each in sorted(result.details.items()) if name.startswith("seed ")]
    over, several = ("One CT", False) if len(pairs) == 1 else (f"Median of {len(pairs)} CTs", True)
    stages: Mapping[str, Any] = result.measures
    return [
        Bars(
            "From a CT's file to nine masks",
            "seconds",
            [_bar(name, [pair[way]["seconds"] for pair in pairs]) for way, name in _NAMES.items()],
            f"{over}, each pipeline in a process of its own with all threads{'; lines from the fastest to the slowest' * several}.",
        ),
        Bars(
            "Where the time goes",
            "processor seconds, one thread",
            [
                Bar(f"{stage}: {name}", float(stages[f"{way}_stage_seconds"][stage]), colour=number)
                for stage in sorted(stages["ctune_stage_seconds"], key=_place)
                for number, (way, name) in enumerate(_NAMES.items(), start=1)
            ],
            f"{over}, by stage.",
        ),
        Bars(
            "Peak memory",
            "MiB",
            [_bar(name, [pair[way]["peak_mb"] for pair in pairs]) for way, name in _NAMES.items()],
            f"{over}{'; lines from the lowest to the highest' * several}.",
        ),
    ]


def _bar(name: str, values: list[float]) -> Bar:
    return Bar(name, median(values), min(values), max(values))


def _place(stage: str) -> int:
    return _ORDER.index(stage) if stage in _ORDER else len(_ORDER)
