"""Promises: every bound that a benchmark holds, in words, with what was measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ctune.bench.catalogue import Bench
from ctune.bench.report.tables import Table, figure, seed_count, seeds_of
from ctune.bench.result import BenchResult, Gate

WORDS = {
    "continual Dice less rival": "mean Dice of the new classes, continual less full on the same annotations",
    "worst new class less rival": "the worst new class, continual less full on the same annotations",
    "ceiling Dice less continual": "mean Dice of the new classes, full with all annotated less continual",
    "voxels_changed": "voxels changed of classes that a round did not revise",
    "forgetting": "mean fall of a class from its best (F)",
    "show_seconds": "seconds of ctune registry show, a new process",
    "list_ms": "milliseconds to list a name's versions",
    "worst_stage_ratio_to_monai": "the slowest stage over the same of a plain MONAI pipeline",
    "onnx_network_ratio_to_torch": "time of the network in onnxruntime over that in torch",
    "onnx_max_abs_diff": "largest difference of a probability, onnxruntime and torch",
    "different_answers": "answers of the service that differ from the engine's",
    "jobs_lost": "jobs lost when the service is killed",
    "bad_inputs_server_errors": "server errors on bad inputs",
    "bad_inputs_unanswered": "bad inputs that were not answered",
    "overhead_p95_excess_ms": "milliseconds that the service adds to a request beyond 5 % of the engine's own time, 95th percentiles",
    "memory_growth_ratio": "memory at the end of many requests over that near their beginning",
    "right_after_bad_inputs": "a right answer after all bad inputs (1: yes)",
    "schema_passed": "requests made from the service's own schema are answered as it says (1: yes)",
    "driver_memory_growth_mb": "MiB that the driver grows from few cases to many",
    "pictures_empty": "pictures that stayed empty",
    "draft_seconds_small": "seconds to save a class of the small CT",
    "accept_seconds_small": "seconds from Enter to the revision on disk, small CT",
}
"""What a gate's figure is, where the catalogue's headlines do not say it."""
KEPT, NOT_KEPT, UNDECIDED = "kept", "NOT KEPT", "not decided"
"""What came of a promise; of one without a figure nothing can be said, and it is not counted as kept."""
_PARTS = {
    "ctune": "importance", "aa8k": "the published recipe", "entropy": "entropy alone", "coarse": "coarse phantoms",
    "hippocampus": "hippocampus",
}  # fmt: skip


@dataclass(frozen=True)
class Promise:
    """One bound of one benchmark."""

    bench: Bench
    result: BenchResult
    gate: Gate

    @property
    def words(self) -> str:
        """What it is a figure of; of one that nobody described, its name."""
        known = {**WORDS, **dict(self.bench.headlines)}
        return known.get(self.gate.figure) or _spelled(self.gate.figure)

    @property
    def bound(self) -> str:
        side = "at most" if self.gate.at_most else "at least"
        return f"{side} {figure(self.gate.bound)}"

    @property
    def value(self) -> str:
        return "none" if self.gate.value is None else figure(self.gate.value)

    @property
    def seeds(self) -> str:
        if self.bench.once:
            return "one run"
        return seed_count(self.gate.seeds or _behind(self.result, self.gate.figure))

    @property
    def state(self) -> str:
        """KEPT, NOT_KEPT or UNDECIDED."""
        if self.gate.value is None:
            return UNDECIDED
        return KEPT if self.gate.passed else NOT_KEPT

    def __str__(self) -> str:
        return f"{self.bench.name}: {self.words}: {self.value}, promised {self.bound} ({self.seeds})"


def _behind(result: BenchResult, name: str) -> int:
    """Seeds behind a figure: not every seed of selection runs rounds."""
    if result.what == "selection" and name.startswith("minutes_ratio"):
        ran = [seed for seed in seeds_of(result) if any(one.get("worth") for one in seed.values())]
        return len(ran) or len(result.seeds)
    return len(result.seeds)


def _spelled(name: str) -> str:
    """
    >>> _spelled("spearman_coarse.ctune less spearman_coarse.entropy")
    'spearman, coarse phantoms: importance less spearman, coarse phantoms: entropy alone'
    """
    sides = []
    for side in name.split(" less "):
        head, _, way = side.partition(".")
        for end in ("coarse", "hippocampus"):
            head = head.replace(f"_{end}", f", {_PARTS[end]}")
        sides.append(head.replace("_", " ") + (f": {_PARTS.get(way, way)}" if way else ""))
    return " less ".join(sides)


def promises_of(bench: Bench, results: Sequence[BenchResult]) -> list[Promise]:
    """Every gate of the results of one benchmark."""
    return [Promise(bench, result, gate) for result in results for gate in result.gates]


def counted(promises: Sequence[Promise]) -> str:
    """How many are kept, in a sentence."""
    kept, open_ = (sum(p.state == state for p in promises) for state in (KEPT, UNDECIDED))
    undecided = f"; {open_} {'is' if open_ == 1 else 'are'} not decided" if open_ else ""
    return f"{kept} of {len(promises)} promises are kept{undecided}."


def promise_table(title: str, promises: Sequence[Promise], several: bool = True) -> Table:
    """One row a promise. several: of more than one benchmark, which then stands first."""
    rows = [[f"{p.bench.name}: {p.words}" if several else p.words, p.value, p.bound, p.state, p.seeds]
            for p in promises]  # fmt: skip
    return Table(title, ["promise", "measured", "bound", "", "from"], rows)
