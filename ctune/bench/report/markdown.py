"""The page of benchmarks in Markdown: first what was found and what was not kept, then tables, then where it all lies."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ctune.bench.report.promises import NOT_KEPT, UNDECIDED, counted, promise_table
from ctune.bench.report.sections import CHANGED, NO_ACCELERATOR, TITLE, Section, on_accelerator
from ctune.bench.report.tables import Table


def markdown(found: Sequence[Section], folder: Path, html_name: str) -> str:
    """The page; `folder` is where the results lie, seen from it."""
    lines = [
        f"# Benchmarks: {TITLE[:1].lower()}{TITLE[1:]}",
        "",
        "<!-- Written by `ctune bench report`; do not edit by hand. -->",
        "",
    ]
    if not on_accelerator(found):
        lines += [f"**{NO_ACCELERATOR}**", ""]
    lines += [
        f"The same with figures, in one file: [{html_name}]({html_name}). Phantoms are drawn by `ctune phantom`; how each figure is",
        "computed stands in [method.md](method.md). A row says from how many seeds it comes. Differences, intervals and tests are computed",
        "from the cases in the results whenever this page is written.",
        "",
        *_in_short(found),
    ]
    for section in found:
        for run, chapter in section.chapters:
            where = f" ({run.title})" if len(section.chapters) > 1 else ""
            lines += [f"## {chapter.title}{where}", "", f"{section.bench.help} `{run.command}`", ""]
            lines += [line for said in chapter.said for line in (f"- {said}",)]
            lines += [""] if chapter.said else []
            for table in chapter.tables:
                lines += _table(table, f"### {table.title}")
    rows = [promise for s in found if not s.bench.chapter for promise in s.promises]
    if rows:
        lines += _table(promise_table("Systems", rows), "## Systems")
    lines += _results(found, folder)
    return "\n".join(lines).rstrip() + "\n"


def _in_short(found: Sequence[Section]) -> list[str]:
    """Sentences of every chapter, and the promises that were not kept."""
    lines = ["## In short", ""]
    lines += [f"- {said}" for section in found for _, chapter in section.chapters for said in chapter.short]
    promises = [promise for section in found for promise in section.promises]
    broken = [promise for promise in promises if promise.state == NOT_KEPT]
    lines += ["", counted(promises)]
    if undecided := [promise for promise in promises if promise.state == UNDECIDED]:
        lines += ["", "**Promised, not decided:**", "", *(f"- {promise}" for promise in undecided)]
    if broken:
        lines += ["", "**Promised, not kept:**", "", *(f"- {promise}" for promise in broken)]
    return [*lines, ""]


def _table(table: Table, heading: str) -> list[str]:
    lines = [heading, ""]
    lines += ["| " + " | ".join(table.columns) + " |", "|---" * len(table.columns) + "|"]
    lines += ["| " + " | ".join(_bold(cell) for cell in row) + " |" for row in table.rows]
    return [*lines, "", *([table.caption, ""] if table.caption else [])]


def _bold(cell: str) -> str:
    return "**not kept**" if cell == NOT_KEPT else cell


def _results(found: Sequence[Section], folder: Path) -> list[str]:
    """Every result that is told of, where it was measured and what it could not, and those behind them."""
    lines = [
        "## Results",
        "",
        f"Every case's figures, durations, versions and hashes are in the files. {CHANGED}",
        "",
    ]
    for section in found:
        for run in section.runs:
            link = f"[{run.file}]({(folder / run.file).as_posix()})"
            lines += [f"- `{run.command}`: {link}; {run.machine}."]
            lines += [f"  - {run.note}"] * bool(run.note)
            lines += [f"  - not measured: {failure}" for failure in run.result.failures]
        if section.others:
            behind = ", ".join(f"[{r.file}]({(folder / r.file).as_posix()})" for r in section.others)
            lines += [f"  - with fewer seeds, or older: {behind}"]
    return lines
