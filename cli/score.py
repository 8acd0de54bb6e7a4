"""``ctune score``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.options import ProjectDir, names
from cli.output import AsJson, emit, progress

if TYPE_CHECKING:
    from rich.console import Console


def score(
    predictions: Annotated[Path, typer.Argument(help="Folder that `ctune predict --flips -o` wrote.")] = Path(
        "predictions"
    ),
    out: Annotated[Path, typer.Option("--out", "-o", help="For scores.json and attention maps.")] = Path(
        "scores"
    ),
    classes: Annotated[
        str, typer.Option("--classes", help="With commas; all that were predicted by default.")
    ] = "",
    project: ProjectDir = None,
    as_json: AsJson = False,
) -> None:
    """Score where predictions are likely wrong: uncertainty, consistency and overlap, per case and class."""
    from ctune.cohort import score_cases
    from ctune.data.files import read_json
    from ctune.errors import UsageError
    from ctune.importance import write_importances
    from ctune.project import find_project

    found = find_project(project)
    ids = sorted(path.parent.name for path in predictions.glob("*/prediction.json"))
    if not ids:
        raise UsageError(
            f"expected predictions in {predictions}, found none; run `ctune predict MODEL --flips -o {predictions}` first"
        )
    wanted = names(classes) or read_json(predictions / ids[0] / "prediction.json")["classes"]
    with progress("score", as_json) as on_progress:
        scored = score_cases(
            found, predictions, ids, out / "attention", classes=wanted, on_progress=on_progress
        )
    write_importances(out / "scores.json", scored)
    ranked = sorted(scored, key=lambda s: -s.score)

    def human(console: Console) -> None:
        for row in ranked[:10]:
            worst = max(row.classes.values(), key=lambda c: c.score)
            console.print(f"{row.score:8.2f}  {row.case_id}  {worst.reason}")

    emit({"scores": {s.case_id: s.score for s in ranked}, "out": out}, as_json, human)
