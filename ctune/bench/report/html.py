"""The page of benchmarks in HTML, as a paper's appendix: tiles, figures, tables; no links outside, no scripts, nothing fetched."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ctune.bench.report.plots import Plot, draw_plot, with_common_axes
from ctune.bench.report.promises import counted, promise_table
from ctune.bench.report.sections import CHANGED, NO_ACCELERATOR, TITLE, Run, Section, on_accelerator
from ctune.bench.report.tables import Chapter, Table, Tile
from ctune.report.palette import ON_BLACK, ON_DARK, ON_WHITE

TILES = 8
HEADS = {
    1: "Dice against the time spent",
    2: "How many times more full training needs",
    3: "What is lost of the classes from before",
    4: "Dice against the expert's minutes",
}
"""Titles of the figures at the head of the page; their panels come from the plots that name their number."""


@dataclass(frozen=True)
class Panel:
    """caption: without the sentences that an earlier panel of its figure has said."""

    plot: Plot
    caption: str
    svg: str
    letter: str


@dataclass(frozen=True)
class Figure:
    """One figure with its panels."""

    number: int
    title: str
    panels: Sequence[Panel]


@dataclass(frozen=True)
class Numbered:
    number: int
    table: Table


@dataclass(frozen=True)
class Part:
    """A chapter with the numbers of its tables, and the figures that are not at the head."""

    section: Section
    run: Run
    chapter: Chapter
    tables: Sequence[Numbered]
    figures: Sequence[Figure]


def html(found: Sequence[Section]) -> str:
    """The page."""
    from jinja2 import Environment, PackageLoader, PrefixLoader, StrictUndefined

    loaders = {name: PackageLoader(f"ctune.{name}", "") for name in ("bench", "report")}
    environment = Environment(
        loader=PrefixLoader(loaders),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    heads = head_figures(found)
    parts, systems = chapters(found, after=len(heads))
    promises = [promise for section in found for promise in section.promises]
    tables = sum(len(part.tables) for part in parts)
    rows = [promise for section in systems for promise in section.promises]
    number = len(heads) + sum(len(part.figures) for part in parts)
    return environment.get_template("bench/report/page.html").render(
        title=TITLE,
        missing="" if on_accelerator(found) else NO_ACCELERATOR,
        short=[said for s in found for _, chapter in s.chapters for said in chapter.short],
        tiles=tiles(found),
        heads=heads,
        ranged=ranged,
        parts=parts,
        counted=counted(promises),
        promises=promises,
        systems=Numbered(tables + 1, promise_table("Promises of the systems", rows)) if rows else None,
        systems_figures=further(systems, number),
        sections=found,
        changed=CHANGED,
        tints={"white": ON_WHITE, "dark": ON_DARK, "black": ON_BLACK},
    )


def tiles(found: Sequence[Section]) -> list[Tile]:
    """A few: the first of each chapter, then seconds, until there are enough."""
    each = [chapter.tiles for section in found for _, chapter in section.chapters[:1]]
    chosen = [(place, i) for i in range(max(map(len, each), default=0)) for place in range(len(each))
              if i < len(each[place])][:TILES]  # fmt: skip
    return [each[place][i] for place, i in sorted(chosen)]


def head_figures(found: Sequence[Section]) -> list[Figure]:
    """The figures that one wants to see first, each with its panels over common axes."""
    out = list[Figure]()
    for number, title in HEADS.items():
        plots = with_common_axes([plot for s in found for plot in s.plots if plot.figure == number])
        if plots:
            out.append(_figure(len(out) + 1, title, plots))
    return out


def _figure(number: int, title: str, plots: Sequence[Plot]) -> Figure:
    letters = "abcdefgh" if len(plots) > 1 else " "
    drawn, told = list[Panel](), set[str]()
    for i, plot in enumerate(plots):
        sentences = re.split(r"(?<=\.)\s+(?=[A-Z])", plot.caption)
        caption = " ".join(one for one in sentences if one not in told)
        told.update(sentences)
        drawn.append(Panel(plot, caption, draw_plot(plot, f"f{number}{i}"), letters[i].strip()))
    return Figure(number, title, drawn)


def chapters(found: Sequence[Section], after: int) -> tuple[list[Part], list[Section]]:
    """Parts with their tables and figures numbered through the page, from figure `after` + 1; sections without a chapter."""
    parts, table, number = [], 1, after
    for section in found:
        for run, chapter in section.chapters:
            numbered = [Numbered(table + i, one) for i, one in enumerate(chapter.tables)]
            table += len(numbered)
            first = run is section.chapters[0][0]
            figures = further([section], number) if first else []
            number += len(figures)
            parts.append(Part(section, run, chapter, numbered, figures))
    return parts, [section for section in found if not section.bench.chapter]


def further(found: Sequence[Section], after: int) -> list[Figure]:
    """The plots that are not at the head of the page, one figure each."""
    plots = [plot for section in found for plot in section.plots if plot.figure not in HEADS]
    shares = iter(with_common_axes([plot for plot in plots if plot.x_limits]))
    plots = [next(shares) if plot.x_limits else plot for plot in plots]
    return [_figure(after + i, plot.title, [plot]) for i, plot in enumerate(plots, start=1)]


def ranged(cell: str) -> Any:
    """A cell of a table; what stands in its brackets, the seeds or the interval, on a line of its own.

    >>> ranged(".85 (.80 to .90)")
    Markup('.85<small>.80 to .90</small>')
    """
    from markupsafe import Markup, escape

    found = re.fullmatch(r"(\S+) \(([^()]+ to [^()]+)\)", cell) or re.fullmatch(r"(\S+) (\[.+)", cell)
    if not found:
        return escape(cell)
    return Markup("{}<small>{}</small>").format(found[1], found[2])
