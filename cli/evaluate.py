"""``ctune evaluate``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.executors import Address, Cores, ExecutorName, Workers, executor_of
from cli.options import ProjectDir, choice
from cli.output import AsJson, emit, progress

if TYPE_CHECKING:
    from rich.console import Console


def evaluate(
    model: Annotated[str, typer.Argument(help="NAME, NAME:VERSION, NAME@ALIAS or sha256:...")],
    split: Annotated[str, typer.Option("--split", help="test, validation or pool.")] = "test",
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder for scores.csv and scores.json.")
    ] = None,
    executor: ExecutorName = "local",
    address: Address = "auto",
    workers: Workers = None,
    cores: Cores = None,
    project: ProjectDir = None,
    as_json: AsJson = False,
) -> None:
    """Dice, NSD and HD95 per case and class; a missed organ counts as 0 Dice and the image diagonal, never NaN."""
    from functools import partial

    from ctune.cohort import evaluate_cases
    from ctune.compositions import load_model
    from ctune.evaluate import summarise
    from ctune.optimise import resolve_device
    from ctune.pool_work import Evaluate, evaluate_on, open_network
    from ctune.project import find_project
    from ctune.types import Split

    found = find_project(project)
    registry = found.open_registry()
    digest = registry.resolve(model)
    folder = out or found.root / "evaluations" / digest[:16] / split
    which, where = choice(Split, split, "--split"), executor_of(executor, address, workers, cores)
    with progress("evaluate", as_json) as on_progress:
        if where is None:
            network = load_model(registry, f"sha256:{digest}", resolve_device(found.config.device)).network
            scores = evaluate_cases(found, network, folder, split=which, on_progress=on_progress)
        else:
            work = Evaluate(partial(open_network, found, digest, found.config.device), found)
            scores = evaluate_on(where, work, folder, which, on_progress)
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


def _number(value: float | None, digits: int = 3) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
