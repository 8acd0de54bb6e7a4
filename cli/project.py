"""``ctune init`` and ``ctune import``."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.options import ProjectDir, choice, names
from cli.output import AsJson, emit, progress

if TYPE_CHECKING:
    from rich.console import Console

    from ctune.config import Config
    from ctune.data.found import FoundCase
    from ctune.data.importing import ImportReport
    from ctune.data.splits import Splits

_SHOWN = 20


def init(
    directory: Annotated[Path, typer.Argument(help="Folder of the new project.")],
    preset: Annotated[
        str, typer.Option("--preset", help="Where settings start from: ct, phantom or mr.")
    ] = "ct",
    classes: Annotated[str, typer.Option("--classes", help="With commas; the preset's by default.")] = "",
    name: Annotated[str, typer.Option("--name", help="Of the project; the preset's by default.")] = "",
    as_json: AsJson = False,
) -> None:
    """Make a project: DIRECTORY with ctune.toml and an empty pool."""
    from ctune.classes import ClassList
    from ctune.config import CONFIG_NAME
    from ctune.config import preset as preset_of
    from ctune.project import create_project

    changes: dict[str, Any] = {"classes": tuple(ClassList.of(names(classes)))} if names(classes) else {}
    if name:
        changes["name"] = name
    project = create_project(directory, preset_of(preset, **changes))
    settings = project.root / CONFIG_NAME

    def human(console: Console) -> None:
        console.print(f"project {project.config.name} in {project.root}")
        console.print(f"classes: {', '.join(project.config.classes)}; settings: {settings}")
        console.print(f"next: `ctune import SRC --project {directory}`")

    document = {"project": project.root, "name": project.config.name, "settings": settings}
    emit({**document, "classes": project.config.classes}, as_json, human)


def import_(
    src: Annotated[
        Path,
        typer.Argument(
            help="A data set's folder, a list of images and labels, or one CT: NIfTI, NRRD, a DICOM series (folder or zip)."
        ),
    ],
    layout: Annotated[
        str,
        typer.Option("--layout", help="auto, msd, nnunet, totalsegmentator, abdomenatlas or list."),
    ] = "auto",
    labels: Annotated[
        str,
        typer.Option(
            "--labels",
            help="Numbers of label maps: 1=spleen,63=postcava or 1+2=liver; totalsegmentator; a JSON file.",
        ),
    ] = "",
    classes: Annotated[
        str, typer.Option("--classes", help="To take, with commas, or all; the project's by default.")
    ] = "",
    cases: Annotated[
        str, typer.Option("--cases", help="Ids with commas, or a file with one on each line.")
    ] = "",
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="Take the first so many cases.")] = None,
    split: Annotated[
        str | None,
        typer.Option("--split", help="Of all cases: pool, validation or test.", show_default="pool"),
    ] = None,
    test: Annotated[int, typer.Option("--test", min=0, help="Keep so many of these cases for testing.")] = 0,
    validation: Annotated[
        int, typer.Option("--validation", min=0, help="Keep so many of these cases for validation.")
    ] = 0,
    seed: Annotated[
        int | None,
        typer.Option("--seed", min=0, help="Of the draw of test and validation cases; the project's."),
    ] = None,
    source: Annotated[
        str | None,
        typer.Option(
            "--source", help="Of the masks: original, revised or predicted.", show_default="original"
        ),
    ] = None,
    author: Annotated[
        str | None, typer.Option("--author", help="Who drew the masks; the data set's name by default.")
    ] = None,
    label: Annotated[
        Path | None,
        typer.Option(
            "--label", help="Labels of SRC when that is one CT: a label map, .seg.nrrd or DICOM-SEG."
        ),
    ] = None,
    case_id: Annotated[
        str | None, typer.Option("--id", help="Case id of SRC when that is one image.")
    ] = None,
    root: Annotated[
        Path | None, typer.Option("--root", help="Where a list's paths start; the list's folder by default.")
    ] = None,
    with_unlabelled: Annotated[
        bool, typer.Option("--with-unlabelled", help="Also images that the data set keeps without labels.")
    ] = False,
    project: ProjectDir = None,
    as_json: AsJson = False,
) -> None:
    """Bring cases and their masks into the pool; what is refused is listed, and ends with exit code 1.

    Run again, it does only what is missing.
    """
    from ctune.data.importing import choose_cases, import_cases
    from ctune.data.labels import parse_labels
    from ctune.data.layouts import detect, find_cases
    from ctune.project import find_project
    from ctune.types import Source

    started, home = time.perf_counter(), find_project(project)
    kind = detect(src) if layout == "auto" else layout
    table = parse_labels(labels) if labels else None
    found = find_cases(
        src, kind, table, root=root, with_unlabelled=with_unlabelled, label_map=label, case_id=case_id
    )
    found = choose_cases(found, _ids(cases), limit)
    with progress("import", as_json) as on_progress:
        report = import_cases(
            home.pool,
            found,
            classes=_wanted(classes, found, home.config),
            aliases=home.config.aliases,
            splits=_splits(split, test, validation, home.config.seed if seed is None else seed),
            source=choice(Source, source, "--source") if source else None,
            author=author,
            on_progress=on_progress,
        )
    document = _document(kind, src, report, time.perf_counter() - started)
    emit(document, as_json, lambda console: _show(console, document, report))
    if report.refused:
        raise typer.Exit(1)


def _ids(text: str) -> list[str] | None:
    """The ids in a file, one on each line, or in the text itself, with commas; None for all."""
    from ctune.errors import UsageError

    if not text:
        return None
    path = Path(text)
    try:
        if not path.is_file():
            return names(text)
    except OSError:
        # A list of ids is longer than the name of any file can be.
        return names(text)
    try:
        return path.read_text(encoding="utf-8-sig").split()
    except UnicodeDecodeError as error:
        raise UsageError(f"expected ids in UTF-8 in {path}, got {error}; save it as UTF-8") from None


def _wanted(text: str, found: list[FoundCase], config: Config) -> list[str] | None:
    """The classes to take, None for all; those asked for must be in the data set, the project's need not."""
    from ctune.classes import ClassList
    from ctune.data.importing import check_classes

    if text.strip() == "all":
        return None
    if not names(text):
        return list(config.class_list)
    wanted = list(ClassList.of(names(text), config.aliases))
    check_classes(found, wanted, config.aliases)
    return wanted


