"""``ctune bench``: one sub-command a benchmark, made from the catalogue."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from cli.options import choice
from cli.output import AsJson, emit, fail, progress
from ctune.bench.catalogue import BENCHES, Bench, Preset

if TYPE_CHECKING:
    from rich.console import Console

    from ctune.bench.result import BenchResult

app = typer.Typer(
    help="Measure what the loop costs and gives; each run leaves one JSON document with machine, versions and seeds, and a "
    "figure that breaks its bound ends the command with exit code 3.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

PresetName: TypeAlias = Annotated[str, typer.Option("--preset", help="How much is done: smoke, cpu or gpu.")]
Seeds: TypeAlias = Annotated[
    str, typer.Option("--seeds", help="With commas; by default 0 for smoke and 0,1,2 otherwise.")
]
Out: TypeAlias = Annotated[Path, typer.Option("--out", help="Folder of results; none is overwritten.")]
Work: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        "--work", help="Folder for parts of unfinished runs; below --out by default.", show_default=False
    ),
]
Minutes: TypeAlias = Annotated[
    float | None,
    typer.Option(
        "--minutes",
        min=0,
        help="Stop at the first step after so long; the same command goes on.",
        show_default=False,
    ),
]


def _command(bench: Bench) -> Callable[..., None]:
    def command(
        preset: PresetName = "smoke",
        seeds: Seeds = "",
        out: Out = Path("benchmarks/results"),
        work: Work = None,
        minutes: Minutes = None,
        as_json: AsJson = False,
    ) -> None:
        from ctune.bench.result import check_gates
        from ctune.bench.run import run_bench
        from ctune.errors import GateError

        size = choice(Preset, preset, "--preset")
        limit = math.inf if minutes is None else minutes
        with progress(bench.name, as_json) as on_progress:
            result, path = run_bench(
                bench.name, size, _seeds(seeds), out, work=work, minutes=limit, on_progress=on_progress
            )
        emit(result.document(), as_json, lambda console: _print(console, result, path))
        try:
            check_gates(result.gates)
        except GateError as error:
            fail(error, error.exit_code, as_json=False)  # the document is out already, and there is one

    command.__doc__ = bench.help
    return command


@app.callback()
def _group() -> None:
    # Without it, typer makes a group of one command into that command.
    pass


for _bench in BENCHES:
    app.command(_bench.name)(_command(_bench))


@app.command()
def report(
    results: Annotated[Path, typer.Option("--results", help="Folder of results.")] = Path(
        "benchmarks/results"
    ),
    markdown: Annotated[Path, typer.Option("--markdown", help="The page of tables.")] = Path(
        "docs/benchmarks.md"
    ),
    html: Annotated[Path, typer.Option("--html", help="The page with plots, in one file.")] = Path(
        "docs/benchmarks.html"
    ),
    as_json: AsJson = False,
) -> None:
    """Turn all results into a page of tables and a page with plots that needs nothing else."""
    from ctune.bench.report import write_pages

    found = write_pages(results, markdown, html)
    runs = {section.bench.name: [run.file for run in section.runs] for section in found}
    document = {"results": runs, "markdown": markdown, "html": html}
    emit(
        document,
        as_json,
        lambda console: console.print(f"{', '.join(runs)}: written to {markdown} and {html}"),
    )


def _seeds(text: str) -> list[int] | None:
    from ctune.errors import UsageError

    try:
        return [int(part) for part in text.split(",") if part.strip()] or None
    except ValueError:
        raise UsageError(f"expected whole numbers with commas for --seeds, got {text!r}") from None


def _print(console: Console, result: BenchResult, path: Path) -> None:
    from rich.table import Table

    table = Table("measure", "value", title=f"{result.what}, preset {result.preset}, on {result.device}")
    for name, value in result.measures.items():
        table.add_row(name, f"{value:.4g}" if isinstance(value, float) else str(value))
    console.print(table)
    for failure in result.failures:
        console.print(f"not measured: {failure}")
    console.print(f"{result.seconds:.0f} s, at most {result.peak_memory_mb:.0f} MiB; written to {path}")
