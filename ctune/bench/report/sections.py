"""What is told of the results: a section a benchmark, of its newest and largest runs."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from ctune.bench.catalogue import BENCHES, Bench, Preset
from ctune.bench.report.plots import Plot
from ctune.bench.report.promises import Promise, promises_of
from ctune.bench.report.tables import Chapter
from ctune.bench.result import BenchResult
from ctune.report.page import duration

TITLE = "What continual tuning costs and gives"
NO_ACCELERATOR = "Not measured on an accelerator: none was at hand. Every figure is from a CPU."
_CHAPTERS = ("speed", "hippocampus", "paper", "forgetting", "selection", "scaling")
"""The order in which they are told; the others follow as in the catalogue."""
_ORDER = [str(preset) for preset in Preset]


@dataclass(frozen=True)
class Run:
    """One result: of several of a preset on a device, the one with most seeds, of these the newest; or what they say together."""

    file: str
    result: BenchResult

    @property
    def title(self) -> str:
        return f"{self.result.preset}, on {self.result.device}"

    @property
    def machine(self) -> str:
        """Where it was measured, in a line."""
        known = self.result.machine
        accelerator = known.get("accelerator")
        commits = dict.fromkeys(str(attempt.commit) for attempt in self.result.attempts)
        name = accelerator["name"] if isinstance(accelerator, dict) else known.get("processor")
        return (
            f"{name}, {known.get('cores')} cores, load {known.get('load_1_minute')} when it began; seeds "
            f"{', '.join(map(str, self.result.seeds))}; {duration(self.result.seconds)}, at most "
            f"{self.result.peak_memory_mb:.0f} MiB; {self.result.started[:10]}, commit {', '.join(commits)}"
        )

    @property
    def command(self) -> str:
        """What repeats it."""
        seeds = ",".join(map(str, self.result.seeds))
        return f"ctune bench {self.result.what} --preset {self.result.preset} --seeds {seeds}"


@dataclass(frozen=True)
class Section:
    """One benchmark: the runs that are told of, the largest preset last; `others` are results that stand behind them."""

    bench: Bench
    runs: Sequence[Run]
    others: Sequence[Run] = field(default_factory=tuple)

    @property
    def largest(self) -> Run:
        """The run of the largest preset."""
        return self.runs[-1]

    @cached_property
    def told(self) -> Sequence[Run]:
        """Without smoke runs where there is more."""
        large = [run for run in self.runs if run.result.preset != Preset.SMOKE]
        return large[::-1] or self.runs

    @cached_property
    def chapters(self) -> list[tuple[Run, Chapter]]:
        """What is told of each run, the largest first; empty for a benchmark that has no chapter."""
        return [(run, _called(self.bench.chapter, run.result)) for run in self.told if self.bench.chapter]

    @cached_property
    def plots(self) -> list[Plot]:
        """Of the largest run."""
        return list(_called(self.bench.plots, self.largest.result)) if self.bench.plots else []

    @cached_property
    def promises(self) -> list[Promise]:
        return promises_of(self.bench, [run.result for run in self.told])


def _called(target: str, result: BenchResult | Sequence[BenchResult]) -> Any:
    module, _, attribute = target.partition(":")
    return getattr(importlib.import_module(module), attribute)(result)


def sections(results: Iterable[tuple[Path, BenchResult]]) -> list[Section]:
    """One for each benchmark that has results, those with chapters first; `results` come oldest first."""
    found: dict[str, dict[tuple[str, str], list[Run]]] = {}
    for path, result in results:
        of = found.setdefault(result.what, {}).setdefault((result.preset, result.device), [])
        of.append(Run(path.name, result))
    out = []
    place = {name: i for i, name in enumerate(_CHAPTERS)}
    for bench in sorted(BENCHES, key=lambda bench: place.get(bench.name, len(place))):
        groups = found.get(bench.name, {}).values()
        chosen = [_joined(bench, runs) if bench.joined else _best(runs) for runs in groups]
        chosen.sort(key=lambda run: (_ORDER.index(run.result.preset), run.result.started))
        others = [run for runs in groups for run in runs if run.file not in [one.file for one in chosen]]
        if chosen:
            out.append(Section(bench, chosen, others))
    return out


def _best(runs: Sequence[Run]) -> Run:
    """Most seeds; of these the last: a run of one seed does not hide three that broke a bound."""
    most = max(len(run.result.seeds) for run in runs)
    return [run for run in runs if len(run.result.seeds) == most][-1]


def _joined(bench: Bench, runs: Sequence[Run]) -> Run:
    """What all of them say together, under the name of the newest; the files stand behind it."""
    return (
        runs[0] if len(runs) == 1 else Run(runs[-1].file, _called(bench.joined, [run.result for run in runs]))
    )


def on_accelerator(found: Sequence[Section]) -> bool:
    return any(run.result.device != "cpu" for section in found for run in section.runs)
