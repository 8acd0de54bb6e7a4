"""``ctune select``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.options import ProjectDir, names
from cli.output import AsJson, emit

if TYPE_CHECKING:
    from rich.console import Console


def select(
    scores: Annotated[Path, typer.Argument(help="Folder that `ctune score -o` wrote.")] = Path("scores"),
    out: Annotated[Path, typer.Option("--out", "-o", help="The expert's list.")] = Path("selection.csv"),
    classes: Annotated[
        str, typer.Option("--classes", help="Classes to revise, with commas; the project's by default.")
    ] = "",
    cases: Annotated[
        int | None, typer.Option("--cases", min=1, help="How many; the project's setting by default.")
    ] = None,
    strategy: Annotated[
        str | None, typer.Option("--strategy", help="importance, uncertainty or random.")
    ] = None,
    project: ProjectDir = None,
    as_json: AsJson = False,
) -> None:
    """Choose the cases that an expert should revise next, in order, with the reason for each; never a test case."""
    from ctune.importance import read_importances
    from ctune.project import find_project
    from ctune.select import select as select_cases
    from ctune.select import write_csv
    from ctune.types import Split

    found = find_project(project)
    pool = {case.id for case in found.pool.cases(Split.POOL)}
    rows = select_cases(
        [s for s in read_importances(scores / "scores.json") if s.case_id in pool],
        classes=names(classes) or found.config.classes,
        cases=cases or found.config.selection.cases,
        strategy=strategy or found.config.selection.strategy,
        seed=found.config.seed,
    )
    write_csv(out, rows)

    def human(console: Console) -> None:
        for row in rows:
            console.print(f"{row.rank:3d}  {row.case_id}  {row.reason}")
        console.print(f"written to {out}")

    emit({"selected": rows, "out": out}, as_json, human)
