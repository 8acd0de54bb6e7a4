"""What a round over a large pool costs on one accelerator, on sixteen and on 128, and what stops it from going faster.

A model: what was measured and what is assumed stands here, each with where it is from; operations are counted.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

PLACES = (1, 16, 128)
GPU_HOUR = 4.0
"""US dollars of an hour of one H200 with its cores, waiting or not; assumed."""
CT_MB, OUT_MB = 61.0, 5.4
"""A CT of 512x512x200 in gzip, and its prediction, nine masks and probabilities; measured on phantoms: 13 MB with inconsistency, which rounds
do not write and which is three fifths of that at 2.5 mm."""
WEIGHTS_MB = 250.0
"""Swin UNETR 48 in float32: 62 million parameters."""
STORE_MB_S = 2000.0
"""Of the disk or object store that all share; assumed."""
DRIVER_CASES_S = 780.0
"""Cases a second that one driver hands out on two shared cores: results/executors-cpu-cpu.json."""
START_S = 60.0
"""Until a worker is ready: Ray, torch, weights; assumed (10 s were measured on two cores with a small network)."""
REGISTER_S = 1.0
"""Writes of a round to the registry, all classes together; assumed far above results/registry-cpu-cpu.json's milliseconds."""


def costs(pool: int, predict_s: float, cache_s: float, class_s: float, classes: int) -> dict[str, Any]:
    """Hours and dollars of a round by number of accelerators, and the number at which each of its limits is reached.

    pool: CTs. predict_s, cache_s: seconds of all of them, and of all revised ones, on one accelerator. class_s: seconds of
    tuning one class; classes tune apart from each other, each on one accelerator.
    """
    found = {str(n): _on(n, pool, predict_s, cache_s, class_s, classes) for n in PLACES}
    a_case = predict_s / pool
    limits = {
        "storage": STORE_MB_S / (CT_MB + OUT_MB) * a_case,
        "driver": DRIVER_CASES_S * a_case,
        "tuning": float(classes),
    }
    return {"by_accelerators": found, "accelerators_at_the_limit": limits}


def _on(
    n: int, pool: int, predict_s: float, cache_s: float, class_s: float, classes: int
) -> dict[str, float]:
    a_case = predict_s / pool
    network = -(-pool // n) * a_case  # the last case of the fullest worker ends it
    predicting = max(network, pool * (CT_MB + OUT_MB) / STORE_MB_S, pool / DRIVER_CASES_S)
    weights = n * WEIGHTS_MB / STORE_MB_S
    starting = START_S + weights
    tuning = -(-classes // min(n, classes)) * class_s
    seconds = starting + predicting + cache_s / n + tuning + REGISTER_S
    return {
        "hours": seconds / 3600,
        "predict_hours": predicting / 3600,
        "start_hours": starting / 3600,
        "tune_hours": (cache_s / n + tuning) / 3600,
        "dollars": n * seconds / 3600 * GPU_HOUR,
        "share_of_linear": (predict_s + cache_s + classes * class_s) / (n * seconds),
    }


def table(found: Mapping[str, Any], expert_minutes: float) -> str:
    """The rows of docs/scale.md."""
    rows = [
        "| accelerators | a round | predict the pool | start | tune | dollars | of linear | experts |",
        "|---|---|---|---|---|---|---|---|",
    ]
    # A result has its keys in the order of their letters.
    for n, on in sorted(found["by_accelerators"].items(), key=lambda pair: int(pair[0])):
        minutes = [60 * on[name] for name in ("hours", "predict_hours", "start_hours", "tune_hours")]
        times = " | ".join(f"{m:.1f} min" for m in minutes)
        rows.append(
            f"| {n} | {times} | {on['dollars']:.0f} | {on['share_of_linear']:.0%} | {expert_minutes / 60:.0f} h |"
        )
    return "\n".join(rows)
