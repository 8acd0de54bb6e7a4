"""The registry at the size of years of use: how fast versions are found, listed, shown and registered.

``models`` fills a registry through the public calls. Then, in that registry: resolving references of every kind,
listing, ``ctune registry show`` as a whole process, and registering heads of 2 MiB, in turns with plain writes of the same
bytes in the same folder and, where it is installed, with MLflow (``mlflow`` in this folder).
"""

from __future__ import annotations

import hashlib
import math
import os
import random
import resource
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles
from time import perf_counter
from typing import Any

from ctune.bench.catalogue import Preset
from ctune.bench.registry import mlflow
from ctune.bench.registry.models import ALIAS, fill, model_name, register_base, register_head, weights
from ctune.bench.result import Gate, Measured
from ctune.types import OnProgress, Progress
from registry import Registry

HEAD_BYTES = 2 * 2**20
BOUNDS = {"resolve_ms": 5.0, "list_ms": 150.0, "show_seconds": 0.5, "register_ratio_to_plain_write": 3.0}
"""At most, at ten thousand versions over two hundred names; in smoke only the ratio is asked, seconds are the machine's."""


@dataclass(frozen=True)
class Size:
    """versions over names; how often quick calls, registrations and whole processes are timed."""

    versions: int
    names: int
    looks: int
    writes: int
    processes: int


SIZES = {
    Preset.SMOKE: Size(versions=200, names=10, looks=200, writes=15, processes=3),
    Preset.CPU: Size(versions=10_000, names=200, looks=2000, writes=60, processes=9),
}


