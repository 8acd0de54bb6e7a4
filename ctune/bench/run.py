"""Run one benchmark: measure, write its result, resume what was stopped."""

from __future__ import annotations

import math
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from ctune.bench.catalogue import Preset, check_preset, find_bench, load
from ctune.bench.energy import UNREADABLE, meter_of
from ctune.bench.machine import commit, device_name, device_uuid, machine, now, peak_memory_mb, versions
from ctune.bench.parts import TOOK, Sitting, part, plain
from ctune.bench.result import Attempt, BenchResult, Measured, Part, check_measures, write_result
from ctune.data.files import read_json, write_json
from ctune.errors import BenchPausedError, UsageError
from ctune.types import OnProgress, Progress, silent

__all__ = ["MINUTES", "RESULTS", "check_asked", "part", "plain", "run_bench", "sizes"]

RESULTS = Path("benchmarks/results")
MINUTES = {Preset.GPU: 9.0}
"""After how many minutes a preset stops at the next step, unless told otherwise: accelerators are often to be had for ten at a time."""
_SAVE_S = 5
"""Seconds between two notes of how long an attempt has taken, for when it is killed."""
_ATTEMPTS, _SIZES = "attempts.json", "sizes.json"
_NOTES = (_ATTEMPTS, _SIZES, "curve.json")
"""Files that are written again and again and are no place to begin from."""
_PASSING = (".tmp", ".lock", "-shm", "-wal", TOOK)
"""In names of files that opening something changes already."""


def run_bench(
    what: str,
    preset: str,
    seeds: Sequence[int] | None = None,
    out: Path = RESULTS,
    *,
    work: Path | None = None,
    minutes: float | None = None,
    on_progress: OnProgress = silent,
) -> tuple[BenchResult, Path]:
    """Measure, and write the result into `out`; returns both. Gates are in the result, the caller asks them.

    seeds: one for smoke and three otherwise when None; a benchmark that measures once takes the first. work: a folder for finished parts, below `out` by default; it is
    emptied after the last one. minutes: stop at the first step after so long that left something; raises BenchPausedError, and the same call
    goes on; by default what MINUTES says of the preset, and never for others. Raises UsageError for a benchmark or preset that is not
    there, for seeds that say nothing (``check_asked``), and for a run that began on another device or in other sizes.
    """
    bench = find_bench(what)
    check_preset(bench, preset)
    check_asked(seeds, out)
    function = load(bench)
    seeds = tuple((0,) if preset == Preset.SMOKE else (0, 1, 2)) if seeds is None else tuple(seeds)
    seeds = seeds[:1] if bench.once else seeds
    device, here = device_name(preset), machine(preset)
    key = f"{what}-{preset}-seeds-{'-'.join(map(str, seeds))}"
    folder = (work or out / ".unfinished") / key
    sitting = Sitting(device, folder, here, commit())
    limit = MINUTES.get(Preset(preset), math.inf) if minutes is None else minutes
    watch = _Watch(folder / _ATTEMPTS, limit, on_progress, sitting)
    folder.mkdir(parents=True, exist_ok=True)
    _check_sizes(folder, sizes(function, preset))
    meter = sitting.meter = meter_of(device_uuid()) if device != "cpu" else None
    try:
        with sitting:
            measured = function(preset, seeds, folder, watch)
        watch.save()
    except BenchPausedError as paused:
        watch.save()
        asked = {"what": what, "preset": str(preset), "seeds": list(seeds), "work": str(folder)}
        raise BenchPausedError(str(paused), {**paused.document, **asked}) from None
    except BaseException:
        watch.leave()
        raise
    finally:
        if meter:
            meter.stop()
        _remove_empty(folder, None if work else folder.parent)
    failures = [*measured.failures, *([UNREADABLE] if device != "cpu" and meter is None else [])]
    result = _result(measured, failures, watch, what, preset, seeds)
    path = write_result(result, out)
    shutil.rmtree(folder)
    _remove_empty(folder, None if work else folder.parent)
    return result, path


def check_asked(seeds: Sequence[int] | None, out: Path) -> None:
    """Raise UsageError for no seeds, a negative or a repeated one, and for an `out` that is no folder.

    A seed that is there twice is the same training twice: it would count as more evidence.
    """
    if seeds is not None:
        got = ",".join(map(str, seeds)) or "none"
        if not seeds or min(seeds) < 0 or len(set(seeds)) < len(seeds):
            raise UsageError(f"expected different seeds from 0 up, such as 0,1,2, got {got}; give each once")
    if out.exists() and not out.is_dir():
        raise UsageError(f"expected a folder for results, got the file {out}; name another")


def sizes(run: Callable[..., Measured], preset: str) -> dict[str, str]:
    """{constant: text} of what a benchmark's module says of a preset: cases, epochs, steps.

    >>> from ctune.bench.registry.protocol import run
    >>> sizes(run, "smoke")
    {'SIZES': 'Size(versions=200, names=10, looks=200, writes=15, processes=3)'}
    """
    module = vars(sys.modules[run.__module__])
    tables = {name: of for name, of in module.items() if name.isupper() and isinstance(of, Mapping)}
    return {name: repr(of[Preset(preset)]) for name, of in tables.items() if Preset(preset) in of}


