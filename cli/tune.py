"""``ctune tune``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.options import ProjectDir, names
from cli.output import AsJson, emit, note, progress

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rich.console import Console

    from ctune.continual import Tuning


def tune(
    model: Annotated[
        str, typer.Argument(help="The model to tune: NAME, NAME:VERSION, NAME@ALIAS or sha256:...")
    ],
    classes: Annotated[
        str, typer.Option("--classes", help="To tune, with commas; one that the model lacks is added.")
    ],
    name: Annotated[
        str | None, typer.Option("--name", help="Of the new version; the model's own by default.")
    ] = None,
    data: Annotated[
        str | None,
        typer.Option("--data", help="Learn from: hybrid, revised-only or full; tune.data by default."),
    ] = None,
    trainable: Annotated[
        str | None,
        typer.Option(
            "--trainable", help="What moves: heads, heads+decoder or all; tune.trainable by default."
        ),
    ] = None,
    head: Annotated[
        str | None,
        typer.Option("--head", help="Kind of the heads: keep, text or pyramid; tune.head by default."),
    ] = None,
    from_scratch: Annotated[
        bool, typer.Option("--from-scratch", help="Begin with a fresh base and fresh heads, same recipe.")
    ] = False,
    unlabelled: Annotated[
        str | None,
        typer.Option(
            "--unlabelled",
            help="masked, or background, which teaches that what nobody annotated is not there: it forgets.",
        ),
    ] = None,
    reuse: Annotated[
        float | None,
        typer.Option(
            "--reuse",
            min=0,
            max=1,
            help="Share of the cases annotated earlier that train again, such as 0.1; tune.reuse by default.",
        ),
    ] = None,
    scores: Annotated[
        Path | None,
        typer.Option(
            "--scores",
            help="What `ctune score` wrote: the most important of the earlier cases train again first; tune.scores by default.",
        ),
    ] = None,
    epochs: Annotated[int | None, typer.Option("--epochs", min=1, help="tune.epochs by default.")] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Register heads that are worse than those they replace.")
    ] = False,
    project: ProjectDir = None,
    as_json: AsJson = False,
) -> None:
    """Tune the heads of revised classes and register them; nothing else moves, unless --trainable says so.

    The validation cases choose the weights that are kept. A head that is worse there than the one it replaces is not
    registered (exit code 3); the others are.
    """
    from ctune.foundation import retune_model
    from ctune.optimise import resolve_device
    from ctune.project import adjusted, find_project
    from ctune.strategy import FORGETFUL, senseless
    from ctune.validate import HOW_TO_VALIDATE, refusal, refusal_of_all

    wanted = {
        "data": data,
        "trainable": trainable,
        "head": head,
        "unlabelled": unlabelled,
        "reuse": reuse,
        "scores": None if scores is None else str(scores.resolve()),
        "epochs": epochs,
    }
    changes: dict[str, Any] = {key: value for key, value in wanted.items() if value is not None}
    found = adjusted(find_project(project), "tune", changes | ({"start": "scratch"} if from_scratch else {}))
    if found.config.tune.unlabelled == "background":
        note(f"WARNING: {FORGETFUL}")
    for said in senseless(found.config.tune):
        note(f"note: {said}")
    with progress("tune", as_json) as on_progress:
        digest, done = retune_model(
            found,
            model,
            names(classes),
            name=name,
            force=force,
            device=resolve_device(found.config.device),
            on_progress=on_progress,
        )
    document = _document(digest, names(classes), done)
    emit(document, as_json, lambda console: _show(console, document, done))
    settings = found.config.tune
    if settings.reuse and settings.data != "full" and not done.reused:
        note(
            f"note: reuse = {settings.reuse:g} found no case to train again: people annotated what trains in no pool case "
            "but those that train already"
        )
    for class_name, change in done.changes.items():
        if class_name in done.kept and change.worse:
            note(f"error: {refusal(class_name, change)}")
    if rest := [name for name in done.kept if name not in done.changes or not done.changes[name].worse]:
        note(f"error: {refusal_of_all(rest, done.changes)}")
    if done.unchecked:
        note(
            f"note: {', '.join(done.unchecked)} moved with the base, and no validation case annotates "
            f"{'it' if len(done.unchecked) == 1 else 'them'}: nobody compared old and new; {HOW_TO_VALIDATE}"
        )
    if done.onto:
        lost = (
            f"; its {', '.join(done.over)} came meanwhile too, was replaced and not compared"
            if done.over
            else ""
        )
        note(
            f"note: {done.onto} came meanwhile: the new heads went on top of it, the others are its own{lost}"
        )
    if done.beside:
        note(
            f"note: {', '.join(done.beside)} came meanwhile; the new version has none of its heads, tune those on it too"
        )
    if done.kept:
        raise typer.Exit(3)


def _document(digest: str, classes: list[str], done: Tuning) -> dict[str, Any]:
    from ctune.outcome import validation_of

    return {
        "model": digest,
        "classes": classes,
        "registered": [name for name in done.annotations if name not in done.kept],
        "kept": done.kept,
        "steps": done.result.steps,
        "losses": done.result.losses,
        "validation": validation_of(done.result),
        "changes": done.changes,
        "unchecked": done.unchecked,
        "reused": done.reused,
        "onto": done.onto or None,
        "beside": done.beside,
        "seconds": done.result.seconds,
        "unrevised_max_abs_logit_change": max(done.proof.max_abs_change.values(), default=0.0)
        if done.proof
        else None,
    }


def _show(console: Console, document: Mapping[str, Any], done: Tuning) -> None:
    new = ", ".join(document["registered"])
    what = f"new heads of {new}" if new else "no new version"
    console.print(f"sha256:{document['model'][:12]}: {what} ({done.result.seconds:.1f} s)")
    show_validation(console, document["validation"])
    if done.proof:
        console.print(
            f"unrevised classes: logits changed by {document['unrevised_max_abs_logit_change']:g} on "
            f"{done.proof.voxels:,} compared values"
        )


def show_validation(console: Console, validation: Mapping[str, Any]) -> None:
    """What the validation cases said of the weights that were kept, a line a class, and which classes they know not."""
    from ctune.validate import HOW_TO_VALIDATE

    for name, found in validation.items():
        if found is not None and found["dice"] is not None:
            console.print(
                f"{name}: Dice {found['dice']:.3f} ({found['low']:.3f} to {found['high']:.3f}) on "
                f"{found['cases']} validation cases, after epoch {found['epoch']}"
                + (
                    "; not looked at while it trained (validate_every = 0)"
                    if found.get("looks") == []
                    else ""
                )
            )
    if unseen := [name for name, found in validation.items() if found is None]:
        whom = "what was tuned" if unseen == ["all"] else ", ".join(unseen)
        console.print(f"no validation case annotates {whom}: the last weights were kept; {HOW_TO_VALIDATE}")
