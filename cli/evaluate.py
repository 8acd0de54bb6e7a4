"""``ctune evaluate``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.executors import Address, Cores, ExecutorName, Workers, executor_of
from cli.options import ProjectDir, choice, on_disk
from cli.output import AsJson, emit, progress
from cli.runtimes import ModelOrFile, RuntimeName, opened

if TYPE_CHECKING:
    from rich.console import Console


def evaluate(
    model: ModelOrFile,
    split: Annotated[str, typer.Option("--split", help="test, validation or pool.")] = "test",
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder for scores.csv and scores.json.")
    ] = None,
    runtime: RuntimeName = "torch",
    executor: ExecutorName = "local",
    address: Address = "auto",
    workers: Workers = None,
    cores: Cores = None,
    project: ProjectDir = None,
    as_json: AsJson = False,
) -> None:
    """Dice, NSD and HD95 per case and class; a missed organ counts as 0 Dice and the image diagonal, never NaN."""
    from ctune.cohort import evaluate_cases
    from ctune.evaluate import summarise
    from ctune.pool_work import Evaluate, evaluate_on
    from ctune.project import find_project
    from ctune.types import Split

    found = find_project(project)
    digest, config, open_runtime = opened(found, model, runtime, None)
    folder = (
        on_disk(out, "--out") if out else found.root / "evaluations" / _name(model, runtime, digest) / split
    )
    which, where = choice(Split, split, "--split"), executor_of(executor, address, workers, cores)
    with progress("evaluate", as_json) as on_progress:
        if where is None:
            scores = evaluate_cases(
                found, open_runtime(), folder, split=which, config=config, on_progress=on_progress
            )
        else:
            scores = evaluate_on(where, Evaluate(open_runtime, found, config), folder, which, on_progress)
    summary = summarise(scores)

    def human(console: Console) -> None:
        from rich.table import Table

        table = Table("class", "Dice", "NSD", "HD95 mm", "cases", "misses", "false positives")
        for name, row in summary.items():
            table.add_row(
                name,
                _number(row.dice),
                _number(row.nsd),
                _number(row.hd95_mm, 1),
                *map(str, (row.cases, row.misses, row.false_positives)),
            )
        console.print(table)
        console.print(f"per case and class: {folder}")

    emit({"model": digest, "split": split, "classes": summary, "folder": folder}, as_json, human)


def _name(model: str, runtime: str, digest: str) -> str:
    """A folder's name: a file's scores are not those of the model that it was made of."""
    from ctune.data.files import sha256_of

    return digest[:16] if runtime == "torch" else f"{digest[:16]}-{runtime}-{sha256_of(Path(model))[:16]}"


def _number(value: float | None, digits: int = 3) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
