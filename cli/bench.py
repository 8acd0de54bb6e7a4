"""``ctune bench``: one sub-command a benchmark, made from the catalogue, and one for all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import typer

from cli.options import choice
from cli.output import AsJson, emit, fail, note, progress
from ctune.bench.catalogue import BENCHES, Bench, Preset

if TYPE_CHECKING:
    from rich.console import Console

    from ctune.bench.result import BenchResult

app = typer.Typer(
    help="Measure what the loop costs and gives; each run leaves one JSON document with machine, versions and seeds. A "
    "figure that breaks its bound ends the command with exit code 3; a run that stopped because its minutes were over ends "
    "it with 5, and the same command goes on. Alone, it lists the benchmarks.",
    invoke_without_command=True,
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
        help="Stop at the first step after so long, with exit code 5; the same command goes on. By default 9 for the preset "
        "gpu and never for others; inf never stops.",
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
        with _paused_told(as_json), progress(bench.name, as_json) as on_progress:
            result, path = run_bench(
                bench.name, size, _seeds(seeds), out, work=work, minutes=minutes, on_progress=on_progress
            )
        emit(result.document(), as_json, lambda console: _print(console, result, path))
        try:
            check_gates(result.gates)
        except GateError as error:
            fail(error, error.exit_code, as_json=False)  # the document is out already, and there is one

    command.__doc__ = bench.help
    return command


@app.callback()
def _group(context: typer.Context, as_json: AsJson = False) -> None:
    if context.invoked_subcommand is None:
        benches = [
            {"name": b.name, "presets": [str(p) for p in b.presets], "help": b.help, "no_gpu": b.no_gpu}
            for b in BENCHES
        ]
        emit({"benchmarks": benches}, as_json, _list)


for _bench in BENCHES:
    app.command(_bench.name)(_command(_bench))


@app.command("all")
def every(
    preset: PresetName = "smoke",
    seeds: Seeds = "",
    out: Out = Path("benchmarks/results"),
    work: Work = None,
    minutes: Minutes = None,
    as_json: AsJson = False,
) -> None:
    """Every benchmark that can run here, one after the other: a JSON document each, and a summary.

    Exit code 1 when one failed, 3 when a gate said no; what cannot run here is listed with the reason.
    """
    from ctune.bench.every import run_all
    from ctune.errors import CtuneError, GateError

    size = choice(Preset, preset, "--preset")
    with _paused_told(as_json), progress("all", as_json) as on_progress:
        found = run_all(size, _seeds(seeds), out, work=work, minutes=minutes, on_progress=on_progress)
    emit(found, as_json, lambda console: _print_all(console, found))
    if failed := found["failed"]:
        error = CtuneError("; ".join(f"{name} failed: {message}" for name, message in failed.items()))
        fail(error, error.exit_code, as_json=False)
    if broken := found["broken"]:
        no = GateError("; ".join(f"{name}: {message}" for name, message in broken.items()))
        fail(no, no.exit_code, as_json=False)


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
    from ctune.bench.report.pages import write_pages

    found = write_pages(results, markdown, html)
    runs = {section.bench.name: [run.file for run in section.runs] for section in found}
    document = {"results": runs, "markdown": markdown, "html": html}
    emit(
        document,
        as_json,
        lambda console: console.print(f"{', '.join(runs)}: written to {markdown} and {html}"),
    )


@contextmanager
def _paused_told(as_json: bool) -> Iterator[None]:
    """A pause is no failure: with `as_json` its document goes to stdout, without it a line to stderr; exit code 5."""
    from ctune.errors import BenchPausedError

    try:
        yield
    except BenchPausedError as pause:
        if as_json:
            emit({**pause.document, "message": str(pause)}, as_json, lambda _: None)
        note(f"paused: {pause}")
        raise typer.Exit(pause.exit_code) from None


def _list(console: Console) -> None:
    from rich.table import Table

    table = Table("benchmark", "presets", "what it measures")
    for bench in BENCHES:
        without = f" No preset gpu: {bench.no_gpu}." if bench.no_gpu else ""
        table.add_row(bench.name, ", ".join(bench.presets), bench.help + without)
    console.print(table)


def _print_all(console: Console, found: Mapping[str, Any]) -> None:
    from rich.table import Table

    table = Table("benchmark", "seconds", "gates", "written to", title=f"all, preset {found['preset']}")
    for name, one in found["results"].items():
        kept = f"{sum(g['passed'] for g in one['gates'])} of {len(one['gates'])} kept"
        table.add_row(name, f"{one['seconds']:.0f}", kept, one["path"])
    console.print(table)
    for name, why in found["not_run"].items():
        console.print(f"not run: {name}: {why}")


def _seeds(text: str) -> list[int] | None:
    from ctune.errors import UsageError

    if not text:
        return None
    try:
        return [int(part) for part in text.split(",") if part.strip()]
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
