"""``ctune bench``: the document on stdout is the one that is written; a gate that fails ends with 3 after writing it."""

from __future__ import annotations

import inspect
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from cli import bench as command
from ctune.bench import catalogue, every
from ctune.bench.catalogue import BENCHES, Bench, Preset
from ctune.bench.run import MINUTES, run_bench, sizes
from ctune.errors import BenchPausedError, UsageError

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
        (
            ["--seeds", "0,0,0"],
            "expected different seeds from 0 up, such as 0,1,2, got 0,0,0; give each once",
        ),
        (["--seeds=-1"], "expected different seeds from 0 up, such as 0,1,2, got -1"),
        (["--seeds", ","], "expected different seeds from 0 up, such as 0,1,2, got none"),
        (["--out", "letters_bench.py"], "expected a folder for results, got the file letters_bench.py"),
    ],
)
def test_usage_errors(app: typer.Typer, arguments: list[str], text: str) -> None:
    assert text in str(runner.invoke(app, ["letters", *arguments]).exception)


def test_a_run_goes_on_in_the_sizes_with_which_it_began(
    app: typer.Typer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "sizes_bench.py").write_text(
        "from ctune.bench.catalogue import Preset\nfrom ctune.bench.result import Measured\nfrom ctune.bench.run import part\n"
        "SCALES = {Preset.SMOKE: 'epochs=12'}\n"
        "def run(preset, seeds, work, on_progress):\n"
        "    part(work / 'seed-0.json', dict)\n"
        "    assert SCALES[preset] != 'epochs=12', 'killed'\n"
        "    return Measured({'letters': 3})\n"
    )
    monkeypatch.setattr(catalogue, "BENCHES", (Bench("sizes", "sizes_bench:run", "Count."),))
    with pytest.raises(AssertionError, match="killed"):
        run_bench("sizes", "smoke", (0,))
    module = sys.modules["sizes_bench"]
    monkeypatch.setattr(module, "SCALES", {Preset.SMOKE: "epochs=40"})
    with pytest.raises(
        UsageError,
        match=r"expected the SCALES with which this run began, 'epochs=12', got 'epochs=40'; .*remove",
    ):
        run_bench("sizes", "smoke", (0,))
    assert (tmp_path / "benchmarks/results/.unfinished/sizes-smoke-seeds-0/seed-0.json").exists(), (
        "nothing is lost"
    )


def test_what_is_measured_once_takes_the_first_seed(
    app: typer.Typer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        catalogue, "BENCHES", (Bench("letters", "letters_bench:run", "Count letters.", once=True),)
    )
    answer = runner.invoke(app, ["letters", "--preset", "cpu", "--seeds", "4,5", "--json"])
    assert (json.loads(answer.stdout)["seeds"], json.loads(answer.stdout)["seeds_used"]) == ([4], [4])


def test_sizes_read_the_same_in_another_process() -> None:
    for bench in BENCHES:
        for preset in bench.presets:
            assert not [text for text in sizes(catalogue.load(bench), preset).values() if " at 0x" in text]


def pauses(*_: object, **__: object) -> None:
    raise BenchPausedError("stopped after 9.0 minutes in seeds at 1 of 3", {"what": "letters", "done": 1})


