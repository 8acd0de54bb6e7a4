"""Parts of a run that know how long they took, and that another run's result may already hold.

A run of five seeds takes hours. It can be shared among processes, one seed or data set each, and put together afterwards:
CTUNE_SELECTION_DATA names, with commas, what a run measures (everything by default); CTUNE_SELECTION_RESULTS names a folder of
results whose parts are taken as they are, where they were measured at the same scale.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ctune.bench.machine import commit
from ctune.bench.result import read_result
from ctune.bench.run import part, plain
from ctune.data.files import read_json, write_json
from ctune.errors import UsageError


def timed_part(path: Path, make: Any, *arguments: Any) -> Any:
    """``run.part`` of a mapping, with "took": seconds and processor seconds over all attempts at it, and the source's commit.

    Attempts that were stopped are counted as long as they could say so; one that was killed is not.
    """
    clock = path.with_name(f"{path.stem}.clock.json")

    def made() -> dict[str, Any]:
        before = read_json(clock) if clock.exists() else {"seconds": 0.0, "cpu_seconds": 0.0}
        wall, cpu = time.perf_counter(), time.process_time()
        try:
            found = make(*arguments)
        finally:
            took = {
                "seconds": round(before["seconds"] + time.perf_counter() - wall, 3),
                "cpu_seconds": round(before["cpu_seconds"] + time.process_time() - cpu, 3),
            }
            write_json(clock, took)
        return {**found, "took": {**took, "commit": commit()}}

    return part(path, made)


def seconds_of(value: Any) -> float:
    """Processor seconds of every part in a result's details."""
    if not isinstance(value, Mapping):
        return 0.0
    own = value["took"]["cpu_seconds"] if "took" in value else 0.0
    return float(own + sum(seconds_of(inner) for name, inner in value.items() if name != "took"))


def asked(every: Sequence[str]) -> tuple[str, ...]:
    """Those of `every` that CTUNE_SELECTION_DATA names; all without it. Raises UsageError for another name."""
    named = [name.strip() for name in os.environ.get("CTUNE_SELECTION_DATA", "").split(",") if name.strip()]
    if unknown := [name for name in named if name not in every]:
        raise UsageError(
            f"expected some of {', '.join(every)} in CTUNE_SELECTION_DATA, got {unknown[0]!r}; separate them with commas"
        )
    return tuple(name for name in every if name in named or not named)


class Earlier:
    """Parts of results in the folder that CTUNE_SELECTION_RESULTS names; none without it. The newest result goes first."""

    def __init__(self, preset: str) -> None:
        folder = os.environ.get("CTUNE_SELECTION_RESULTS")
        paths = sorted(Path(folder).glob("selection-*.json")) if folder else []
        if folder and not paths:
            raise UsageError(
                f"expected results of selection in CTUNE_SELECTION_RESULTS, found none in {folder}"
            )
        found = [result for result in map(read_result, paths) if result.preset == preset]
        self.details: list[Mapping[str, Any]] = [
            result.details for result in sorted(found, key=lambda result: result.started, reverse=True)
        ]

    def data_set(self, seed: int, name: str, scale: Mapping[str, Any], rounds: bool) -> dict[str, Any] | None:
        """One data set of one seed, where it was measured at this scale, with rounds when they are asked for."""
        for details in self.details:
            found = details.get(f"seed {seed}", {}).get(name)
            if found and found.get("scale") == plain(scale) and bool(found["worth"]) == rounds:
                return dict(found)
        return None

    def large(self) -> dict[str, Any] | None:
        """What scoring a large case took."""
        return next((dict(details["large"]) for details in self.details if details.get("large")), None)
