"""Run one benchmark: measure, write its result, resume what was stopped."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ctune.bench.catalogue import Preset, find_bench, load
from ctune.bench.machine import commit, device_name, machine, peak_memory_mb, versions
from ctune.bench.result import Attempt, BenchResult, Measured, check_measures, write_result
from ctune.data.files import read_json, write_json
from ctune.errors import BenchPausedError, UsageError
from ctune.types import OnProgress, Progress, silent

RESULTS = Path("benchmarks/results")
_SAVE_S = 5
"""Seconds between two notes of how long an attempt has taken, for when it is killed."""
_NOTES = ("attempts.json", "curve.json")
"""Files that are written again and again and are no place to begin from."""
_PASSING = (".tmp", ".lock", "-shm", "-wal")
"""In names of files that opening something changes already."""


def run_bench(
    what: str,
    preset: str,
    seeds: Sequence[int] | None = None,
    out: Path = RESULTS,
    *,
    work: Path | None = None,
    minutes: float = math.inf,
    on_progress: OnProgress = silent,
) -> tuple[BenchResult, Path]:
    """Measure, and write the result into `out`; returns both. Gates are in the result, the caller asks them.

    seeds: one for smoke and three otherwise when None. work: a folder for finished parts, below `out` by default; it is
    emptied after the last one. minutes: stop at the first step after so long that left something; raises BenchPausedError, and the same call
    goes on. Raises UsageError for a benchmark or preset that is not there.
    """
    bench = find_bench(what)
    if preset not in bench.presets:
        raise UsageError(f"expected one of {', '.join(bench.presets)} for {what}, got {preset!r}")
    seeds = tuple((0,) if preset == Preset.SMOKE else (0, 1, 2)) if seeds is None else tuple(seeds)
    device = device_name(preset)
    key = f"{what}-{preset}-seeds-{'-'.join(map(str, seeds))}"
    folder = (work or out / ".unfinished") / key
    folder.mkdir(parents=True, exist_ok=True)
    watch = _Watch(folder / "attempts.json", minutes, on_progress)
    here = machine(preset)
    try:
        measured = load(bench)(preset, seeds, folder, watch)
    finally:
        watch.save()
    result = _result(measured, watch.attempts, what, preset, device, here, seeds)
    path = write_result(result, out)
    shutil.rmtree(folder)
    return result, path


def part(path: Path, make: Any, *arguments: Any) -> Any:
    """A finished part of a run: read from `path`, or made by ``make(*arguments)`` and kept there as JSON.

    >>> import tempfile
    >>> place = Path(tempfile.mkdtemp()) / "seed-0.json"
    >>> part(place, lambda seed: {"dice": 0.5}, 0) == part(place, lambda seed: {"dice": 0.9}, 0)
    True
    """
    if not path.exists():
        write_json(path, plain(make(*arguments)))
    return read_json(path)


def plain(value: Any) -> Any:
    """The same value in dicts, lists, text and finite numbers; others become None, since JSON has none."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value


class _Watch:
    """A listener that notes how long a run has taken, over all its attempts, and stops it when its time is over."""

    def __init__(self, path: Path, minutes: float, on_progress: OnProgress) -> None:
        self._path, self._minutes, self._tell = path, minutes, on_progress
        self._begun, self._started, self._commit = time.perf_counter(), _now(), commit()
        self._saved, self._since = -math.inf, time.time()
        self._earlier = [Attempt(**a) for a in read_json(path)] if path.exists() else []

    def __call__(self, step: Progress) -> None:
        self._tell(step)
        seconds = time.perf_counter() - self._begun
        if seconds - self._saved > _SAVE_S:
            self.save()
        if seconds > 60 * self._minutes and step.done < step.total and self._kept_something():
            raise BenchPausedError(
                f"stopped after {seconds / 60:.1f} minutes in {step.stage} at {step.done} of {step.total}; the same "
                "command goes on"
            )

    def _kept_something(self) -> bool:
        """Whether this attempt left what the next begins with: else the same command would stop there for ever."""
        for path in self._path.parent.rglob("*"):
            noted = (
                path.name in _NOTES or "cache" in path.parts or any(part in path.name for part in _PASSING)
            )
            if not noted and path.is_file() and path.stat().st_mtime > self._since:
                return True
        return False

    @property
    def attempts(self) -> list[Attempt]:
        seconds = round(time.perf_counter() - self._begun, 3)
        now = Attempt(
            started=self._started, seconds=seconds, peak_memory_mb=peak_memory_mb(), commit=self._commit
        )
        return [*self._earlier, now]

    def save(self) -> None:
        write_json(self._path, [attempt.model_dump() for attempt in self.attempts])
        self._saved = time.perf_counter() - self._begun


def _result(
    measured: Measured,
    attempts: Sequence[Attempt],
    what: str,
    preset: str,
    device: str,
    here: dict[str, Any],
    seeds: tuple[int, ...],
) -> BenchResult:
    check_measures(measured.measures)
    gates = [gate.model_copy(update={"value": plain(gate.value)}) for gate in measured.gates]
    return BenchResult(
        what=what,
        preset=preset,
        device=device,
        machine=here,
        versions=versions(),
        seeds=seeds,
        started=attempts[0].started,
        seconds=round(sum(a.seconds for a in attempts), 3),
        peak_memory_mb=max(a.peak_memory_mb for a in attempts),
        attempts=tuple(attempts),
        data=dict(measured.data),
        measures=plain(measured.measures),
        gates=tuple(gates),
        details=plain(measured.details),
        failures=tuple(measured.failures),
    )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
