"""What the registry's benchmark draws."""

from __future__ import annotations

from typing import Any

from ctune.bench.report.plots import Bar, Bars, Plot
from ctune.bench.result import BenchResult

_WAYS = {
    "plain": "write and fsync alone",
    "ctune": "ctune",
    "mlflow_lean": "MLflow, one run for all",
    "mlflow_guided": "MLflow, a run a version",
}
_KINDS = {"name": "NAME", "version": "NAME:VERSION", "alias": "NAME@ALIAS", "digest": "sha256:..."}


def plots(result: BenchResult) -> list[Plot]:
    """Milliseconds of a registration, beside others; of a reference, by kind."""
    details: dict[str, Any] = result.details
    seed, times = next(iter(details["register"].items()))
    resolve = details["resolve"]
    return [
        Bars(
            "Registering a head of 2 MiB",
            "milliseconds",
            [_bar(text, times[way]) for way, text in _WAYS.items() if way in times],
            f"Median of {times['plain']['n']} in turns, {seed}; the line ends at the 95th percentile. ctune and the plain write "
            "have the bytes on the disk when they return, MLflow leaves that to the system.",
        ),
        Bars(
            "Resolving a reference",
            "milliseconds",
            [_bar(text, resolve[kind]) for kind, text in _KINDS.items()],
            f"Median of {resolve['name']['n']} of each kind among {details['size']['versions']} versions of "
            f"{details['size']['names']} names; the line ends at the 95th percentile.",
        ),
    ]


def _bar(name: str, times: dict[str, float]) -> Bar:
    return Bar(name, times["median_ms"], times["median_ms"], times["p95_ms"])
