"""``ctune registry``: the table of its commands, and those that look: list, show, log, diff.

Those that change a registry are in ``cli.registry_change``, those that check, clean and move it in ``cli.registry_keep``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli import registry_change, registry_checkpoint, registry_keep
from cli.options import ProjectDir
from cli.output import AsJson, emit
from cli.registry_options import Reference, RegistryDir, open_registry

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.tree import Tree

    from registry.history import Difference, Node

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


@app.command("list")
def list_(
    name: Annotated[str | None, typer.Argument(help="List the versions of this model.")] = None,
    project: ProjectDir = None,
    registry: RegistryDir = None,
    as_json: AsJson = False,
) -> None:
    """Every model with its newest version and aliases, or every version of one."""
    opened = open_registry(project, registry)
    if name is not None:
        opened.resolve(name)
        pointing: dict[int, list[str]] = {}
        for (_, text), number in opened.aliases(name).items():
            pointing.setdefault(number, []).append(text)
        rows = [{**v.__dict__, "aliases": pointing.get(v.version, [])} for v in opened.versions(name)]
        emit({"name": name, "versions": rows}, as_json, lambda console: console.print(_versions(rows)))
        return
    names = opened.names()

    def human(console: Console) -> None:
        from rich.table import Table

        table = Table("model", "versions", "aliases", "digest", "registered", "note")
        for row in names:
            aliases = " ".join(f"{a}={number}" for a, number in row.aliases.items())
            latest = row.latest
            table.add_row(
                str(latest), str(row.versions), aliases, latest.digest[:12], _time(latest.created), _text(latest.note)
            )  # fmt: skip
        console.print(table if names else "nothing is registered yet; `ctune train` registers a first model")

    emit({"models": names}, as_json, human)


@app.command()
def show(
    reference: Reference,
    project: ProjectDir = None,
    registry: RegistryDir = None,
    as_json: AsJson = False,
) -> None:
    """A model card: base, a head per class with round, data, experts and scores, and where the model came from."""
    from registry.card import card

    document = card(open_registry(project, registry), reference)
    emit(document, as_json, lambda console: _print_card(console, document))


@app.command()
def log(
    reference: Annotated[str | None, typer.Argument(help="A model or a name; all without it.")] = None,
    events: Annotated[bool, typer.Option("--events", help="Who did what, when, instead.")] = False,
    project: ProjectDir = None,
    registry: RegistryDir = None,
    as_json: AsJson = False,
) -> None:
    """The history as a tree: which model came from which, and which classes changed; or, with --events, who did what."""
    from registry.history import log as history

    opened = open_registry(project, registry)
    if events:
        happened = opened.events(reference)

        def human(console: Console) -> None:
            for event in happened:
                details = " ".join(f"{k}={_brief(v)}" for k, v in event.details.items() if v is not None)
                text = f"{_time(event.time)}  {event.actor:12} {event.action:9} {event.name}  {details}"
                console.print(text, markup=False)

        emit({"events": happened}, as_json, human)
        return
    nodes = history(opened, reference)

    def tree(console: Console) -> None:
        for root in _trees(nodes):
            console.print(root)

    emit({"models": nodes}, as_json, tree)


@app.command()
def diff(
    before: Reference,
    after: Reference,
    metric: Annotated[str, typer.Option(help="Score to put side by side: dice, nsd, hd95_mm.")] = "dice",
    project: ProjectDir = None,
    registry: RegistryDir = None,
    as_json: AsJson = False,
) -> None:
    """Which classes' heads differ between two models, their scores side by side, and the cases added."""
    from registry.history import diff as compare

    found = compare(open_registry(project, registry), before, after, metric)
    emit(found.__dict__, as_json, lambda console: _print_diff(console, found))


for title, function in {
    **registry_change.COMMANDS,
    **registry_keep.COMMANDS,
    **registry_checkpoint.COMMANDS,
}.items():
    app.command(title)(function)


def _print_card(console: Console, card: dict[str, Any]) -> None:
    console.print(f"{card['kind']} sha256:{card['digest']}")
    if card["kind"] != "model":
        console.print_json(data=card["record"])
        return
    base, record = card["base"], card["record"]
    console.print(" ".join([*card["versions"], *card["aliases"]]) or "(no name)", markup=False)
    console.print(f"round {record['round']}   {record['note']}", markup=False)
    console.print(
        f"base sha256:{base['digest'][:12]} {base['architecture']}, trained on {', '.join(base['classes'])}"
    )
    for parent in card["lineage"]:
        label = " ".join(parent["versions"]) or f"sha256:{parent['digest'][:12]}"
        console.print(f"from {label}, round {parent['round']}", markup=False)
    console.print(_heads(card["classes"]))


def _heads(classes: dict[str, dict[str, Any]]) -> Table:
    from rich.table import Table

    table = Table("class", "head", "kind", "round", "cases", "annotations", "experts", "Dice", "of", "misses")
    for name, head in classes.items():
        scores = head["scores"]
        used = ", ".join(f"{count} {source}" for source, count in head["annotations"].items())
        counts = [str(scores.get(key, "-")) for key in ("cases", "misses")]
        head_text = (name, head["digest"][:12], head["kind"], str(head["round"]), str(head["cases"]), used)
        table.add_row(*head_text, ", ".join(head["experts"]), _number(scores.get("dice")), *counts)
    return table


def _versions(rows: list[dict[str, Any]]) -> Table:
    from rich.table import Table

    table = Table("model", "aliases", "digest", "registered", "note")
    for row in rows:
        label = f"{row['name']}:{row['version']}"
        table.add_row(
            label, " ".join(row["aliases"]), row["digest"][:12], _time(row["created"]), _text(row["note"])
        )
    return table


def _trees(nodes: list[Node]) -> list[Tree]:
    """One tree per model without a parent here; a model of several parents hangs on the first and names the others."""
    from rich.tree import Tree

    made: dict[str, Tree] = {}
    roots = []
    for node in nodes:
        label = " ".join(node.labels) or f"sha256:{node.digest[:12]}"
        changed = ", ".join(node.changed) or "no head"
        if node.parents:
            also = f" (also from {', '.join(p[:12] for p in node.parents[1:])})" if node.parents[1:] else ""
            text = f"{label}  round {node.round}: {changed}{also}"
            made[node.digest] = made[node.parents[0]].add(_text(text))
        else:
            made[node.digest] = Tree(_text(f"{label}  {changed}"))
            roots.append(made[node.digest])
    return roots


def _print_diff(console: Console, found: Difference) -> None:
    from rich.table import Table

    if not found.same_base:
        console.print("the two have different bases: none of their heads fits the other")
    before, after = f"{found.metric} before", f"{found.metric} after"
    table = Table("class", "head", before, after, "cases added", "cases removed")
    for row in found.classes:
        scores = _number(row.score_before), _number(row.score_after)
        added, removed = (_some(cases) for cases in (row.cases_added, row.cases_removed))
        table.add_row(row.class_name, row.change, *scores, added, removed)
    console.print(table)


def _some(cases: tuple[str, ...]) -> str:
    return ", ".join(cases[:4]) + (f" and {len(cases) - 4} more" if len(cases) > 4 else "")


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _time(text: str) -> str:
    return text[:19].replace("T", " ")


def _text(text: str) -> Any:
    # A note may hold square brackets: they are no markup.
    from rich.text import Text

    return Text(text)


def _brief(value: Any) -> str:
    return (
        str(value)[:12]
        if isinstance(value, str)
        else f"({len(value)})"
        if hasattr(value, "__len__")
        else str(value)
    )
