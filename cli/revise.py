"""``ctune revise``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.options import ProjectDir
from cli.output import AsJson, emit, progress

if TYPE_CHECKING:
    from rich.console import Console


def revise(
    folder: Annotated[
        Path,
        typer.Argument(
            help="CASE/<class>.nii.gz, CASE.nii.gz with CASE.txt, CASE.seg.nrrd, CASE.dcm, or what `ctune review export` wrote; with --simulate the hidden truth."
        ),
    ],
    expert: Annotated[str, typer.Option("--expert", help="Who revised.")],
    simulate: Annotated[
        bool,
        typer.Option(
            "--simulate",
            help="FOLDER is the hidden truth: a simulated expert revises the open round's cases.",
        ),
    ] = False,
    labels: Annotated[
        str, typer.Option("--labels", help="Names of the ids in label maps: 1=liver,2=spleen.")
    ] = "",
    minutes: Annotated[
        float | None, typer.Option("--minutes", min=0, help="The expert's minutes for each case.")
    ] = None,
    project: ProjectDir = None,
    as_json: AsJson = False,
) -> None:
    """Take in masks that an expert has revised, say what changed in mL and slices, and never overwrite one."""
    from ctune.data.labels import parse_labels
    from ctune.project import find_project
    from ctune.round import hand_in, simulate_expert

    found = find_project(project)
    with progress("revise", as_json) as on_progress:
        if simulate:
            report = simulate_expert(found, folder, expert=expert, on_progress=on_progress)
        else:
            report = hand_in(
                found, folder, expert=expert, labels=parse_labels(labels) if labels else None,
                seconds=None if minutes is None else 60 * minutes, on_progress=on_progress,
            )  # fmt: skip

    def human(console: Console) -> None:
        for row in report.revised:
            what = (
                "already there"
                if row.already_there
                else f"{row.changed_ml:.2f} mL in {row.slices_changed} slices changed"
            )
            console.print(
                f"{row.case_id}  {row.class_name}: {row.before_ml:.2f} -> {row.after_ml:.2f} mL, {what}"
            )
            if row.outranked:
                console.print(
                    "  an original annotation of this class stands and wins; see [hybrid] order in ctune.toml"
                )
        for case_id, name in report.untouched:
            console.print(f"{case_id}  {name}: as it was exported, no revision")
        for case_id, why in report.refused:
            console.print(f"refused {case_id}: {why}")

    said = {"revised": report.revised, "refused": dict(report.refused), "untouched": report.untouched}
    emit(said, as_json, human)
    if report.refused:
        raise typer.Exit(1)
