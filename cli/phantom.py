"""``ctune phantom``."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.output import AsJson, emit, progress

if TYPE_CHECKING:
    from rich.console import Console


def phantom(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Where the cohort is written.")],
    cases: Annotated[int, typer.Option("--cases", min=1, help="How many.")] = 10,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Same seed, same bytes.")] = 0,
    size: Annotated[
        str, typer.Option("--size", help="small (48x40x40), medium (128x112x112) or ct (512x512x200).")
    ] = "small",
    as_json: AsJson = False,
) -> None:
    """Write synthetic abdominal CTs with the masks of nine organs, in TotalSegmentator's layout."""
    from ctune.data.phantom import write_cohort

    started = time.perf_counter()
    with progress("phantom", as_json) as on_progress:
        ids = write_cohort(directory, cases, seed, size, on_progress)
    seconds = time.perf_counter() - started

    def human(console: Console) -> None:
        console.print(f"{len(ids)} cases in {directory}, {seconds:.1f} s")

    emit(
        {"directory": directory, "cases": ids, "seed": seed, "size": size, "seconds": seconds}, as_json, human
    )
