"""What is told of the results: a section a benchmark, of its newest and largest runs."""

from __future__ import annotations

import importlib
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from ctune.bench.catalogue import BENCHES, Bench, Preset, find_bench
from ctune.bench.report.plots import Plot
from ctune.bench.report.promises import Promise, promises_of
from ctune.bench.report.tables import Chapter
from ctune.bench.result import BenchResult
from ctune.errors import DataError
from ctune.report.page import duration

TITLE = "What continual tuning costs and gives"
NO_ACCELERATOR = "Not measured on an accelerator: none was at hand. Every figure is from a CPU."
CHANGED = "A commit with a + had changes that were not committed: git alone does not bring it back."
NOTES = "notes.toml"
_CHAPTERS = ("speed", "hippocampus", "paper", "forgetting", "selection", "scaling")
"""The order in which they are told; the others follow as in the catalogue."""
_ORDER = [str(preset) for preset in Preset]


@dataclass(frozen=True)
class Run:
    """One result: of several of a preset on a device, the one with most seeds, of these the newest; or what they say together."""

    file: str
    result: BenchResult
    note: str = ""
    """What has to be known of it, from ``NOTES`` in the folder of results."""

    @property
    def title(self) -> str:
        return f"{self.result.preset}, on {self.result.device}"

    @property
    def machine(self) -> str:
        """Where it was measured, in a line."""
        known = self.result.machine
        accelerator = known.get("accelerator")
        commits = self.result.commits or ("unknown",)
        made = (
            f"commit {commits[0]}"
            if len(commits) == 1
            else f"parts of {len(commits)} commits, {commits[0]} to {commits[-1]}"
        )
        name = accelerator["name"] if isinstance(accelerator, dict) else known.get("processor")
        return (
            f"{name}, {known.get('cores')} cores, load {known.get('load_1_minute')} when it began; seeds "
            f"{', '.join(map(str, self.result.seeds))}; {duration(self.result.seconds)}, at most "
            f"{self.result.peak_memory_mb:.0f} MiB; {self.result.started[:10]}, {made}"
        )

    @property
    def command(self) -> str:
        """What repeats it."""
        seeds, bench = ",".join(map(str, self.result.seeds)), find_bench(self.result.what)
        measure, value, other = bench.instead
        if measure and self.result.measures.get(measure) == value:
            return other
        before = f"{bench.before} " * bool(bench.before)
        return f"{before}ctune bench {self.result.what} --preset {self.result.preset} --seeds {seeds}"


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
        found = [(run, _told(self.bench.chapter, run)) for run in self.told if self.bench.chapter]
        return [
            (run, replace(told, said=[run.note, *told.said]) if run.note else told) for run, told in found
        ]

    @cached_property
    def plots(self) -> list[Plot]:
        """Of the largest run."""
        return list(_told(self.bench.plots, self.largest)) if self.bench.plots else []

    @cached_property
    def promises(self) -> list[Promise]:
        return promises_of(self.bench, [run.result for run in self.told])


def _called(target: str, result: BenchResult | Sequence[BenchResult]) -> Any:
    module, _, attribute = target.partition(":")
    return getattr(importlib.import_module(module), attribute)(result)


def _told(target: str, run: Run) -> Any:
    """What a benchmark's own module makes of a result. Raises DataError where the document lacks what it tells."""
    try:
        return _called(target, run.result)
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        problem = f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"
        raise DataError(
            f"expected a whole result of {run.result.what} in {run.file}, got one that cannot be told ({problem}); measure again, "
            "or take the file away"
        ) from error


def _check(path: Path, result: BenchResult) -> None:
    known = [bench.name for bench in BENCHES]
    if result.what not in known:
        raise DataError(
            f"expected a result of {', '.join(known)} in {path}, got one of {result.what!r}; take the file away"
        )
    if result.preset not in _ORDER:
        raise DataError(
            f"expected a preset of {', '.join(_ORDER)} in {path}, got {result.preset!r}; measure again"
        )


def read_notes(folder: Path) -> dict[str, str]:
    """{file of a result: what has to be known of it}. Raises DataError for a file that is not TOML of texts, or names no result."""
    path = folder / NOTES
    if not path.exists():
        return {}
    try:
        found = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"expected TOML in {path}, got: {error}; mend it") from None
    for name, text in found.items():
        if not isinstance(text, str) or not (folder / name).exists():
            raise DataError(
                f"expected a text for a result of {folder} in {path}, got {name!r}; mend it, or take the line away"
            )
    return found


def sections(
    results: Iterable[tuple[Path, BenchResult]], notes: Mapping[str, str] | None = None
) -> list[Section]:
    """One for each benchmark that has results, those with chapters first; `results` come oldest first. notes: see ``read_notes``.

    Raises DataError for a result of an unknown benchmark or preset.
    """
    found: dict[str, dict[tuple[str, str], list[Run]]] = {}
    for path, result in results:
        _check(path, result)
        of = found.setdefault(result.what, {}).setdefault((result.preset, result.device), [])
        of.append(Run(path.name, result, (notes or {}).get(path.name, "")))
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
