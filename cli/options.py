"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, TypeAlias

import typer

ProjectDir: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        "--project", help="The project's folder; by default found from here upwards.", show_default=False
    ),
]
"""The type of every command's `project` parameter: ``project: ProjectDir = None``."""


def names(text: str) -> list[str]:
    """The names in a list with commas."""
    return [part.strip() for part in text.split(",") if part.strip()]