def _check_sizes(folder: Path, now_asked: Mapping[str, str]) -> None:
    """Note the sizes with which a run begins. Raises UsageError where it began with others: parts of both make no result."""
    place = folder / _SIZES
    begun = read_json(place) if place.exists() else now_asked
    changed = [name for name in {**begun, **now_asked} if begun.get(name) != now_asked.get(name)]
    if changed:
        raise UsageError(
            f"expected the {changed[0]} with which this run began, {begun.get(changed[0])}, got "
            f"{now_asked.get(changed[0])}; go on with that version of ctune, or remove {folder} to begin anew"
        )
    write_json(place, dict(now_asked))


class _Watch:
    """A listener that notes how long a run has taken, over all its attempts, and stops it when its time is over."""

    def __init__(self, path: Path, minutes: float, on_progress: OnProgress, sitting: Sitting) -> None:
        self._path, self._minutes, self._tell, self.sitting = path, minutes, on_progress, sitting
        self._begun, self._started = time.perf_counter(), now()
        self._saved, self._since = -math.inf, time.time()
        self._earlier = [Attempt(**a) for a in read_json(path)] if path.exists() else []
        for attempt in self._earlier:
            sitting.check(attempt.device, "this run began", path.parent)

    def __call__(self, step: Progress) -> None:
        self._tell(step)
        seconds = time.perf_counter() - self._begun
        if seconds - self._saved > _SAVE_S:
            self.save()
        if seconds > 60 * self._minutes and step.done < step.total and self._kept_something():
            raise BenchPausedError(
                f"stopped after {seconds / 60:.1f} minutes in {step.stage} at {step.done} of {step.total}; the same "
                "command goes on",
                {"stage": step.stage, "done": step.done, "total": step.total, "seconds": round(seconds, 1)},
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
        seconds, sitting = time.perf_counter() - self._begun, self.sitting
        sitting.see_gpu()
        this = Attempt(
            started=self._started,
            seconds=round(seconds, 3),
            outside_parts=round(seconds - sitting.inside_now, 3),
            peak_memory_mb=peak_memory_mb(),
            gpu_peak_mb=sitting.gpu_peak_mb,
            joules=None if sitting.meter is None else round(sitting.joules_outside, 1),
            commit=sitting.commit,
            device=sitting.device,
            machine=dict(sitting.about),
        )
        return [*self._earlier, this]

    def save(self) -> None:
        self.sitting.note()
        write_json(self._path, [attempt.model_dump(mode="json") for attempt in self.attempts])
        self._saved = time.perf_counter() - self._begun

    def leave(self) -> None:
        """Note this attempt, unless it left nothing: one that could not begin is none."""
        if self._kept_something():
            self.save()
        elif self._earlier:
            write_json(self._path, [attempt.model_dump(mode="json") for attempt in self._earlier])
        else:
            for note in (self._path, self._path.with_name(_SIZES)):
                note.unlink(missing_ok=True)


def _remove_empty(folder: Path, around: Path | None) -> None:
    """Remove a run's folder, and the one of all unfinished runs, where nothing is in them."""
    for each in (folder, around):
        if each is not None and each.is_dir() and not any(each.iterdir()):
            each.rmdir()


def _result(
    measured: Measured,
    failures: Sequence[str],
    watch: _Watch,
    what: str,
    preset: str,
    seeds: tuple[int, ...],
) -> BenchResult:
    check_measures(measured.measures)
    gates = [gate.model_copy(update={"value": plain(gate.value)}) for gate in measured.gates]
    attempts, parts = watch.attempts, {**watch.sitting.parts, **measured.parts}
    inner = [each for part in parts.values() for each in part.all()]
    spent: list[Attempt | Part] = [*attempts, *inner]
    on_gpu = [each.gpu_peak_mb for each in spent if each.gpu_peak_mb is not None]
    joules = [
        j for j in (*(a.joules for a in attempts), *(p.joules for p in parts.values())) if j is not None
    ]
    outside = [a.seconds if a.outside_parts is None else a.outside_parts for a in attempts]
    return BenchResult(
        what=what,
        preset=preset,
        device=watch.sitting.device or "cpu",
        machine=dict(watch.sitting.about),
        versions=versions(),
        seeds=seeds,
        started=min(each.started for each in spent),
        seconds=round(sum(outside) + sum(part.seconds for part in parts.values()), 3),
        peak_memory_mb=max(each.peak_memory_mb for each in spent),
        gpu_peak_mb=max(on_gpu) if on_gpu else None,
        joules=round(sum(joules), 1) if joules else None,
        attempts=tuple(attempts),
        parts=parts,
        data=dict(measured.data),
        measures=plain(measured.measures),
        gates=tuple(gates),
        details=plain(measured.details),
        failures=tuple(failures),
    )
