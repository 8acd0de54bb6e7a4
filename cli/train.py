"""``ctune train``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.options import ProjectDir, names
from cli.output import AsJson, emit, note, progress
from cli.tune import show_validation

if TYPE_CHECKING:
    from rich.console import Console


def train(
    name: Annotated[
        str | None, typer.Option("--name", help="Of the model; the project's name by default.")
    ] = None,
    classes: Annotated[
        str, typer.Option("--classes", help="With commas; all that the pool annotates by default.")
    ] = "",
    project: ProjectDir = None,
    as_json: AsJson = False,
) -> None:
    """Train a base and its first heads on the pool's annotations, and register them; resumes after a kill.

    Several processes train together under torchrun: `torchrun --nproc-per-node 2 --no-python ctune train`.
    """
    from ctune.compositions import validation_of_model
    from ctune.distributed import joined
    from ctune.foundation import train_model
    from ctune.optimise import resolve_device
    from ctune.project import find_project

    found = find_project(project)
    name = name or found.config.name
    with joined() as group:
        device = group.device(resolve_device(found.config.device))
        with progress("train", as_json or not group.first) as on_progress:
            digest, result = train_model(
                found, name, names(classes) or None, device=device, on_progress=on_progress, group=group
            )
        if not group.first:
            return
    if result.note:
        note(f"note: {result.note}")
    document: dict[str, Any] = {
        "name": name,
        "model": digest,
        "steps": result.steps,
        "seconds": result.seconds,
        "computing_share": 1.0 - result.waited / result.seconds,
        "resumed_at_epoch": result.resumed,
        "processes": group.size,
        "losses": result.losses,
        "device": str(device),
        "validation": validation_of_model(found.open_registry(), digest),
    }

    def human(console: Console) -> None:
        console.print(
            f"{name}: sha256:{digest[:12]}, loss {result.losses[-1]:.3f} after {result.steps} steps; the network had work in "
            f"{document['computing_share']:.1%} of {result.seconds:.0f} s"
        )
        if found.config.train.validate_every:
            show_validation(console, document["validation"])
        else:
            console.print(
                "not looked at while it trained (train.validate_every = 0): the last weights were kept"
            )

    emit(document, as_json, human)
