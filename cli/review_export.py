"""``ctune review export``: cases out to a program of the expert's own."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.options import ProjectDir, choice
from cli.output import AsJson, emit, progress

if TYPE_CHECKING:
    from rich.console import Console


class Programs(StrEnum):
    """Programs that experts draw in."""

    ITK_SNAP = "itk-snap"
    SLICER = "slicer"


def export(
    out: Annotated[Path, typer.Option("--out", "-o", help="A folder for each case comes here.")],
    cases: Annotated[
        list[str] | None,
        typer.Argument(help="Case ids; by default the queue of the newest round.", show_default=False),
    ] = None,
    format: Annotated[
        str, typer.Option("--format", help="For which program: itk-snap or slicer (3D Slicer).")
    ] = "itk-snap",
    expert: Annotated[
        str, typer.Option("--expert", help="Who gets them, for the audit log; your login name by default.")
    ] = "",
    project: ProjectDir = None,
    as_json: AsJson = False,
) -> None:
    """Write CTs and labels for ITK-SNAP or 3D Slicer; `ctune revise OUT` takes back the classes that were changed."""
    import getpass

    from ctune.data.exchange import Format
    from ctune.project import find_project
    from ctune.review.export import export_cases

    chosen = Format.SEG_NRRD if choice(Programs, format, "--format") is Programs.SLICER else Format.ITK_SNAP
    found = find_project(project)
    with progress("export", as_json) as on_progress:
        folders = export_cases(
            found, out, cases, who=expert or getpass.getuser(), format=chosen, on_progress=on_progress
        )

    def human(console: Console) -> None:
        console.print(
            f"{len(folders)} cases in {out}; give them back with `ctune revise {out} --expert NAME`"
        )

    emit({"out": out, "cases": [folder.name for folder in folders], "format": chosen}, as_json, human)
