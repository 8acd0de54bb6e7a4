"""The few figures of the service's benchmark, and the bounds that they keep."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import median, quantiles
from typing import Any

from ctune.bench.catalogue import Preset
from ctune.bench.result import Gate


def summary(found: Mapping[str, Any]) -> dict[str, Any]:
    """The few figures that it is about."""
    direct, service = (_p95(found["overhead"][name]) for name in ("direct", "service"))
    held = found["memory"]["resident_mb"]
    bad = Counter[str]()
    for counts in found["bad"]["statuses"].values():
        bad.update(counts)
    return {
        "ready_seconds": median(found["ready"]["later"]),
        "ready_processor_seconds": median(found["ready"]["processor"]),
        "first_ready_seconds": found["ready"]["first"],
        "overhead_p95_ratio": service / direct,
        "overhead_p95_excess_ms": 1000 * (service - 1.05 * direct),
        "overhead_p95_ms": 1000 * (service - direct),
        "direct_p95_seconds": direct,
        "service_p95_seconds": service,
        "failed_requests": found["parallel"]["failed"] + found["swap"]["failed"],
        "different_answers": found["parallel"]["different"],
        "memory_growth_ratio": median(held[-3:]) / median(held[1:4]),
        "swap_seconds": median(found["swap"]["seconds"]),
        "swap_seconds_max": max(found["swap"]["seconds"]),
        "jobs_lost": int(found["kill"]["after"] not in ("done", "failed")),
        "bad_inputs": sum(bad.values()),
        "bad_inputs_server_errors": sum(n for status, n in bad.items() if status.startswith("5")),
        "bad_inputs_unanswered": bad["none"] + bad["told"],
        "bad_inputs_slowest_seconds": found["bad"]["slowest_seconds"],
        "right_after_bad_inputs": int(found["bad"]["ready"] and found["bad"]["right"] and not found["bad"]["left"]),
        "schema_passed": None if found["schema"]["passed"] is None else int(found["schema"]["passed"]),
    }  # fmt: skip


def gates(measures: Mapping[str, Any], preset: str) -> list[Gate]:
    """What the service has promised. A smoke run holds what time and load do not change."""
    promised, bounds = "docs/service.md", {
        "failed_requests": 0.0, "different_answers": 0.0, "jobs_lost": 0.0, "bad_inputs_server_errors": 0.0,
        "bad_inputs_unanswered": 0.0,
    }  # fmt: skip
    if preset != Preset.SMOKE:
        bounds |= {
            "ready_seconds": 5.0, "overhead_p95_excess_ms": 50.0, "memory_growth_ratio": 1.05, "swap_seconds": 0.5,
        }  # fmt: skip
    out = [Gate(figure=f, value=measures[f], bound=b, reference=promised) for f, b in bounds.items()]
    at_least = ["right_after_bad_inputs"] + (
        ["schema_passed"] if measures["schema_passed"] is not None else []
    )
    return out + [
        Gate(figure=f, value=measures[f], bound=1.0, reference=promised, at_most=False) for f in at_least
    ]


def _p95(seconds: Sequence[float]) -> float:
    return quantiles(seconds, n=20, method="inclusive")[-1]
