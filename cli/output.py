"""What a command shows: one document on stdout, for people or as JSON; progress and errors on stderr."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, TypeAlias

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from ctune.types import OnProgress, Progress

AsJson: TypeAlias = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]
"""The type of every command's `as_json` parameter: ``as_json: AsJson = False``."""


def emit(document: Mapping[str, Any], as_json: bool, human: Callable[[Console], None]) -> None:
    """Print a command's answer: `document` as JSON, or whatever `human` writes to the console.

    Values that JSON does not know are turned by ``plain``; not-a-number and infinities become null.
    """
    if as_json:
        typer.echo(json.dumps(plain(document), indent=2, ensure_ascii=False, allow_nan=False))
        return
    from rich.console import Console

    # Numbers and paths are the answer, not decoration: no guessing at colours, a name in [brackets] stays; a pipe gets whole lines.
    human(Console(highlight=False, markup=False, soft_wrap=not sys.stdout.isatty()))


def plain(value: Any) -> Any:
    """The same value in dicts, lists, text, numbers and None.

    >>> plain({"mean": float("nan"), "classes": ("liver",)})
    {'mean': None, 'classes': ['liver']}
    """
    if isinstance(value, bool | int | str) or value is None:
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if hasattr(value, "model_dump"):
        return plain(value.model_dump())
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in (sorted(value) if isinstance(value, set | frozenset) else value)]
    return str(value)


def note(text: str) -> None:
    """One line for people, on stderr, so that stdout stays the answer alone."""
    typer.echo(text, err=True)


def fail(error: BaseException, exit_code: int, as_json: bool) -> NoReturn:
    """End the command: one ``error:`` line on stderr and, with `as_json`, an error document on stdout."""
    message = " ".join(str(error).split()) or type(error).__name__
    note(f"error: {message}")
    if as_json:
        emit_error(error, message)
    raise typer.Exit(exit_code)


def emit_error(error: BaseException, message: str) -> None:
    """The JSON document of a command that failed."""
    typer.echo(json.dumps({"error": {"type": type(error).__name__, "message": message}}, ensure_ascii=False))


@contextmanager
def progress(label: str, as_json: bool = False) -> Iterator[OnProgress]:
    """Yield a listener that draws a bar with the time left on stderr; what libraries print meanwhile goes there too.

    Silent with `as_json` and where stderr is not a terminal.

    >>> from ctune.types import Progress
    >>> with progress("tune", as_json=True) as on_progress:
    ...     on_progress(Progress("tune", 1, 2))
    """
    # stdout is the answer alone: Ray, for one, prints there that it lost a node.
    with redirect_stdout(sys.stderr):
        if as_json or not sys.stderr.isatty():
            yield lambda _: None
            return
        yield from _bar(label)


def _bar(label: str) -> Iterator[OnProgress]:
    from rich import progress as bars
    from rich.console import Console

    columns = (
        bars.TextColumn("{task.description}"),
        bars.BarColumn(),
        bars.MofNCompleteColumn(),
        bars.TimeElapsedColumn(),
        bars.TimeRemainingColumn(),
        bars.TextColumn("{task.fields[detail]}"),
    )
    with bars.Progress(*columns, console=Console(stderr=True), transient=True) as shown:
        tasks: dict[str, bars.TaskID] = {}

        def on_progress(step: Progress) -> None:
            if step.stage not in tasks:
                tasks[step.stage] = shown.add_task(step.stage or label, total=step.total, detail="")
            shown.update(tasks[step.stage], completed=step.done, total=step.total, detail=step.detail)

        yield on_progress
