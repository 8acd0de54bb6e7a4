"""What handing out cases costs: workers whose network only sleeps, so that many fit on few cores.

The cluster at ``$CTUNE_RAY_ADDRESS``, or processes of this machine without it. Cases are sparse files of the size of a CT; a
worker reads a little of one, sleeps where a network would run, one case at a time, and writes its answer beside it.

efficiency      cases a second of all workers over what so many workers would do without any overhead
overhead_ms     what a case takes beyond its sleep
at most         cases a second that the driver hands out when no network takes any time
memory          how much the driver's peak grows from 100 cases to 10,000, once all workers are at work
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

from ctune.bench.machine import peak_memory_mb
from ctune.bench.result import Gate, Measured
from ctune.data.files import write_json
from ctune.executors.local import Local
from ctune.executors.ray_cluster import RayCluster
from ctune.executors.work import Executor, stream
from ctune.types import OnProgress, Progress

ADDRESS = "CTUNE_RAY_ADDRESS"
CT_BYTES = 512 * 512 * 200 * 2


@dataclass(frozen=True)
class Sleeping:
    """Work whose network sleeps for `seconds`; a second case is read and a third written meanwhile."""

    seconds: float
    overlap: int = 2

    def open(self) -> Callable[[Path], str]:
        """See ``executors.work.Work``. The function gives the node and the process that it was in."""
        # Ray says which node's service started a worker; several nodes may be namespaces of one host.
        network, here = Lock(), f"{platform.node()}-{os.environ.get('RAY_RAYLET_PID', '')}/{os.getpid()}"

        def do(case: Path) -> str:
            with case.open("rb") as file:
                found = len(file.read(4096))
            with network:
                time.sleep(self.seconds)
            write_json(case.with_suffix(".json"), {"bytes": found})
            return here

        return do


@dataclass(frozen=True)
class Size:
    """workers; cases and seconds of each for the efficiency; numbers of cases between which memory is compared."""

    workers: int
    cases: int
    seconds: float
    few: int
    many: int


SIZES = {"smoke": Size(2, 60, 0.1, 20, 200), "cpu": Size(8, 800, 0.4, 100, 10_000)}


def run(preset: str, seeds: Sequence[int], work: Path, on_progress: OnProgress) -> Measured:
    """See the module."""
    size, address = SIZES[preset], os.environ.get(ADDRESS)
    executor: Executor = RayCluster(address, workers=size.workers) if address else Local(size.workers, 1)
    memory = _memory(executor, _cases(work / "many", size.many), size.few, size.workers)
    on_progress(Progress("executors", 1, 2, f"{size.many} cases"))
    found = _drive(executor, size.seconds, _cases(work / "timed", size.cases), size.workers)
    on_progress(Progress("executors", 2, 2, f"{size.cases} cases"))
    ideal = found["cases"] * size.seconds / size.workers
    efficiency = ideal / found["seconds"]
    overhead = (found["seconds"] * size.workers / found["cases"] - size.seconds) * 1000
    growth = memory["all"] - memory[str(size.few)]
    at_most = memory.pop("cases_per_second")
    measures = {
        "cases_per_second_at_most": at_most,
        "efficiency": efficiency,
        "overhead_ms_per_case": overhead,
        "driver_memory_growth_mb": growth,
        "workers": size.workers,
        "nodes": found["nodes"],
        "executor": "ray" if address else "local",
    }
    gates = [
        Gate(
            figure="driver_memory_growth_mb", value=growth, bound=12.0,
            reference=f"flat from {size.few} to {size.many} cases: Ray's own buffers fill in the first 2,000, nothing after",
        )
    ]  # fmt: skip
    if preset != "smoke":  # a minute of sleeping is needed before a busy machine does not decide
        gates += [
            Gate(figure="efficiency", value=efficiency, bound=0.9, at_most=False, reference="agreed: 90 % of linear"),
            Gate(figure="overhead_ms_per_case", value=overhead, bound=30.0, reference="agreed"),
        ]  # fmt: skip
    return Measured(measures, {"timed": found, "driver_peak_mb_after_cases": memory}, gates=gates)


def _drive(executor: Executor, seconds: float, cases: Sequence[Path], workers: int) -> dict[str, Any]:
    """Cases that began and ended after every worker had answered once, and the seconds for these; all of the seconds too."""
    began, ready, seen, after = time.perf_counter(), None, set[str](), 0
    for done in stream(executor, Sleeping(seconds), cases):
        assert done.error is None, done.error
        after += ready is not None
        seen.add(done.value)
        if ready is None and len(seen) == workers:
            ready = time.perf_counter()
    ended = time.perf_counter()
    return {
        # A worker's first answer may have had most of its sleep behind it: none of these flatters.
        "cases": max(0, after - workers),
        "seconds": ended - (ready or began),
        "all_seconds": ended - began,
        "workers_seen": len(seen),
        "nodes": len({name.partition("/")[0] for name in seen}),
    }


def _memory(executor: Executor, cases: Sequence[Path], few: int, workers: int) -> dict[str, float]:
    """{number of cases: the driver's peak in MiB when so many have ended since every worker answered}, and how many a second.

    Before that it grows by what each worker costs to speak to, which is no matter of cases. Where workers start so slowly
    that some never answer, it is counted from the middle.
    """
    seen, since, peaks, began = set[str](), 0, dict[str, float](), time.perf_counter()
    for number, done in enumerate(stream(executor, Sleeping(0.0), cases)):
        assert done.error is None, done.error
        seen.add(done.value)
        since += len(seen) == workers or number >= len(cases) // 2
        if since == 1:
            began = time.perf_counter()
        if since in (few, 10 * few, 50 * few):
            peaks[str(since)] = peak_memory_mb(started=False)
    rate = since / (time.perf_counter() - began)
    return {**peaks, "all": peak_memory_mb(started=False), "cases_per_second": rate}


def _cases(folder: Path, count: int) -> list[Path]:
    """Files that claim to be as large as a CT and take no room."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"case_{n:05d}.nii" for n in range(count)]
    for path in paths:
        with path.open("wb") as file:
            file.truncate(CT_BYTES)
    return paths
