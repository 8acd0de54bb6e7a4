"""``ctune score``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.executors import Address, Cores, ExecutorName, Workers, executor_of
from cli.options import ProjectDir, names
from cli.output import AsJson, emit, progress

if TYPE_CHECKING:
    from rich.console import Console


def score(
    predictions: Annotated[
        list[Path] | None,
        typer.Argument(
            help="Folder that `ctune predict --flips -o` wrote; several, of several models, are scored as one ensemble.",
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
    from ctune.data.files import read_json
    from ctune.errors import UsageError
    from ctune.executors.local import Local
    from ctune.importance import write_importances, write_weights
    from ctune.importance.pool import scoring
    from ctune.pool_work import Score, score_on
    from ctune.project import find_project
    from ctune.round.calibration import learned_weights

    found, folders = find_project(project), predictions or [Path("predictions")]
    each = [{path.parent.name for path in folder.glob("*/prediction.json")} for folder in folders]
    for folder, there in zip(folders, each, strict=True):
        if not there:
            raise UsageError(
                f"expected predictions in {folder}, found none; run `ctune predict MODEL --flips -o {folder}` first"
            )
    ids = sorted(set.intersection(*each))
    if len(ids) < max(len(there) for there in each):
        raise UsageError(
            f"expected the same cases in {' and '.join(str(f) for f in folders)}, got {[len(e) for e in each]} with "
            f"{len(ids)} in common; predict what is missing"
        )
    wanted = names(classes) or read_json(folders[0] / ids[0] / "prediction.json")["classes"]
    weights = learned_weights(found)
    how = scoring(
        [folder.resolve() for folder in folders], ids, (out / "attention").resolve(), classes=wanted, config=found.config,
        weights=weights, per_class=per_class,
    )  # fmt: skip
    with progress("score", as_json) as on_progress:
        scored = score_on(
            executor_of(executor, address, workers, cores) or Local(), Score(how, found), ids, on_progress
        )
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
