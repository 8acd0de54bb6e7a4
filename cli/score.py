"""``ctune score``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.executors import Address, Cores, ExecutorName, Workers, executor_of
from cli.options import ProjectDir, names, on_disk
from cli.output import AsJson, emit, progress

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from ctune.data.cases_at_url import CasesAtUrl
    from ctune.importance.pool import Scoring
    from ctune.importance.weights import Weights
    from ctune.project import Project


def score(
    predictions: Annotated[
        list[str] | None,
        typer.Argument(
            help="Folder or URL that `ctune predict --probabilities -o` wrote; several, of several models, are scored as one ensemble.",
            show_default="predictions",
        ),
    ] = None,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="For scores.json, weights.json and attention maps.")
    ] = Path("scores"),
    classes: Annotated[
        str, typer.Option("--classes", help="With commas; all that were predicted by default.")
    ] = "",
    per_class: Annotated[
        bool, typer.Option("--per-class", help="Also write an attention map for each class.")
    ] = False,
    executor: ExecutorName = "local",
    address: Address = "auto",
    workers: Workers = None,
    cores: Cores = None,
    project: ProjectDir = None,
    as_json: AsJson = False,
) -> None:
    """Score where predictions are likely wrong, per case and class, with the minutes to revise; run again, it does what is
    missing."""
    from ctune.data.cases_at_url import CasesAtUrl, place_of
    from ctune.executors.local import Local
    from ctune.importance import write_importances, write_weights
    from ctune.pool_work import Score, score_on
    from ctune.project import find_project
    from ctune.round.calibration import learned_weights

    found, places = find_project(project), [place_of(text) for text in predictions or ["predictions"]]
    weights = learned_weights(found)
    ids, how = _how(found, places, on_disk(out, "--out") / "attention", names(classes), weights, per_class)
    at_urls = tuple(p if isinstance(p, CasesAtUrl) else p.resolve() for p in places)
    work = Score(how, found, at_urls if any(isinstance(p, CasesAtUrl) for p in places) else ())
    with progress("score", as_json) as on_progress:
        scored = score_on(executor_of(executor, address, workers, cores) or Local(), work, ids, on_progress)
    write_importances(out / "scores.json", scored)
    write_weights(out / "weights.json", weights)
    ranked = sorted(scored, key=lambda s: (-s.score, s.case_id))

    def human(console: Console) -> None:
        for row in ranked[:10]:
            worst = row.classes[row.order[0]]
            console.print(f"{row.score:8.2f}  {row.minutes:5.1f} min  {row.case_id}  {worst.reason}")
        console.print(weights.describe())

    document = {"scores": {s.case_id: s.score for s in ranked}, "weights": weights, "out": out}
    emit({**document, "minutes": {s.case_id: s.minutes for s in ranked}}, as_json, human)


def _how(
    project: Project,
    places: Sequence[Path | CasesAtUrl],
    out: Path,
    classes: Sequence[str],
    weights: Weights,
    per_class: bool,
) -> tuple[list[str], Scoring]:
    """The cases that are predicted in all places, and how they are scored. Raises UsageError where some are missing."""
    from tempfile import TemporaryDirectory

    from ctune.errors import UsageError
    from ctune.importance.files import record_of
    from ctune.importance.judged import judged_volumes
    from ctune.importance.pool import scoring
    from ctune.select import asked_classes

    with TemporaryDirectory(prefix="ctune-") as scratch:
        # Of what is at a URL the records alone are needed here: a few lines a case.
        folders = [
            place.resolve() if isinstance(place, Path) else Path(scratch) / str(number)
            for number, place in enumerate(places)
        ]
        for place, folder in zip(places, folders, strict=True):
            if not isinstance(place, Path):
                place.bring_records(folder)
        each = [{path.parent.name for path in folder.glob("*/prediction.json")} for folder in folders]
        for place, cases in zip(places, each, strict=True):
            if not cases:
                raise UsageError(
                    f"expected predictions in {place}, found none; run `ctune predict MODEL --probabilities -o {place}` first"
                )
        ids = sorted(set.intersection(*each))
        if len(ids) < max(len(cases) for cases in each):
            raise UsageError(
                f"expected the same cases in {' and '.join(map(str, places))}, got {[len(e) for e in each]} with "
                f"{len(ids)} in common; predict what is missing"
            )
        there = record_of(folders[0] / ids[0])["classes"]
        wanted = asked_classes(classes, there, project.config.aliases, "those that were predicted") or there
        how = scoring(
            folders, ids, out.resolve(), classes=wanted, config=project.config, weights=weights,
            judged=judged_volumes(project, wanted), per_class=per_class,
            files=all(isinstance(place, Path) for place in places),
        )  # fmt: skip
    return ids, how
