"""What the benchmark of scaling draws."""

from __future__ import annotations

from typing import Any

from ctune.bench.report.plots import Bar, Bars, Plot
from ctune.bench.result import BenchResult


def plots(result: BenchResult) -> list[Plot]:
    """Where the hours of a large pool would go; how wrong the line was where it can be checked."""
    found: dict[str, Any] = result.measures
    pool, hours = found["abdomenatlas"], found["abdomenatlas_hours_on_h200"]
    rate = "measured here" if pool["rate_is_measured"] else "assumed: a fifth of the data sheet"
    parts = [
        Bar(name.replace("_hours", ""), pool[name]) for name in ("predict_hours", "cache_hours", "tune_hours")
    ]
    missed = found["relative_error_on_unseen_sizes"]
    return [
        Bars(
            "A round over 8,448 CTs, modelled",
            "hours",
            [*parts, *(Bar(f"all, {n} H200", hours[n]) for n in sorted(hours, key=int))],
            f"Modelled, not measured: operations of Swin UNETR 48 counted, their rate {rate}. {pool['revised']} CTs are revised, "
            f"which takes experts about {found['abdomenatlas_expert_minutes']:,.0f} minutes by the stated time model.",
        ),
        Bars(
            "Error of the line on rounds that it did not see",
            "per cent of the measured seconds",
            [Bar(size, abs(100 * e), text=f"{100 * e:+.0f} %") for size, e in missed.items()],
            "Measured on phantoms: a straight line was fitted to smaller rounds and had to predict these.",
        ),
        *_arithmetic(found),
    ]


def _arithmetic(found: dict[str, Any]) -> list[Plot]:
    """How far the model is off that is carried on to the large pool."""
    missed = found.get("modelled_relative_error", {})
    bars = [Bar(size, abs(100 * e), text=f"{100 * e:+.0f} %") for size, e in missed.items()]
    return [
        Bars(
            "Error of the model on the rounds that were measured",
            "per cent of the measured seconds",
            bars,
            "Operations counted, times the rate of this device, which was measured beside the rounds: predicting and tuning. The same arithmetic "
            "gives the hours of the large pool.",
        )
    ] * bool(bars)
