"""What the commands of ``ctune registry`` share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

if TYPE_CHECKING:
    from registry import Registry

RegistryDir: TypeAlias = Annotated[
    Path | None,
    typer.Option("--registry", help="A registry's folder, instead of the project's.", show_default=False),
]
"""The type of every command's `registry` parameter: ``registry: RegistryDir = None``."""

Reference: TypeAlias = Annotated[str, typer.Argument(help="NAME, NAME:VERSION, NAME@ALIAS or sha256:...")]


def open_registry(project: Path | None, folder: Path | None) -> Registry:
    """The registry in `folder`, else the project's; a folder that is not there is not made."""
    if folder is None:
        from ctune.project import find_project

        return find_project(project).open_registry()
    from ctune.errors import UsageError
    from registry import Registry

    if not folder.is_dir():
        raise UsageError(
            f"expected a registry's folder, {folder} is not there; make it first (`mkdir {folder}`)"
        )
    return Registry.open(folder)
