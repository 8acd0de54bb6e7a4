"""``ctune registry list|show|alias|verify``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.options import ProjectDir
from cli.output import AsJson, emit

if TYPE_CHECKING:
    from rich.console import Console

    from registry import Registry

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


@app.command("list")
def list_(project: ProjectDir = None, as_json: AsJson = False) -> None:
    """Every version of every model, with its aliases."""
    registry = _open(project)
    aliases = registry.aliases()
    rows = [
        {
            **version.__dict__,
            "aliases": [
                a
                for (name, a), number in aliases.items()
                if (name, number) == (version.name, version.version)
            ],
        }
        for version in registry.versions()
    ]

    def human(console: Console) -> None:
        from rich.table import Table

        table = Table("model", "aliases", "digest", "registered", "note")
        for row in rows:
            created = str(row["created"])[:19].replace("T", " ")
            table.add_row(
                f"{row['name']}:{row['version']}",
                " ".join(row["aliases"]),
                row["digest"][:12],
                created,
                row["note"],
            )
        console.print(table if rows else "nothing is registered yet; `ctune train` registers a first model")

    emit({"versions": rows}, as_json, human)


@app.command()
def show(
    reference: Annotated[str, typer.Argument(help="NAME, NAME:VERSION, NAME@ALIAS or sha256:...")],
    project: ProjectDir = None,
    as_json: AsJson = False,
) -> None:
    """One record: of a model its base, its head per class with round and data, its parents and its scores."""
    registry = _open(project)
    digest = registry.resolve(reference)
    record = registry.record_of(digest)
    document: dict[str, Any] = {"digest": digest, "record": record, "measured": registry.measured(digest)}
    if record.kind == "model":
        document["heads"] = {name: _head(registry, head) for name, head in record.heads.items()}
        document["evaluations"] = [
            {"split": e.split, "summary": e.summary} for e in registry.evaluations(digest)
        ]

    def human(console: Console) -> None:
        console.print(f"{record.kind} sha256:{digest}")
        if record.kind != "model":
            console.print_json(record.model_dump_json())
            return
        console.print(f"base   sha256:{record.base[:12]}   round {record.round}   {record.note}")
        for parent in record.parents:
            console.print(f"parent sha256:{parent[:12]}")
        console.print(_heads_table(document))

    emit(document, as_json, human)


@app.command()
def alias(
    name: Annotated[str, typer.Argument(help="The model's name, or NAME:VERSION to point an alias at it.")],
    to: Annotated[
        str | None, typer.Argument(metavar="[ALIAS]", help="The alias to set; all are listed without it.")
    ] = None,
    project: ProjectDir = None,
    as_json: AsJson = False,
) -> None:
    """List a model's aliases, or point one at a version: `ctune registry alias abdomen:3 production`."""
    from registry.errors import InvalidNameError
    from registry.names import parse

    registry = _open(project)
    wanted = parse(name)
    if wanted.name is None:
        raise InvalidNameError(f"expected NAME or NAME:VERSION, got {name!r}; an alias belongs to a name")
    if to is not None:
        version = next(
            v for v in registry.versions(wanted.name) if v.digest == registry.resolve(name)
        ).version
        registry.set_alias(wanted.name, to, wanted.version or version)
    found = {a: number for (_, a), number in registry.aliases(wanted.name).items()}

    def human(console: Console) -> None:
        for text, number in found.items():
            console.print(f"{wanted.name}@{text} -> {wanted.name}:{number}")

    emit({"name": wanted.name, "aliases": found}, as_json, human)


@app.command()
def verify(project: ProjectDir = None, as_json: AsJson = False) -> None:
    """Hash everything again, follow every reference; exit code 4 when something is damaged or missing."""
    report = _open(project).verify()

    def human(console: Console) -> None:
        for problem in report.problems:
            console.print(problem)
        state = "all is well" if report.clean else f"{len(report.problems)} problems"
        console.print(f"{report.blobs} blobs, {report.records} records, {report.versions} versions: {state}")
        if report.orphans:
            console.print(f"{len(report.orphans)} blobs that nothing refers to (harmless)")

    emit({**report.__dict__, "clean": report.clean}, as_json, human)
    if not report.clean:
        raise typer.Exit(4)


def _open(project: Any) -> Registry:
    from ctune.project import find_project

    return find_project(project).open_registry()


def _head(registry: Registry, digest: str) -> dict[str, Any]:
    record = registry.record_of(digest)
    assert record.kind == "head"
    sources: dict[str, int] = {}
    for used in record.annotations:
        sources[used.source] = sources.get(used.source, 0) + 1
    return {
        "digest": digest,
        "kind": record.head_kind,
        "round": record.round,
        "parent": record.parent,
        "annotations": sources,
        "experts": record.experts,
        "measured": registry.measured(digest),
    }


def _heads_table(document: dict[str, Any]) -> Any:
    from rich.table import Table

    table = Table("class", "head", "kind", "round", "tuned on", "experts", "Dice", "cases")
    evaluations = document["evaluations"]
    summary = evaluations[-1]["summary"] if evaluations else {}
    for name, head in document["heads"].items():
        row = summary.get(name, {})
        dice = f"{row['dice']:.3f}" if row.get("dice") is not None else "-"
        used = ", ".join(f"{count} {source}" for source, count in head["annotations"].items())
        table.add_row(
            name, head["digest"][:12], head["kind"], str(head["round"]), used, ", ".join(head["experts"]), dice, str(row.get("cases", "-"))
        )  # fmt: skip
    return table
