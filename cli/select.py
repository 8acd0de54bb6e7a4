"""``ctune select``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.options import ProjectDir, names
from cli.output import AsJson, emit, progress

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from ctune.importance import CaseImportance
    from ctune.project import Project
    from ctune.select import Vector


def select(
    scores: Annotated[Path, typer.Argument(help="Folder that `ctune score -o` wrote.")] = Path("scores"),
    out: Annotated[Path, typer.Option("--out", "-o", help="The expert's list.")] = Path("selection.csv"),
    classes: Annotated[
        str, typer.Option("--classes", help="Classes to revise, with commas; the project's by default.")
    ] = "",
    cases: Annotated[
        int | None,
        typer.Option(
            "--cases", min=1, help="How many; the project's setting by default.", show_default=False
        ),
    ] = None,
    annotations: Annotated[
        int | None,
        typer.Option("--annotations", min=1, help="Budget in classes of cases instead.", show_default=False),
    ] = None,
    minutes: Annotated[
        float | None,
        typer.Option(
            "--minutes", min=0.1, help="Budget in the expert's minutes instead.", show_default=False
        ),
    ] = None,
    strategy: Annotated[
        str | None,
        typer.Option(
            "--strategy", help="importance, uncertainty, random, diverse or stratified.", show_default=False
        ),
    ] = None,
    model: Annotated[
        str,
        typer.Option(
            "--model", help="For diverse: whose base looks at the cases; the project's newest by default."
        ),
    ] = "",
    project: ProjectDir = None,
    as_json: AsJson = False,
) -> None:
    """Choose the cases that an expert should revise next, in order, with the reason for each; never a test case, one that an
    expert has open, nor a class that somebody has annotated in a case."""
    from ctune.importance import read_importances
    from ctune.model.text import text_table
    from ctune.project import find_project
    from ctune.review.state import open_leases
    from ctune.select import Budget, asked_classes, candidates_of, judged_classes, write_csv
    from ctune.select import select as select_cases

    found = find_project(project)
    settings = found.config.selection
    limited = annotations is not None or minutes is not None
    budget = Budget(cases if cases or limited else settings.cases, annotations, minutes)
    scored = read_importances(scores / "scores.json")
    known = dict.fromkeys(
        [*found.config.classes, *(n for one in scored for n in one.classes), *text_table().names]
    )
    what = "the project's, those that were scored and those with a text vector"
    wanted = asked_classes(names(classes), known, found.config.aliases, what) or found.config.classes
    offered = candidates_of(found, scored, wanted)
    chosen = strategy or settings.strategy
    annotated, features = _known(found, model, offered, as_json) if chosen == "diverse" else ([], {})
    leased = open_leases(found.root)
    rows = select_cases(
        offered,
        classes=wanted,
        budget=budget,
        strategy=chosen,
        seed=found.config.seed,
        features=features,
        annotated=annotated,
        leased=leased,
        judged=judged_classes(found),
    )
    write_csv(out, rows)

    total = sum(row.minutes for row in rows)

    def human(console: Console) -> None:
        for row in rows:
            console.print(f"{row.rank:3d}  {row.case_id}  {row.minutes:4.1f} min  {row.reason}")
        if not rows:
            console.print("no case is left to ask about: all are open, or everything asked for is annotated")
        console.print(f"about {total:.0f} minutes; written to {out}")

    emit({"selected": rows, "minutes": total, "leased": sorted(leased), "out": out}, as_json, human)


def _known(
    project: Project, model: str, offered: Sequence[CaseImportance], as_json: bool
) -> tuple[list[str], dict[str, Vector]]:
    """Cases of the pool that people have annotated, and the global features of these and of the candidates."""
    from ctune.compositions import load_model
    from ctune.global_features import features_of_cases
    from ctune.optimise import resolve_device
    from ctune.strategy import judged_cases

    device = resolve_device(project.config.device)
    base = load_model(project.open_registry(), model or project.config.name, device).network.base
    annotated = judged_cases(project)
    with progress("global features", as_json) as on_progress:
        wanted = sorted({*annotated, *(one.case_id for one in offered)})
        return annotated, features_of_cases(project, base, wanted, device, on_progress)
