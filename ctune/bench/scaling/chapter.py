"""What is told of scaling: rounds that were measured beside what the line predicted, and the pool that was carried on by a model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ctune.bench.report.tables import Chapter, Table, Tile, figure, seed_count, seeds_of, signed
from ctune.bench.result import BenchResult


def tables(result: BenchResult) -> Chapter:
    """Predicted is what a line says that was fitted to smaller rounds."""
    found: dict[str, Any] = result.measures
    seeds = seeds_of(result)
    unit = "cpu_seconds" if result.device == "cpu" else "seconds"
    missed, pool = found["relative_error_on_unseen_sizes"], found["abdomenatlas"]
    rows = []
    for size, error in missed.items():
        totals = [sum(stage[unit] for stage in seed["sizes"][size]["stages"].values()) for seed in seeds]
        measured = sum(totals) / len(totals)
        rows.append([size, figure(measured), figure(measured * (1 + error)), f"{signed(100 * error, 1)} %"])
    hours = dict(sorted(found["abdomenatlas_hours_on_h200"].items(), key=lambda pair: int(pair[0])))
    rate = "their rate was measured" if pool["rate_is_measured"] else "their rate is assumed, not measured"
    minutes = found["abdomenatlas_expert_minutes"]
    modelled = [[f"{n} H200", f"{figure(value)} hours"] for n, value in hours.items()]
    dollars = found.get("abdomenatlas_dollars", {})
    modelled = [
        [*row, figure(dollars[n])] if dollars else row for row, n in zip(modelled, hours, strict=True)
    ]
    modelled.append(
        [f"experts, {pool['revised']} revised CTs", f"{figure(minutes)} minutes", *([""] if dollars else [])]
    )
    listed = ", ".join(f"{figure(value)} hours on {n} H200" for n, value in hours.items())
    head = (
        f"Scaling: a round over {pool['cts']:,} CTs would take {listed} and {figure(minutes)} minutes of experts: modelled, {rate}; on rounds that were "
        f"measured the line is off by at most {100 * found['largest_relative_error']:.1f} % ({seed_count(len(seeds))}, preset {result.preset})"
    )
    first = next(iter(hours))
    tile = Tile(f"{figure(hours[first])} h", f"of a round over {pool['cts']:,} CTs on {first} H200, modelled", f"error of the line at most {100 * found['largest_relative_error']:.1f} % on phantoms")  # fmt: skip
    return Chapter(
        "Scaling",
        [f"{head}."],
        [f"The last of {found['rounds_measured']} rounds took {figure(found['last_round_over_first'])} times the first.", *_arithmetic(found)],
        [tile],
        [
            Table("Measured and predicted", ["", "measured", "predicted", "error"], rows,
                  f"{'Processor seconds' if unit == 'cpu_seconds' else 'Seconds'} of a whole round that the fit did not see; {seed_count(len(seeds))}."),
            Table(f"{pool['cts']:,} CTs, modelled", ["", "a round", *(["dollars"] if dollars else [])], modelled,
                  f"Operations of Swin UNETR 48 are counted, {rate}; predicting {figure(pool['predict_hours'])} h, caching {figure(pool['cache_hours'])} h, "
                  f"tuning {figure(pool['tune_hours'])} h on one."),
        ],
    )  # fmt: skip


def _arithmetic(found: Mapping[str, Any]) -> list[str]:
    """How far the model itself is off where it can be checked: not the line, which is fitted."""
    missed = found.get("modelled_relative_error")
    if not missed:
        return []
    low, high = (f"{100 * end:+.0f} %" for end in (min(missed.values()), max(missed.values())))
    return [
        f"The model that is carried on, operations counted times a rate, is {low} to {high} off on the {len(missed)} rounds that were measured here, "
        "predicting and tuning, with the rate of this device."
    ]
