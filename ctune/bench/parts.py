"""Finished parts of a run, each with what it took: when, where, how long, how much memory and energy.

A run that was stopped, or whose parts were made by several processes or on several machines, is the sum of them. What a part
took lies beside its value, ``seed-0.took.json`` beside ``seed-0.json``: copied together, they keep it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ctune.bench.energy import Meter
from ctune.bench.machine import commit, machine, now, peak_memory_mb
from ctune.bench.result import Part
from ctune.data.files import read_json, write_json
from ctune.errors import UsageError

TOOK = ".took.json"


def part(path: Path, make: Any, *arguments: Any) -> Any:
    """A finished part of a run: read from `path`, or made by ``make(*arguments)`` and kept there as JSON.

    Parts may hold parts: the seconds of each are counted once. Raises UsageError for one that another device made or began.

    >>> import tempfile
    >>> place = Path(tempfile.mkdtemp()) / "seed-0.json"
    >>> part(place, lambda seed: {"dice": 0.5}, 0) == part(place, lambda seed: {"dice": 0.9}, 0)
    True
    """
    sitting = _SITTING.get()
    if sitting is None:
        with Sitting():
            return part(path, make, *arguments)
    if path.exists():
        sitting.found(path)
        return read_json(path)
    with sitting.open(path):
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


@dataclass
class Sitting:
    """One process at work on a run: its device, and the parts that are open in it, the outermost first.

    device: None where nobody said which; then none is refused. work: the folder that names of parts start from.
    meter: of the accelerator's energy, None where there is none to read.
    """

    device: str | None = None
    work: Path | None = None
    about: Mapping[str, Any] = field(default_factory=lambda: machine("cpu"))
    commit: str | None = field(default_factory=commit)
    meter: Meter | None = None
    parts: dict[str, Part] = field(default_factory=dict)
    """{name: what it took} of finished parts that lie in no other."""
    inside: float = 0.0
    joules_inside: float = 0.0
    """Seconds of this process in parts, and the accelerator's joules meanwhile."""
    gpu_peak_mb: float | None = None
    _open: list[_Open] = field(default_factory=list)

    def __enter__(self) -> Sitting:
        self._token = _SITTING.set(self)
        self._reset_gpu()
        return self

    def __exit__(self, *_: object) -> None:
        _SITTING.reset(self._token)

    def open(self, path: Path) -> _Open:
        """A part that is made while the context lasts."""
        return _Open(self, path)

    def found(self, path: Path) -> None:
        """A part that was there. One without a record, of an earlier version, has taken what its attempts say."""
        if (beside := _beside(path)).exists():
            took = Part.model_validate(read_json(beside))
            self.check(took.device, f"{path} was made", path)
            self._add(path, took)

    def check(self, device: str | None, what: str, place: Path) -> None:
        """Raise UsageError when this is another device than `what` happened on."""
        if device and self.device and device != self.device:
            raise UsageError(
                f"expected {device}, on which {what}, got {self.device}: figures of two devices make no result; go on "
                f"there, or remove {place} to begin anew"
            )

    def note(self) -> None:
        """Write what open parts have taken so far, for when this process is killed."""
        for each in self._open:
            write_json(_beside(each.path), each.took().model_dump(mode="json"))

    @property
    def inside_now(self) -> float:
        """Seconds of this process in parts, the open one included."""
        return self.inside + (time.perf_counter() - self._open[0].begun if self._open else 0.0)

    @property
    def joules_outside(self) -> float:
        """The accelerator's joules since this process began, without those in parts."""
        if self.meter is None:
            return 0.0
        inside = self.joules_inside + (self._open[0].used() if self._open else 0.0)
        return self.meter.joules() - inside

    def see_gpu(self) -> None:
        """Hand the accelerator's highest memory since the last look to whatever is at work, and start anew."""
        if self.device in (None, "cpu"):
            return
        import torch

        if not torch.cuda.is_available():
            return
        peak = round(torch.cuda.max_memory_allocated() / 2**20, 1)
        if not peak:  # what other processes hold there is theirs to tell
            return
        for each in self._open:
            each.gpu_peak_mb = max(peak, each.gpu_peak_mb or 0.0)
        self.gpu_peak_mb = max(peak, self.gpu_peak_mb or 0.0)
        self._reset_gpu()

    def _reset_gpu(self) -> None:
        if self.device not in (None, "cpu"):
            import torch

            if torch.cuda.is_available():
                torch.cuda.reset_peak_memory_stats()

    def _add(self, path: Path, took: Part) -> None:
        around = self._open[-1].parts if self._open else self.parts
        around[self._name(path)] = took

    def _name(self, path: Path) -> str:
        inside = self.work is not None and path.is_relative_to(self.work)
        return str((path.relative_to(self.work) if inside and self.work else Path(path.name)).with_suffix(""))


class _Open:
    """A part that is being made. Its own seconds and joules are those that no part within it took."""

    def __init__(self, sitting: Sitting, path: Path) -> None:
        self._sitting, self.path = sitting, path
        self.begun, self._joules = time.perf_counter(), sitting.meter.joules() if sitting.meter else 0.0
        self.parts: dict[str, Part] = {}
        self.within, self.within_joules = 0.0, 0.0
        self.gpu_peak_mb: float | None = None
        beside = _beside(path)
        self._before = Part.model_validate(read_json(beside)) if beside.exists() else None
        self._started = self._before.started if self._before else now()

    def __enter__(self) -> _Open:
        if self._before:
            self._sitting.check(self._before.device, f"{self.path} was begun", self.path.parent)
        self._sitting.see_gpu()
        self._sitting._open.append(self)
        return self

    def __exit__(self, *raised: object) -> None:
        sitting = self._sitting
        sitting.see_gpu()
        seconds, joules, took = time.perf_counter() - self.begun, self.used(), self.took()
        sitting._open.pop()
        if sitting._open:
            around = sitting._open[-1]
            around.within += seconds
            around.within_joules += joules
        else:
            sitting.inside += seconds
            sitting.joules_inside += joules
        write_json(_beside(self.path), took.model_dump(mode="json"))
        if raised[0] is None:
            sitting._add(self.path, took)

    def took(self) -> Part:
        """So far, over all attempts at it."""
        before, metered = self._before, self._sitting.meter is not None
        own = time.perf_counter() - self.begun - self.within
        joules = self.used() - self.within_joules
        peaks = [p for p in (self.gpu_peak_mb, before.gpu_peak_mb if before else None) if p is not None]
        return Part(
            started=self._started,
            own_seconds=round(own + (before.own_seconds if before else 0.0), 3),
            peak_memory_mb=max(peak_memory_mb(), before.peak_memory_mb if before else 0.0),
            commit=self._sitting.commit,
            device=self._sitting.device,
            machine=dict(self._sitting.about),
            gpu_peak_mb=max(peaks) if peaks else None,
            own_joules=round(joules + ((before and before.own_joules) or 0.0), 1) if metered else None,
            parts=self.parts,
        )

    def used(self) -> float:
        """Joules in this process, the parts within it included."""
        return self._sitting.meter.joules() - self._joules if self._sitting.meter else 0.0


def _beside(path: Path) -> Path:
    return path.with_name(path.stem + TOOK)


_SITTING: ContextVar[Sitting | None] = ContextVar("sitting", default=None)
