"""``ctune export bento``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.options import ProjectDir
from cli.output import AsJson, emit
from cli.registry_options import Reference, RegistryDir, open_registry

if TYPE_CHECKING:
    from rich.console import Console


def bento(
    model: Reference,
    store: Annotated[
        Path, typer.Option("--store", envvar="BENTOML_HOME", help="BentoML's folder of Bentos and models.")
    ] = Path("bentoml"),
    release: Annotated[
        str,
        typer.Option("--release", help="Version of the Bento; the registry's version and digest by default."),
    ] = "",
    runtime: Annotated[str, typer.Option("--runtime", help="onnx or torch.")] = "onnx",
    project: ProjectDir = None,
    registry: RegistryDir = None,
    as_json: AsJson = False,
) -> None:
    """Pack a model with what serves it, for `bentoml serve` and `bentoml containerize`."""
    # Read by bentoml while it is imported.
    os.environ["BENTOML_HOME"] = str(store.absolute())
    os.environ.setdefault("BENTOML_DO_NOT_TRACK", "True")
    store.mkdir(parents=True, exist_ok=True)
    from ctune.serve.bento import write_bento
    from ctune.serve.registered import RegistrySource

    made = write_bento(RegistrySource(open_registry(project, registry), model), runtime, release)

    def human(console: Console) -> None:
        console.print(f"{made.tag}: {', '.join(made.classes)}; in {made.path}")
        console.print(f"serve it: BENTOML_HOME={store} BENTOML_DO_NOT_TRACK=True bentoml serve {made.tag}")

    emit(made.__dict__, as_json, human)
