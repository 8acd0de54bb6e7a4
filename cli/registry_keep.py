"""``ctune registry verify|gc|export|import|push|pull``: keep a registry sound, clean and in more than one place."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import typer

from cli.options import ProjectDir
from cli.output import AsJson, emit, progress
from cli.registry_options import Reference, RegistryDir, open_registry
from cli.review import audit_problems

if TYPE_CHECKING:
    from rich.console import Console

    from registry.parcel import Moved

Rename: TypeAlias = Annotated[
    str | None, typer.Option("--as", metavar="NAME", help="Take it in under another name.")
]
Url: TypeAlias = Annotated[
    str, typer.Argument(help="A folder or any fsspec URL, such as s3://bucket/models.")
]


def verify(
    weights: Annotated[
        bool, typer.Option("--weights", help="Load all weights too and take their fingerprints anew.")
    ] = False,
    project: ProjectDir = None,
    registry: RegistryDir = None,
    as_json: AsJson = False,
) -> None:
    """Hash everything again, follow every reference and event; exit code 4 when something is damaged or missing."""
    opened = open_registry(project, registry)
    if weights:
        from ctune.compositions import fingerprint_of_weights

        report = opened.verify(fingerprint_of_weights)
    else:
        report = opened.verify()
    # What experts did on the review page is vouched for beside what the models became.
    problems = (*report.problems, *audit_problems(project, registry))

    def human(console: Console) -> None:
        for problem in problems:
            console.print(problem, markup=False)
        state = f"{len(problems)} problems" if problems else "all is well"
        console.print(
            f"{report.blobs} blobs, {report.records} records, {report.versions} versions, {report.events} events: {state}"
        )
        if report.orphans or report.leftovers:
            console.print(
                f"{len(report.orphans)} blobs that no record needs and {report.leftovers} files of killed processes: "
                "harmless, `ctune registry gc` deletes them when they are old"
            )

    emit({**report.__dict__, "problems": problems, "clean": not problems}, as_json, human)
    if problems:
        raise typer.Exit(4)


def gc(
    delete: Annotated[
        bool, typer.Option("--delete", help="Delete; without it only say what would go.")
    ] = False,
    grace_days: Annotated[
        float, typer.Option(min=0.0, help="Keep what was registered within these days.")
    ] = 14.0,
    project: ProjectDir = None,
    registry: RegistryDir = None,
    as_json: AsJson = False,
) -> None:
    """Find what no version of any model leads to, and delete it with --delete; versions are never deleted."""
    report = open_registry(project, registry).collect(dry=not delete, grace_s=grace_days * 86400.0)

    def human(console: Console) -> None:
        did = "would delete" if report.dry else "deleted"
        console.print(
            f"{did} {len(report.records)} records, {len(report.blobs)} blobs ({report.bytes / 2**20:.1f} MiB) and "
            f"{report.leftovers} files of killed processes"
        )

    emit(report.__dict__, as_json, human)


def export(
    reference: Reference,
    out: Annotated[Path, typer.Argument(help="The file to write, a plain tar.")],
    project: ProjectDir = None,
    registry: RegistryDir = None,
    as_json: AsJson = False,
) -> None:
    """Write a model and all that it needs into one file, to carry on a disk."""
    from registry.archive import export as write

    done = write(open_registry(project, registry), reference, out)
    emit(
        {**done.__dict__, "file": out}, as_json, lambda console: _print(console, [done], f"written to {out}")
    )


def import_(
    source: Annotated[Path, typer.Argument(help="A file that `ctune registry export` wrote.")],
    rename: Rename = None,
    project: ProjectDir = None,
    registry: RegistryDir = None,
    as_json: AsJson = False,
) -> None:
    """Take in the model of such a file; its version keeps its number, and nothing that is here changes."""
    from registry.archive import import_archive
    from registry.registry import check_actor

    done = import_archive(open_registry(project, registry), source, rename=rename, actor=check_actor(None))
    emit(done.__dict__, as_json, lambda console: _print(console, [done], f"taken in from {source}"))


def push(
    url: Url,
    references: Annotated[list[str] | None, typer.Argument(help="Models to send; all without it.")] = None,
    project: ProjectDir = None,
    registry: RegistryDir = None,
    as_json: AsJson = False,
) -> None:
    """Send models to a mirror; only what it lacks travels, and a push that was cut off goes on where it stopped."""
    from registry.mirror import push as send

    with progress("push", as_json) as on_progress:
        done = send(open_registry(project, registry), url, references or (), _listener("push", on_progress))
    emit({"url": url, "models": done}, as_json, lambda console: _print(console, done, f"sent to {url}"))


def pull(
    url: Url,
    references: Annotated[
        list[str] | None, typer.Argument(help="NAME (the newest) or NAME:VERSION; all without it.")
    ] = None,
    rename: Rename = None,
    project: ProjectDir = None,
    registry: RegistryDir = None,
    as_json: AsJson = False,
) -> None:
    """Bring models from a mirror; versions keep their numbers, and only what is missing here travels."""
    from registry.mirror import pull as bring
    from registry.registry import check_actor

    opened = open_registry(project, registry)
    with progress("pull", as_json) as on_progress:
        done = bring(
            opened, url, references or (), rename=rename, actor=check_actor(None), on_moved=_listener("pull", on_progress)
        )  # fmt: skip
    emit({"url": url, "models": done}, as_json, lambda console: _print(console, done, f"brought from {url}"))


COMMANDS: dict[str, Callable[..., None]] = {
    "verify": verify,
    "gc": gc,
    "export": export,
    "import": import_,
    "push": push,
    "pull": pull,
}


def _listener(stage: str, on_progress: Any) -> Any:
    from ctune.types import Progress

    return lambda done, total, what: on_progress(Progress(stage, done, total, what))


def _print(console: Console, moved: list[Moved], where: str) -> None:
    for one in moved:
        label = f"{one.name}:{one.version}" if one.name else f"sha256:{one.model[:12]}"
        console.print(
            f"{label} {where}: {one.records} records and {one.blobs} blobs ({one.bytes / 2**20:.1f} MiB)",
            markup=False,
        )
