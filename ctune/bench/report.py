"""All results on one page: tables in Markdown for the docs, and a page of HTML with plots that needs nothing else."""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ctune.bench.catalogue import BENCHES, Bench, Preset
from ctune.bench.plots import Plot, draw_plot
from ctune.bench.result import BenchResult, Gate, all_results
from ctune.data.files import write_atomically
from ctune.errors import UsageError
from ctune.report.page import NOTHING, duration
from ctune.report.palette import ON_BLACK, ON_DARK, ON_WHITE

MARKDOWN, HTML = Path("docs/benchmarks.md"), Path("docs/benchmarks.html")


@dataclass(frozen=True)
class Run:
    """One column: the newest result of a preset on a device."""

    file: str
    result: BenchResult

    @property
    def title(self) -> str:
        return f"{self.result.preset}, on {self.result.device}"

    @property
    def figures(self) -> dict[str, Any]:
        """{measure: value}, with the parts of nested measures as ``measure.part``."""
        return dict(_flat(self.result.measures))

    @property
    def broken(self) -> list[Gate]:
        return [gate for gate in self.result.gates if not gate.passed]

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


@dataclass(frozen=True)
class Section:
    """One benchmark with its newest results, and the plots of the last of them."""

    bench: Bench
    runs: Sequence[Run]

    @property
    def rows(self) -> list[tuple[str, list[str]]]:
        """(measure, one cell a run)."""
        names = dict.fromkeys(name for run in self.runs for name in run.figures)
        return [(name, [cell(run.figures.get(name)) for run in self.runs]) for name in names]

    @property
    def largest(self) -> Run:
        """The run of the largest preset; of several devices, the newest."""
        order = [str(preset) for preset in Preset]
        return max(self.runs, key=lambda run: (order.index(run.result.preset), run.result.started))

    @property
    def headlines(self) -> list[tuple[str, str, str]]:
        """(value, what it is, where it was measured) of the figures that one wants to see first."""
        figures = self.largest.figures
        named = [(figures[n], words) for n, words in self.bench.headlines if figures.get(n) is not None]
        return [(cell(value), words, self.largest.title) for value, words in named]

    @property
    def plots(self) -> list[tuple[Plot, str]]:
        """Each with its drawing; of the run of the largest preset."""
        if not self.bench.plots:
            return []
        module, _, attribute = self.bench.plots.partition(":")
        drawn = getattr(importlib.import_module(module), attribute)(self.largest.result)
        return [(plot, draw_plot(plot, f"{self.bench.name}-{i}")) for i, plot in enumerate(drawn)]


def sections(results: Iterable[tuple[Path, BenchResult]]) -> list[Section]:
    """One for each benchmark that has results, in the catalogue's order; `results` come oldest first."""
    newest: dict[str, dict[tuple[str, str], Run]] = {}
    for path, result in results:
        newest.setdefault(result.what, {})[result.preset, result.device] = Run(path.name, result)
    return [Section(bench, list(newest[bench.name].values())) for bench in BENCHES if bench.name in newest]


def write_pages(folder: Path, markdown_to: Path = MARKDOWN, html_to: Path = HTML) -> list[Section]:
    """Write both pages from the results in `folder`; the same results give the same bytes.

    Raises UsageError when there are none, DataError for a file that is no result.
    """
    found = sections(all_results(folder))
    if not found:
        raise UsageError(
            f"expected results in {folder}, found none; measure first, `ctune bench registry` for one"
        )
    links = os.path.relpath(folder.resolve(), markdown_to.resolve().parent)
    pages = {markdown_to: markdown(found, Path(links), html_to.name), html_to: html(found)}
    for path, text in pages.items():
        with write_atomically(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
    return found


def markdown(found: Sequence[Section], folder: Path, html_name: str) -> str:
    """The tables, each with the command that repeats it; `folder` is where the results lie, seen from the page."""
    lines = [
        "# Benchmarks",
        "",
        "<!-- Written by `ctune bench report`; do not edit by hand. -->",
        "",
        f"The newest result of each preset and device. The same with plots, in one file: [{html_name}]({html_name}).",
        "A figure that breaks a promise is said so; what could not be measured stands below its table.",
        "",
    ]
    for section in found:
        lines += [f"## {section.bench.name}", "", section.bench.help, ""]
        lines += ["```console", *(f"$ {command(run)}" for run in section.runs), "```", ""]
        lines += ["| measure | " + " | ".join(run.title for run in section.runs) + " |"]
        lines += ["|---" * (1 + len(section.runs)) + "|"]
        lines += [f"| `{name}` | " + " | ".join(cells) + " |" for name, cells in section.rows]
        lines += [""]
        for run in section.runs:
            lines += [f"- [{run.file}]({(folder / run.file).as_posix()}): {run.machine}."]
            lines += [f"  - promised, not kept: {gate}" for gate in run.broken]
            lines += [f"  - not measured: {failure}" for failure in run.result.failures]
        lines += [""]
    return "\n".join(lines).rstrip() + "\n"


def html(found: Sequence[Section]) -> str:
    """The page as HTML: no links, no scripts, nothing fetched; plots are inside."""
    from jinja2 import Environment, PackageLoader, PrefixLoader, StrictUndefined

    loaders = {name: PackageLoader(f"ctune.{name}", "") for name in ("bench", "report")}
    environment = Environment(
        loader=PrefixLoader(loaders),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("bench/report.html").render(
        sections=found, command=command, tints={"white": ON_WHITE, "dark": ON_DARK, "black": ON_BLACK}
    )


def command(run: Run) -> str:
    """What repeats a run."""
    seeds = ",".join(map(str, run.result.seeds))
    return f"ctune bench {run.result.what} --preset {run.result.preset} --seeds {seeds}"


def cell(value: Any) -> str:
    """A measure as people read it.

    >>> cell(0.123456), cell(None), cell([1, 2.5]), cell(0), cell(12345.6)
    ('0.1235', '–', '1, 2.5', '0', '12,346')
    """
    if value is None:
        return NOTHING
    if isinstance(value, list):
        return ", ".join(map(cell, value))
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:.4g}"
    return str(value)


def _flat(measures: Mapping[str, Any], before: str = "") -> Iterable[tuple[str, Any]]:
    for name, value in measures.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{before}{name}.")
        elif isinstance(value, list) and value and isinstance(value[0], Mapping):
            for number, part in enumerate(value, start=1):
                yield from _flat(part, f"{before}{name}.{number}.")
        else:
            yield f"{before}{name}", value
