"""``ctune registry import-checkpoint``: published weights become a model of the registry."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.options import ProjectDir, names
from cli.output import AsJson, emit
from cli.registry_options import RegistryDir, open_registry

if TYPE_CHECKING:
    from rich.console import Console


class Format(StrEnum):
    """Which published network."""

    UNIVERSAL_MODEL = "universal-model"
    SUPREM = "suprem"


def import_checkpoint(
    file: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="The published torch file.")],
    format_: Annotated[Format, typer.Option("--format", help="Which network the file is of.")],
    name: Annotated[
        str | None, typer.Option(help="Register under this name; by default the format's.")
    ] = None,
    classes: Annotated[
        str, typer.Option(help="With commas, in the order of the file's rows; the published 32 by default.")
    ] = "",
    project: ProjectDir = None,
    registry: RegistryDir = None,
    as_json: AsJson = False,
) -> None:
    """Import a checkpoint of the CLIP-Driven Universal Model (base and heads) or of SuPreM (a base without heads)."""
    from ctune.compositions import register_model
    from ctune.config import Config
    from ctune.data.files import sha256_of
    from ctune.model.checkpoints import read_checkpoint

    opened = open_registry(project, registry)
    found = read_checkpoint(file, format_.value, names(classes) or None)
    network, label = found.network, name or format_.value
    # The published recipe is ctune's default: RAS, 1.5 mm, -175 to 250 HU.
    config = Config(classes=network.classes or Config().classes, base=network.base.config)
    note = f"imported from {file.name}, {format_.value}, sha256:{sha256_of(file)}"
    digest = register_model(opened, label, network, config, {}, note=note)

    def human(console: Console) -> None:
        console.print(f"{label} sha256:{digest}, {len(network.classes)} heads")
        for title, keys in (("unused in the file", found.unused), ("missing, random", found.missing)):
            console.print(f"{title}: {len(keys)} keys")
            for key in keys:
                console.print(f"  {key}")

    document = {"model": digest, "name": label, "classes": network.classes}
    emit({**document, "unused": found.unused, "missing": found.missing}, as_json, human)


COMMANDS: dict[str, Callable[..., None]] = {"import-checkpoint": import_checkpoint}
