"""``ctune predict``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.options import ProjectDir, choice, names
from cli.output import AsJson, emit, progress

if TYPE_CHECKING:
    from rich.console import Console


def predict(
    model: Annotated[str, typer.Argument(help="NAME, NAME:VERSION, NAME@ALIAS or sha256:...")],
    images: Annotated[
        list[Path] | None, typer.Argument(help="CT files (NIfTI); by default the project's pool.")
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="A folder for each case comes here.")] = Path(
        "predictions"
    ),
    classes: Annotated[
        str, typer.Option("--classes", help="With commas; all of the model's by default.")
    ] = "",
    split: Annotated[
        str, typer.Option("--split", help="Which cases of the pool: pool, validation or test.")
    ] = "pool",
    flips: Annotated[
        bool,
        typer.Option("--flips", help="Also measure how predictions change when mirrored, for `ctune score`."),
    ] = False,
    project: ProjectDir = None,
    as_json: AsJson = False,
) -> None:
    """Predict masks on each CT's own grid, with probabilities and volumes in mL; run again, it does what is missing."""
    from ctune.cohort import predict_cases, predict_files
    from ctune.compositions import load_model
    from ctune.data.files import read_json
    from ctune.optimise import resolve_device
    from ctune.project import find_project
    from ctune.types import Split

    found = find_project(project)
    loaded = load_model(found.open_registry(), model, resolve_device(found.config.device))
    axes = found.config.importance.flips if flips else ()
    refused: list[tuple[str, str]] = []
    with progress("predict", as_json) as on_progress:
        if images:
            ids, refused = predict_files(
                found.config, loaded.network, loaded.digest, images, out, classes=names(classes) or None, flips=axes,
                on_progress=on_progress,
            )  # fmt: skip
        else:
            ids = [case.id for case in found.pool.cases(choice(Split, split, "--split"))]
            predict_cases(
                found, loaded.network, loaded.digest, ids, out, classes=names(classes) or None, flips=axes,
                on_progress=on_progress,
            )  # fmt: skip
    volumes = {case_id: read_json(out / case_id / "prediction.json")["volumes_ml"] for case_id in ids}

    def human(console: Console) -> None:
        console.print(f"{len(ids)} cases in {out}")
        for case_id, why in refused:
            console.print(f"refused {case_id}: {why}")

    emit(
        {"model": loaded.digest, "out": out, "volumes_ml": volumes, "refused": dict(refused)}, as_json, human
    )
    if refused:
        raise typer.Exit(1)