def test_a_pause_is_told_apart_from_a_failure(app: typer.Typer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ctune.bench.run.run_bench", pauses)
    answer = runner.invoke(app, ["letters", "--json"])
    assert answer.exit_code == 5 and answer.stderr.startswith("paused: stopped after 9.0 minutes")
    document = json.loads(answer.stdout)
    assert document.items() >= {"paused": True, "what": "letters", "done": 1}.items()
    assert runner.invoke(app, ["letters"]).stdout == ""


def test_a_loop_of_the_shell_ends_with_the_run(tmp_path: Path) -> None:
    """The line of docs/development.md, with a stand-in that pauses twice."""
    (tmp_path / "ctune").write_text(
        '#!/bin/sh\necho x >> runs\n[ "$(wc -l < runs)" -ge 3 ] && exit 0\nexit 5\n'
    )
    (tmp_path / "ctune").chmod(0o755)
    page = (Path(__file__).resolve().parents[1] / "docs" / "development.md").read_text(encoding="utf-8")
    (line,) = (text for text in page.splitlines() if text.startswith("$ while ctune bench"))
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(["sh", "-c", line[2:]], cwd=tmp_path, env=environment, timeout=20, check=False)
    assert done.returncode == 0 and len((tmp_path / "runs").read_text().splitlines()) == 3


def test_the_preset_gpu_stops_by_itself_and_others_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    assert MINUTES == {Preset.GPU: 9.0}


def test_alone_it_lists_the_benchmarks() -> None:
    answer = runner.invoke(command.app, [])
    assert answer.exit_code == 0 and all(bench.name in answer.stdout for bench in BENCHES)
    listed = json.loads(runner.invoke(command.app, ["--json"]).stdout)["benchmarks"]
    assert [each["name"] for each in listed] == [bench.name for bench in BENCHES]
    assert all(("gpu" in each["presets"]) != bool(each["no_gpu"]) for each in listed), (
        "a reason, or the preset"
    )


def letters(*names: str) -> tuple[Bench, ...]:
    return tuple(Bench(name, f"none:{name}", "Letters.") for name in names)


@pytest.fixture
def three(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A catalogue of one benchmark that measures, one whose gate says no, one that needs what is not here, one that breaks."""
    source = """
        import sys
        from ctune.bench.result import Gate, Measured
        from ctune.errors import BenchNotHereError, UsageError
        from ctune.bench import catalogue
        from ctune.bench.catalogue import Bench, Preset
        def good(preset, seeds, work, on_progress):
            return Measured({"letters": 3}, gates=[Gate(figure="letters", value=3, bound=4, reference="docs")])
        def bad(preset, seeds, work, on_progress):
            return Measured({"letters": 5}, gates=[Gate(figure="letters", value=5, bound=4, reference="docs")])
        def away(preset, seeds, work, on_progress):
            raise BenchNotHereError("expected a browser")
        def odd(preset, seeds, work, on_progress):
            raise UsageError("expected a reason")
        def broken(preset, seeds, work, on_progress):
            raise KeyError("a cable")
        NAMES = ("good", "bad", "away", "odd", "broken")
        catalogue.BENCHES = tuple(Bench(n, f"sitecustomize:{n}", "Letters.", tuple(Preset)) for n in NAMES)
    """
    # Each runs in a process of its own, which has to know them too.
    (tmp_path / "sitecustomize.py").write_text(inspect.cleandoc(source))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(every, "BENCHES", letters("good", "bad", "away", "odd", "broken"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_all_that_can_run_here_runs_and_the_summary_says_the_rest(
    three: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = runner.invoke(command.app, ["all", "--json"])
    found = json.loads(answer.stdout)
    assert list(found["results"]) == ["good", "bad"] and found["results"]["good"]["measures"] == {
        "letters": 3
    }
    assert (three / found["results"]["good"]["path"]).exists() and found["results"]["bad"]["passed"] is False
    assert found["not_run"] == {"away": "expected a browser"} and "a cable" in found["failed"]["broken"]
    assert answer.exit_code == 1 and "broken failed" in answer.stderr
    assert not (three / "benchmarks" / "results" / ".unfinished").exists()
    assert found["failed"]["odd"].startswith("expected a reason"), (
        "asked wrongly is not the same as not to be had here"
    )
    monkeypatch.setattr(every, "BENCHES", letters("good", "away"))
    assert runner.invoke(command.app, ["all"]).exit_code == 0


def test_all_goes_on_where_its_minutes_were_over(three: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(every, "BENCHES", letters("good", "bad"))
    answer = runner.invoke(command.app, ["all", "--json", "--minutes", "0"])
    assert answer.exit_code == 5 and json.loads(answer.stdout)["done"] == ["good"]
    assert runner.invoke(command.app, ["all"]).exit_code == 3
    written = sorted(path.name for path in (three / "benchmarks" / "results").glob("*.json"))
    assert written == ["bad-smoke-cpu.json", "good-smoke-cpu.json"], "nothing is measured twice"


def test_every_benchmark_is_a_command() -> None:
    names = {registered.name for registered in command.app.registered_commands}
    assert names >= {"all", *(bench.name for bench in BENCHES)}
