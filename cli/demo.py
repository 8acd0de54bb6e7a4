"""``ctune demo``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.output import AsJson, emit, progress

if TYPE_CHECKING:
    from rich.console import Console


def demo(
    out: Annotated[Path, typer.Option("--out", help="Folder for the project that the demo leaves.")] = Path(
        "ctune-demo"
    ),
    size: Annotated[
        str, typer.Option("--size", help="laptop (minutes) or tiny (seconds, shows only that it runs).")
    ] = "laptop",
    seed: Annotated[
        int, typer.Option("--seed", min=0, help="Of the cohort, the networks and the expert.")
    ] = 0,
    as_json: AsJson = False,
) -> None:
    """Train a base on five organs, add four more from a few revised cases, improve them, and show what was forgotten."""
    from ctune.demo import STAGES, document, run_demo

    with progress("demo", as_json) as on_progress:
        result = run_demo(out, size, seed, on_progress)

    def human(console: Console) -> None:
        from rich.table import Table

        table = Table("class", "before", "after round 1", "after round 2", title="Dice on the test cases")
        for name, row in result.dice.items():
            table.add_row(name, *("-" if row[s] is None else f"{row[s]:.3f}" for s in STAGES))
        console.print(table)
        console.print(
            f"change of unrevised logits: {'exactly 0' if result.unrevised_max_abs_logit_change == 0 else result.unrevised_max_abs_logit_change}"
        )
        console.print(f"{result.seconds:.0f} s; project: {result.project}; look at {result.report}")

    emit(document(result), as_json, human)