def run(preset: str, seeds: Sequence[int], work: Path, on_progress: OnProgress) -> Measured:
    """See ``ctune.bench.catalogue.Bench``."""
    size = SIZES[Preset(preset)]
    registry = Registry.open(work / "registry")
    data = {"versions": fill(registry, size.versions, size.names, seeds[0], on_progress)}
    rival, failures = _rival(work / "mlflow", size, on_progress)
    looks = {
        "resolve": resolving(registry, size, seeds[0]),
        "list": listing(registry, max(5, size.looks // 50)),
        "show": showing(work / "registry", size, seeds[0]),
    }
    if rival is not None:
        looks["alias_beside_mlflow"] = beside(registry, rival, size, seeds[0])
    writes = {}
    for done, seed in enumerate(seeds):
        on_progress(Progress("register", done, len(seeds)))
        writes[f"seed {seed}"], data[f"heads, seed {seed}"] = registering(
            registry, work / "registry", rival, size, seed
        )
    measures = _measures(looks, list(writes.values()))
    details = {"size": size.__dict__, **looks, "register": writes, "mlflow_calls": mlflow.CALLS}
    return Measured(measures, details, failures, data, gates(measures, preset))


def gates(measures: Mapping[str, float], preset: str) -> list[Gate]:
    """What is promised of these figures."""
    asked = {f: b for f, b in BOUNDS.items() if preset != Preset.SMOKE or "ratio" in f}
    # Looking is measured once, in the registry of the first seed; writing with every seed.
    return [
        Gate(
            figure=f, value=measures[f], bound=b, reference="docs/registry.md", seeds=None if "ratio" in f else 1
        ) for f, b in asked.items()
    ]  # fmt: skip


def _measures(looks: dict[str, Any], writes: list[dict[str, Any]]) -> dict[str, float]:
    found = {
        "resolve_ms": looks["resolve"]["all"]["median_ms"],
        "list_ms": looks["list"]["names"]["median_ms"],
        "show_seconds": looks["show"]["median_ms"] / 1000,
        "register_ratio_to_plain_write": median(w["ratio_to_plain_write"] for w in writes),
    }
    if "alias_beside_mlflow" in looks:
        found["mlflow_register_ratio"] = median(w["mlflow_lean_ratio"] for w in writes)
        found["mlflow_guided_register_ratio"] = median(w["mlflow_guided_ratio"] for w in writes)
        found["mlflow_resolve_ratio"] = looks["alias_beside_mlflow"]["ratio"]
    return {name: round(value, 4) for name, value in found.items()}


def _rival(folder: Path, size: Size, on_progress: OnProgress) -> tuple[mlflow.Rival | None, list[str]]:
    if not mlflow.is_here():
        return None, ["MLflow is not installed: mlflow_register_ratio and mlflow_resolve_ratio are left out; "
                      "pip install 'ctune[bench-mlflow]'"]  # fmt: skip
    rival = mlflow.Rival(folder)
    rival.fill(size.versions, size.names, on_progress)
    return rival, []


# Looking ------------------------------------------------------------------------------------------------------------


def resolving(registry: Registry, size: Size, seed: int) -> dict[str, Any]:
    """Time references of every kind in a process that is warm, in an order that no cache could know."""
    chance = random.Random(seed)
    each = size.versions // size.names
    times: dict[str, list[float]] = {"name": [], "version": [], "alias": [], "digest": []}
    digests = [version.digest for version in registry.versions()]
    registry.resolve(model_name(0))
    for _ in range(size.looks // 4):
        name = model_name(chance.randrange(size.names))
        references = {
            "name": name,
            "version": f"{name}:{chance.randint(1, each)}",
            "alias": f"{name}@{ALIAS}",
            "digest": f"sha256:{chance.choice(digests)[:12]}",
        }
        for kind, reference in references.items():
            times[kind].append(clock(registry.resolve, reference))
    found = {kind: spread(values) for kind, values in times.items()}
    return {**found, "all": spread(t for values in times.values() for t in values)}


def beside(registry: Registry, rival: mlflow.Rival, size: Size, seed: int) -> dict[str, Any]:
    """Time the same aliases here and in MLflow, in turns."""
    chance = random.Random(seed)
    times: dict[str, list[float]] = {"ctune": [], "mlflow": []}
    for _ in range(size.looks // 10):
        name = model_name(chance.randrange(size.names))
        times["ctune"].append(clock(registry.resolve, f"{name}@{ALIAS}"))
        times["mlflow"].append(clock(rival.resolve, name))
    found: dict[str, Any] = {way: spread(values) for way, values in times.items()}
    return {**found, "ratio": found["mlflow"]["median_ms"] / found["ctune"]["median_ms"]}


def listing(registry: Registry, repeats: int) -> dict[str, Any]:
    """Time what ``ctune registry list`` asks for: every name with newest version and aliases; and all versions at once."""
    names = [clock(registry.names) for _ in range(repeats)]
    versions = [clock(registry.versions) for _ in range(repeats)]
    one = [clock(registry.versions, model_name(0)) for _ in range(repeats)]
    return {"names": spread(names), "versions": spread(versions), "versions_of_one_name": spread(one)}


def showing(root: Path, size: Size, seed: int) -> dict[str, Any]:
    """Time ``ctune registry show`` as a whole process, imports included."""
    chance = random.Random(seed)
    each = size.versions // size.names

    def show() -> None:
        reference = f"{model_name(chance.randrange(size.names))}:{chance.randint(1, each)}"
        command = ["-m", "cli.main", "registry", "show", reference, "--registry", str(root.resolve())]
        subprocess.run([sys.executable, *command], check=True, capture_output=True)

    show()
    before = _children_cpu_s()
    found = spread(clock(show) for _ in range(size.processes))
    # On a busy machine a process waits for its turn: what it worked says what it would take alone.
    found["mean_cpu_ms"] = round((_children_cpu_s() - before) / size.processes * 1000, 1)
    return found


def _children_cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


# Registering --------------------------------------------------------------------------------------------------------


def registering(
    registry: Registry, root: Path, rival: mlflow.Rival | None, size: Size, seed: int
) -> tuple[dict[str, Any], str]:
    """Time plain writes, our registrations and MLflow's of the same 2 MiB, taking turns at going first.

    Returns the figures and the sha256 of all the bytes.
    """
    base = register_base(registry, seed)
    times: dict[str, list[float]] = defaultdict(list)
    hashed = hashlib.sha256()
    for number in range(size.writes + 1):
        data = weights(f"head {seed} {number}", HEAD_BYTES)
        hashed.update(data)
        ways: dict[str, Callable[[], Any]] = {
            "plain": lambda data=data: write_plainly(root / "plain.safetensors", data),  # type: ignore[misc]
            "ctune": lambda data=data: register_head(registry, base, "liver", data),  # type: ignore[misc]
        }
        if rival is not None:
            ways |= rival.registrations(model_name(0), f"head-{seed}-{number}", data)
        order = list(ways)
        for way in order[number % len(order) :] + order[: number % len(order)]:
            took = clock(ways[way])
            (root / "plain.safetensors").unlink(missing_ok=True)
            if number:  # the first of each is a warm-up
                times[way].append(took)
    found: dict[str, Any] = {way: spread(values) for way, values in times.items()}
    ours = found["ctune"]["median_ms"]
    found["ratio_to_plain_write"] = ours / found["plain"]["median_ms"]
    found |= {f"{way}_ratio": found[way]["median_ms"] / ours for way in times if way.startswith("mlflow")}
    return found, hashed.hexdigest()


def write_plainly(path: Path, data: bytes) -> None:
    """What nobody can do without: the bytes in one file, and on the disk."""
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


# Times --------------------------------------------------------------------------------------------------------------


def clock(call: Callable[..., Any], *arguments: Any) -> float:
    """Milliseconds of one call."""
    began = perf_counter()
    call(*arguments)
    return (perf_counter() - began) * 1000


def spread(times: Iterable[float]) -> dict[str, float]:
    """Median, 95th percentile and maximum of milliseconds, and how many there are.

    >>> spread([1.0, 2.0, 9.0])["median_ms"]
    2.0
    """
    values = sorted(times)
    highest = quantiles(values, n=20, method="inclusive")[-1] if len(values) > 1 else math.nan
    found = {"median_ms": median(values), "p95_ms": highest, "max_ms": values[-1]}
    return {**{name: round(value, 4) for name, value in found.items()}, "n": len(values)}
