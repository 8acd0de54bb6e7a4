"""``ctune bench``: the document on stdout is the one that is written; a gate that fails ends with 3 after writing it."""

from __future__ import annotations

import inspect
import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from cli import bench as command
from ctune.bench import catalogue
from ctune.bench.catalogue import BENCHES, Bench

runner = CliRunner()


@pytest.fixture
def app(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> typer.Typer:
    """A ``ctune`` with one benchmark, whose figure is its preset's number of letters."""
    source = """
        from ctune.bench.result import Gate, Measured
        def run(preset, seeds, work, on_progress):
            gate = Gate(figure="letters", value=len(preset), bound=4, reference="docs")
            return Measured({"letters": len(preset), "seeds_used": list(seeds)}, failures=["vowels"], gates=[gate])
    """
    (tmp_path / "letters_bench.py").write_text(inspect.cleandoc(source))
    monkeypatch.syspath_prepend(str(tmp_path))
    bench = Bench("letters", "letters_bench:run", "Count letters.")
    monkeypatch.setattr(catalogue, "BENCHES", (bench,))
    monkeypatch.chdir(tmp_path)
    group = typer.Typer(pretty_exceptions_enable=False)
    group.command("letters")(command._command(bench))
    group.callback()(lambda: None)
    return group


def test_the_document_is_printed_and_written(app: typer.Typer, tmp_path: Path) -> None:
    answer = runner.invoke(app, ["letters", "--preset", "cpu", "--seeds", "4,5", "--json", "--out", "found"])
    assert answer.exit_code == 0, answer.output
    document = json.loads(answer.stdout)
    assert document == json.loads((tmp_path / "found" / "letters-cpu-cpu.json").read_text())
    assert (document["what"], document["letters"], document["seeds"]) == ("letters", 3, [4, 5])


def test_people_get_a_table_and_what_was_not_measured(app: typer.Typer) -> None:
    answer = runner.invoke(app, ["letters", "--preset", "cpu"])
    assert answer.exit_code == 0
    assert "letters, preset cpu, on cpu" in answer.stdout and "not measured: vowels" in answer.stdout
    assert "written to benchmarks/results/letters-cpu-cpu.json" in answer.stdout


def test_a_failed_gate_ends_with_three_and_keeps_the_document(app: typer.Typer, tmp_path: Path) -> None:
    answer = runner.invoke(app, ["letters", "--preset", "smoke", "--json"])
    assert answer.exit_code == 3
    assert json.loads(answer.stdout)["gates"][0]["passed"] is False
    assert answer.stderr.startswith("error: letters: expected at most 4, got 5; reference: docs;")
    assert (tmp_path / "benchmarks" / "results" / "letters-smoke-cpu.json").exists()


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--preset", "huge"], "expected one of smoke, cpu, gpu for --preset, got 'huge'"),
        (["--seeds", "one"], "expected whole numbers with commas for --seeds, got 'one'"),
    ],
)
def test_usage_errors(app: typer.Typer, arguments: list[str], text: str) -> None:
    assert text in str(runner.invoke(app, ["letters", *arguments]).exception)


def test_every_benchmark_is_a_command() -> None:
    names = {registered.name for registered in command.app.registered_commands}
    assert names >= {bench.name for bench in BENCHES}