def _splits(split: str | None, test: int, validation: int, seed: int) -> Splits:
    from ctune.data.splits import Splits
    from ctune.errors import UsageError
    from ctune.types import Split

    if split is None:
        return Splits(test, validation, seed)
    if test or validation:
        raise UsageError(f"expected --split or --test and --validation, got both; leave out --split {split}")
    return Splits(rest=choice(Split, split, "--split"), strict=True)


def _document(layout: str, src: Path, report: ImportReport, seconds: float) -> dict[str, Any]:
    kept = [case for case in report.cases if case.split is not None]
    return {
        "layout": layout,
        "source": src,
        "found": len(report.cases),
        "imported": len(report.of("imported")),
        "added": len(report.of("added")),
        "already_there": len(report.of("already there")),
        "refused": len(report.refused),
        "splits": dict(sorted(Counter(str(case.split) for case in kept).items())),
        "annotations": dict(sorted(Counter(name for case in kept for name in case.classes).items())),
        "skipped_classes": report.skipped,
        "unnamed_labels": report.unnamed,
        "seconds": round(seconds, 3),
        "cases": report.cases,
    }


def _show(console: Console, document: dict[str, Any], report: ImportReport) -> None:
    done = document
    console.print(
        f"{done['layout']}: {done['found']} cases found, {done['imported']} imported, "
        f"{done['added']} got annotations, "
        f"{done['already_there']} already there, {done['refused']} refused ({done['seconds']:.1f} s)"
    )
    for title, counts in (("splits", done["splits"]), ("annotations written", done["annotations"])):
        if counts:
            console.print(f"{title}: {_counts(counts)}")
    if report.skipped:
        console.print(f"left out, not asked for (`--classes all` takes them): {_counts(report.skipped)}")
    if report.unnamed:
        console.print(f"label numbers without a name: {_counts(report.unnamed)}")
    for case in report.cases:
        for text in case.notes:
            console.print(f"note on {case.id}: {text}")
    for case in report.refused:
        console.print(f"refused: {case.reason}")


def _counts(counts: Mapping[Any, int]) -> str:
    """{"liver": 3} as text, a long list cut: only the JSON document holds all."""
    listed = [f"{key} {count}" for key, count in counts.items()]
    rest = f" and {len(listed) - _SHOWN} more" if len(listed) > _SHOWN else ""
    return ", ".join(listed[:_SHOWN]) + rest
