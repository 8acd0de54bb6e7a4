"""``ctune classes remove|rename|split``: which classes a model has, without training anything."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from cli.options import ProjectDir
from cli.output import AsJson, emit
from cli.registry_options import Reference, RegistryDir, open_registry

if TYPE_CHECKING:
    from rich.console import Console

    from registry import Registry, Version

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)

NewName: TypeAlias = Annotated[
    str | None, typer.Option("--name", help="Of the new version; the model's own by default.")
]
Why: TypeAlias = Annotated[str, typer.Option("--note", help="Why; what was done by default.")]


@app.command()
def remove(
    model: Reference,
    classes: Annotated[list[str], typer.Argument(metavar="CLASS...", help="The classes to leave out.")],
    name: NewName = None,
    text: Why = "",
    project: ProjectDir = None,
    registry: RegistryDir = None,
    as_json: AsJson = False,
) -> None:
    """A version without some classes; the heads of the others stay bit for bit."""
    from ctune import recompose
    from ctune.foundation import name_in

    opened = open_registry(project, registry)
    made = recompose.remove(opened, model, classes, name=name or name_in(model), note=text)
    _show(opened, made, as_json, "")


@app.command()
def rename(
    model: Reference,
    old: Annotated[str, typer.Argument(metavar="CLASS", help="The class as it is called.")],
    new: Annotated[str, typer.Argument(metavar="NEW", help="What it shall be called.")],
    name: NewName = None,
    text: Why = "",
    project: ProjectDir = None,
    registry: RegistryDir = None,
    as_json: AsJson = False,
) -> None:
    """A version with a class under another name and the same weights; a text head keeps its text vector.

    The pool's annotations keep the former name; with a line under [aliases] in ctune.toml they count for the new one.
    """
    from ctune import recompose
    from ctune.classes import canonical
    from ctune.foundation import name_in

    opened = open_registry(project, registry)
    made = recompose.rename(opened, model, old, new, name=name or name_in(model), note=text)
    alias = f'{canonical(old)} = "{canonical(new)}"'
    _show(opened, made, as_json, f"for its annotations, put {alias} under [aliases] in ctune.toml")


@app.command()
def split(
    model: Reference,
    old: Annotated[str, typer.Argument(metavar="CLASS", help="The class to split.")],
    new: Annotated[list[str], typer.Argument(metavar="NEW...", help="Two or more classes to make of it.")],
    keep: Annotated[bool, typer.Option("--keep", help="Keep the old class beside the new ones.")] = False,
    name: NewName = None,
    text: Why = "",
    project: ProjectDir = None,
    registry: RegistryDir = None,
    as_json: AsJson = False,
) -> None:
    """A version in which a class is two or more; each new head begins as a copy of the old one, ready to be tuned."""
    from ctune import recompose
    from ctune.foundation import name_in

    opened = open_registry(project, registry)
    made = recompose.split(opened, model, old, new, keep=keep, name=name or name_in(model), note=text)
    _show(
        opened,
        made,
        as_json,
        f"annotate cases and tune them: `ctune tune {made} --classes {','.join(new)}`",
    )


def _show(opened: Registry, made: Version, as_json: bool, then: str) -> None:
    from registry import ModelRecord

    record = opened.record_of(made.digest)
    assert isinstance(record, ModelRecord)

    def human(console: Console) -> None:
        console.print(f"{made} sha256:{made.digest[:12]}: {record.note}")
        console.print(f"classes: {', '.join(record.heads)}")
        if then:
            console.print(f"next: {then}")

    document = {
        "model": made.digest,
        "name": made.name,
        "version": made.version,
        "classes": list(record.heads),
        "note": record.note,
    }
    emit(document, as_json, human)
