"""Options that several commands share."""

from __future__ import annotations

import re
from enum import StrEnum
from pathlib import Path
from typing import Annotated, TypeAlias, TypeVar

import typer

Kind = TypeVar("Kind", bound=StrEnum)

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


def choice(kind: type[Kind], text: str, option: str) -> Kind:
    """The value that an option names. Raises UsageError with the known ones."""
    from ctune.errors import UsageError

    try:
        return kind(text)
    except ValueError:
        known = ", ".join(str(k) for k in kind)
        raise UsageError(f"expected one of {known} for {option}, got {text!r}") from None


def on_disk(folder: Path, option: str) -> Path:
    """The same folder. Raises UsageError for a URL, which would become a folder of that name."""
    from ctune.errors import UsageError

    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", str(folder)):
        raise UsageError(
            f"expected a folder for {option}, got a URL ({folder}); only what `ctune predict` writes may be at a URL"
        )
    return folder
