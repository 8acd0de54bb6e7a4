"""``ctune registry compose|alias|promote|rollback``: what models there are and which one is meant."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.options import ProjectDir
from cli.output import AsJson, emit, note
from cli.registry_options import Reference, RegistryDir, open_registry

if TYPE_CHECKING:
    from rich.console import Console

    from registry.gate import Verdict
    from registry.promote import Promotion


def compose(
    base: Annotated[str, typer.Argument(help="The model whose other heads are kept, or a base's digest.")],
    head: Annotated[
        list[str], typer.Option("--head", metavar="CLASS=REF", help="Take the head of a class from a model.")
    ],
    name: Annotated[str | None, typer.Option(help="Register the result as a version of this name.")] = None,
    text: Annotated[str, typer.Option("--note", help="Why.")] = "",
    project: ProjectDir = None,
    registry: RegistryDir = None,
    as_json: AsJson = False,
) -> None:
    """Put a model together from the best heads of several: `compose abdomen:5 --head aorta=abdomen:3 --name abdomen`."""
    from ctune.errors import UsageError

    heads = dict(part.split("=", 1) for part in head if "=" in part)
    if len(heads) != len(head):
        raise UsageError(f"expected --head CLASS=REFERENCE, each class once, got {' '.join(head)}")
    opened = open_registry(project, registry)
    digest = opened.compose(base, heads, note=text)
    version = opened.add_version(name, digest, note=text) if name else None

    def human(console: Console) -> None:
        console.print(f"{version or 'model'} sha256:{digest}")

    emit({"model": digest, "name": name, "version": version.version if version else None}, as_json, human)


def alias(
    name: Annotated[str, typer.Argument(help="The model's name, or NAME:VERSION to point an alias at it.")],
    to: Annotated[
        str | None, typer.Argument(metavar="[ALIAS]", help="The alias to set; all are listed without it.")
    ] = None,
    project: ProjectDir = None,
    registry: RegistryDir = None,
    as_json: AsJson = False,
) -> None:
    """List a model's aliases, or point one at a version unasked: `ctune registry alias abdomen:3 staging`."""
    from registry.errors import InvalidNameError
    from registry.names import parse
    from registry.promote import version_of

    opened = open_registry(project, registry)
    wanted = parse(name)
    if wanted.name is None:
        raise InvalidNameError(f"expected NAME or NAME:VERSION, got {name!r}; an alias belongs to a name")
    if to is not None:
        opened.set_alias(wanted.name, to, version_of(opened, name).version)
    found = {text: number for (_, text), number in opened.aliases(wanted.name).items()}

    def human(console: Console) -> None:
        for text, number in found.items():
            console.print(f"{wanted.name}@{text} -> {wanted.name}:{number}")

    emit({"name": wanted.name, "aliases": found}, as_json, human)


def promote(
    reference: Reference,
    to: Annotated[str, typer.Option("--to", metavar="ALIAS", help="The alias to move.")],
    gate: Annotated[
        bool, typer.Option("--gate/--no-gate", help="Refuse when a class falls by more than the margin.")
    ] = True,
    metric: Annotated[str, typer.Option(help="Score that the gate looks at: dice or nsd.")] = "dice",
    margin: Annotated[float, typer.Option(min=0.0, max=1.0, help="How much a class's mean may fall.")] = 0.02,
    confidence: Annotated[
        float, typer.Option(min=0.5, max=0.999, help="Of the fall's one-sided interval.")
    ] = 0.95,
    least_cases: Annotated[int, typer.Option(min=1, help="Shared cases that the gate asks for.")] = 5,
    seed: Annotated[int, typer.Option(min=0, help="Of the bootstrap over cases.")] = 0,
    project: ProjectDir = None,
    registry: RegistryDir = None,
    as_json: AsJson = False,
) -> None:
    """Point an alias at a better version; exit code 3 when a class falls by more than the margin where both were evaluated."""
    from registry.gate import Gate

    rule = Gate(metric, margin, confidence, seed=seed, least_cases=least_cases) if gate else None
    done = open_registry(project, registry).promote(reference, to, gate=rule)
    if gate and done.verdict is None:
        note(f"{done.name}@{done.alias} pointed nowhere else before: there was nothing to compare with")

    def human(console: Console) -> None:
        if done.verdict:
            console.print(_verdict(done.verdict, metric))
        _print_move(console, done)

    emit(_document(done), as_json, human)


def rollback(
    reference: Annotated[str, typer.Argument(metavar="NAME@ALIAS", help="The alias to move back.")],
    project: ProjectDir = None,
    registry: RegistryDir = None,
    as_json: AsJson = False,
) -> None:
    """Point an alias at where it pointed before; once more goes one further back."""
    done = open_registry(project, registry).rollback(reference)
    emit(_document(done), as_json, lambda console: _print_move(console, done))


COMMANDS: dict[str, Callable[..., None]] = {
    "compose": compose,
    "alias": alias,
    "promote": promote,
    "rollback": rollback,
}


def _document(done: Promotion) -> dict[str, Any]:
    return dict(done.__dict__)


def _print_move(console: Console, done: Promotion) -> None:
    before = f"was {done.name}:{done.before}" if done.before else "is new"
    console.print(f"{done.name}@{done.alias} -> {done.name}:{done.after} ({before})")


def _verdict(verdict: Verdict, metric: str) -> Any:
    from rich.table import Table

    table = Table(
        "class", f"{metric} before", "after", "change", "at least", "cases", title=f"{verdict.split}, {verdict.cases} cases"
    )  # fmt: skip
    for row in verdict.classes:
        after, change, lower = (
            "-" if value is None else f"{value:{form}}"
            for value, form in ((row.after, ".3f"), (row.change, "+.3f"), (row.lower, "+.3f"))
        )
        table.add_row(row.class_name, f"{row.before:.3f}", after, change, lower, str(row.cases))
    return table
