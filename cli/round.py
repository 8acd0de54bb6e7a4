"""``ctune round start|status|resume|abandon``."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.executors import Address, Cores, ExecutorName, Workers, executor_of
from cli.options import ProjectDir, names
from cli.output import AsJson, emit, note, progress

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from ctune.project import Project
    from ctune.round import History, RoundState

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


@app.command()
def start(
    model: Annotated[
        str, typer.Argument(help="The model to start from: NAME, NAME:VERSION, NAME@ALIAS or sha256:...")
    ],
    classes: Annotated[
        str,
        typer.Option("--classes", help="Classes to revise, with commas; all of the project's by default."),
    ] = "",
    cases: Annotated[
        int | None, typer.Option("--cases", min=1, help="How many cases the expert gets.")
    ] = None,
    annotations: Annotated[
        int | None,
        typer.Option("--annotations", min=1, help="At most so many classes of cases.", show_default=False),
    ] = None,
    minutes: Annotated[
        float | None,
        typer.Option(
            "--minutes", min=0.1, help="At most so many of the expert's minutes.", show_default=False
        ),
    ] = None,
    strategy: Annotated[
        str | None,
        typer.Option(
            "--strategy", help="importance, uncertainty, random, diverse or stratified.", show_default=False
        ),
    ] = None,
    expert: Annotated[str, typer.Option("--expert", help="Who revises.")] = "expert",
    simulate: Annotated[
        Path | None,
        typer.Option("--simulate", help="Folder with the hidden truth: a simulated expert revises."),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Register heads that are worse than those they replace.")
    ] = False,
    executor: ExecutorName = "local",
    address: Address = "auto",
    workers: Workers = None,
    cores: Cores = None,
    project: ProjectDir = None,
    as_json: AsJson = False,
) -> None:
    """Predict the pool, score it, select cases; with a simulated expert go on to the new version of the model."""
    from ctune.model.text import text_table
    from ctune.project import find_project
    from ctune.review.state import open_leases
    from ctune.round import start as start_round
    from ctune.select import asked_classes
    from ctune.strategy import FORGETFUL

    found = find_project(project)
    digest = found.open_registry().resolve(model)
    heads = getattr(found.open_registry().record_of(digest), "heads", {})
    known = dict.fromkeys([*found.config.classes, *heads, *text_table().names])
    what = "the project's, the model's and those with a text vector"
    wanted = asked_classes(names(classes), known, found.config.aliases, what) or found.config.classes
    if found.config.tune.unlabelled == "background":
        note(f"WARNING: {FORGETFUL}")
    with progress("round", as_json) as on_progress:
        state = start_round(
            found,
            name=model.partition(":")[0].partition("@")[0]
            if not model.startswith("sha256:")
            else found.config.name,
            model=digest,
            classes=wanted,
            cases=cases,
            strategy=strategy,
            expert=expert,
            truth=simulate,
            annotations=annotations,
            minutes=minutes,
            leased=partial(open_leases, found.root),
            force=force,
            executor=executor_of(executor, address, workers, cores),
            on_progress=on_progress,
        )
    _show(found, state, as_json)


@app.command()
def status(project: ProjectDir = None, as_json: AsJson = False) -> None:
    """Every round and where it stands; mean Dice of each class after each, accuracy, backward transfer, forgetting;
    and whether the queue still holds real errors."""
    from ctune.project import find_project
    from ctune.round import changes, history, rounds
    from ctune.stop import advise

    found = find_project(project)
    states, past, advice = rounds(found), history(found), advise(changes(found))

    def human(console: Console) -> None:
        if not states:
            console.print("no rounds yet; begin one with `ctune round start MODEL`")
        for state in states:
            console.print(_line(state))
        if past.stages:
            console.print(_table(past))
        if past.continual:
            c = past.continual
            console.print(f"ACC {c.acc:.3f}, BWT {c.bwt:+.3f}, forgetting {c.forgetting:.3f}")
        if advice:
            console.print(advice.text)

    document = {
        "rounds": [_document(s) for s in states],
        "scores": past.stages,
        "continual": past.continual,
        "advice": advice,
    }
    emit(document, as_json, human)


@app.command()
def resume(
    go_on: Annotated[
        bool, typer.Option("--with-what-there-is", help="Go on although selected cases lack a revision.")
    ] = False,
    executor: ExecutorName = "local",
    address: Address = "auto",
    workers: Workers = None,
    cores: Cores = None,
    project: ProjectDir = None,
    as_json: AsJson = False,
) -> None:
    """Go on with the unfinished round: after a kill, or when the expert has handed in revisions."""
    from ctune.project import find_project
    from ctune.review.state import open_leases
    from ctune.round import resume as resume_round

    found = find_project(project)
    with progress("round", as_json) as on_progress:
        state = resume_round(
            found,
            revisions_are_complete=go_on,
            leased=partial(open_leases, found.root),
            executor=executor_of(executor, address, workers, cores),
            on_progress=on_progress,
        )
    _show(found, state, as_json)


@app.command()
def abandon(
    why: Annotated[str, typer.Option("--why", help="The reason, for whoever reads the list of rounds.")] = "",
    project: ProjectDir = None,
    as_json: AsJson = False,
) -> None:
    """Give up the unfinished round. Nothing is removed: what experts handed in counts, and the next round may begin."""
    from ctune.project import find_project
    from ctune.round import abandon as abandon_round

    found = find_project(project)
    _show(found, abandon_round(found, why=why), as_json)


def _show(project: Project, state: RoundState, as_json: bool) -> None:
    from ctune.round import ARROWS, folder_of, unrevised
    from ctune.select import read_csv
    from ctune.validate import Change, refusal

    tuned = state.arrows["tune"].summary if "tune" in state.arrows else {}
    for name, change in tuned.get("changes", {}).items():
        if name in tuned["kept"] and Change(**change).worse:
            note(f"note: {refusal(name, Change(**change))}")
    table = folder_of(project, state.number) / "selection.csv"
    missing = unrevised(project, read_csv(table)) if state.next_arrow == "revise" else {}

    def human(console: Console) -> None:
        console.print(_line(state))
        if state.next_arrow == "revise":
            console.print(f"cases to revise, most important first: {table}")
            for case_id, classes in list(missing.items())[:10]:
                console.print(f"  {case_id}: {', '.join(classes)}")
            if len(missing) > 10:
                console.print(f"  and {len(missing) - 10} more")
            console.print("hand masks in with `ctune revise FOLDER --expert NAME`, then `ctune round resume`")
        for arrow in ARROWS:
            if arrow in state.arrows:
                console.print(f"  {arrow:<9} {state.arrows[arrow].seconds:8.1f} s")

    emit({**_document(state), "unrevised": missing}, as_json, human)


def _table(past: History) -> Table:
    from rich.table import Table

    table = Table(
        "class", *("before" if n == 0 else f"round {n}" for n in past.stages), title="mean Dice, test cases"
    )
    last = list(past.stages.values())[-1]
    for name in last:
        found = [stage.get(name) for stage in past.stages.values()]
        table.add_row(name, *("-" if s is None or s.dice is None else f"{s.dice:.3f}" for s in found))
    return table


def _document(state: RoundState) -> dict[str, Any]:
    return {
        **state.model_dump(mode="json"),
        "next": state.next_arrow,
        "waiting": state.next_arrow == "revise",
    }


def _line(state: RoundState) -> str:
    if state.abandoned:
        where = f"abandoned {state.abandoned}" + (f": {state.why}" if state.why else "")
    elif state.next_arrow:
        where = f"stands before {state.next_arrow}"
    else:
        where = f"over: sha256:{(state.model_out or '')[:12]}"
    said = state.arrows["register"].summary if "register" in state.arrows else {}
    stayed = f"; kept the old head of {', '.join(said['kept'])}" if said.get("kept") else ""
    onto = f"; on {said['onto']}, which came meanwhile" if said.get("onto") else ""
    return f"round {state.number} of {state.name}: {', '.join(state.classes)}; {where}{stayed}{onto}"
