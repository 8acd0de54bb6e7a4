"""``ctune tune``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from cli.options import ProjectDir, names
from cli.output import AsJson, emit, progress

if TYPE_CHECKING:
    from rich.console import Console


def tune(
    model: Annotated[
        str, typer.Argument(help="The model to tune: NAME, NAME:VERSION, NAME@ALIAS or sha256:...")
    ],
    classes: Annotated[str, typer.Option("--classes", help="Classes whose heads are tuned, with commas.")],
    name: Annotated[
        str | None, typer.Option("--name", help="Of the new version; the model's own by default.")
    ] = None,
    project: ProjectDir = None,
    as_json: AsJson = False,
) -> None:
    """Tune the heads of revised classes on every case that an expert revised; the other heads do not move."""
    from ctune.foundation import retune_model
    from ctune.optimise import resolve_device
    from ctune.project import find_project

    found = find_project(project)
    with progress("tune", as_json) as on_progress:
        digest, done = retune_model(
            found,
            model,
            names(classes),
            name=name,
            device=resolve_device(found.config.device),
            on_progress=on_progress,
        )
    change = max(done.proof.max_abs_change.values(), default=0.0) if done.proof else None
    document = {
        "model": digest,
        "classes": names(classes),
        "steps": done.result.steps,
        "losses": done.result.losses,
        "seconds": done.result.seconds,
        "unrevised_max_abs_logit_change": change,
    }

    def human(console: Console) -> None:
        console.print(
            f"sha256:{digest[:12]}: tuned {', '.join(names(classes))} in {done.result.seconds:.1f} s"
        )
        if done.proof:
            console.print(
                f"unrevised classes: logits changed by {change:g} on {done.proof.voxels:,} compared values"
            )

    emit(document, as_json, human)
