"""Benchmarks as documents: what a run writes, how it resumes, what a gate says."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from ctune.bench import catalogue
from ctune.bench.catalogue import BENCHES, Bench, Preset, find_bench, load
from ctune.bench.machine import device_name
from ctune.bench.result import Gate, Measured, all_results, check_gates, read_result
from ctune.bench.run import part, plain, run_bench
from ctune.errors import BenchPausedError, DataError, GateError, UsageError
from ctune.types import OnProgress, Progress

MADE: list[int] = []
"""Seeds whose part was measured, not read."""
FAULTS: list[Exception] = []
"""What the next run raises after its first seed."""


def measure_seed(seed: int) -> dict[str, float]:
    MADE.append(seed)
    return {"dice": 0.5 + seed / 10}


def run(preset: str, seeds: Sequence[int], work: Path, on_progress: OnProgress) -> Measured:
    """A benchmark that one can picture: a figure a seed, each a part of its own."""
    dice = []
    for done, seed in enumerate(seeds):
        dice.append(part(work / f"seed-{seed}.json", measure_seed, seed)["dice"])
        on_progress(Progress("seeds", done + 1, len(seeds)))
        if FAULTS:
            raise FAULTS.pop()
    gate = Gate(figure="dice", value=min(dice), bound=0.4, reference="0.5, seed 0", at_most=False)
    return Measured(
        {"dice": min(dice), "of_none": math.nan}, {"cases": dice}, ["a case"], {"a": "f" * 64}, [gate]
    )


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        catalogue, "BENCHES", (Bench("dice", f"{__name__}:run", "Dice.", (Preset.SMOKE, Preset.CPU)),)
    )
    MADE.clear()
    FAULTS.clear()


@pytest.mark.parametrize("bench", BENCHES, ids=lambda b: b.name)
def test_every_benchmark_of_the_catalogue_can_be_loaded(bench: Bench) -> None:
    assert callable(load(bench))


def test_a_run_is_one_flat_document(tmp_path: Path) -> None:
    result, path = run_bench("dice", "smoke", None, tmp_path)
    document = json.loads(path.read_text())
    assert path.name == "dice-smoke-cpu.json" and document == result.document()
    said = {
        "schema_version": 2,
        "what": "dice",
        "preset": "smoke",
        "device": "cpu",
        "seeds": [0],
        "dice": 0.5,
    }
    assert document.items() >= said.items()
    assert document["of_none"] is None and document["measures"] == ["dice", "of_none"]
    assert document["details"] == {"cases": [0.5]} and document["failures"] == ["a case"]
    assert document["data"] == {"a": "f" * 64}
    assert document["versions"].keys() >= {"ctune", "python", "numpy"}
    assert document["machine"]["cores"] >= 1 and document["peak_memory_mb"] > 10 and document["seconds"] >= 0
    assert document["gates"] == [
        {
            "figure": "dice",
            "value": 0.5,
            "bound": 0.4,
            "reference": "0.5, seed 0",
            "at_most": False,
            "passed": True,
        }
    ]
    assert read_result(path) == result


def test_no_run_overwrites_another_and_nothing_unfinished_stays(tmp_path: Path) -> None:
    names = [run_bench("dice", "cpu", [3], tmp_path)[1].name for _ in range(3)]
    assert names == ["dice-cpu-cpu.json", "dice-cpu-cpu-2.json", "dice-cpu-cpu-3.json"]
    assert MADE == [3, 3, 3], "a finished run leaves nothing that the next could take for its own"
    assert not (tmp_path / ".unfinished").exists()


def test_what_was_stopped_goes_on(tmp_path: Path) -> None:
    FAULTS.append(KeyError("a cable"))
    with pytest.raises(KeyError):
        run_bench("dice", "cpu", None, tmp_path)
    assert MADE == [0] and list(tmp_path.glob("*.json")) == []
    result, _ = run_bench("dice", "cpu", None, tmp_path)
    assert MADE == [0, 1, 2] and result.details["cases"] == [0.5, 0.6, 0.7]
    assert len(result.attempts) == 2 and result.started == result.attempts[0].started
    assert result.seconds == pytest.approx(sum(a.seconds for a in result.attempts), abs=0.02)


def test_other_seeds_are_another_run(tmp_path: Path) -> None:
    FAULTS.append(KeyError("a cable"))
    with pytest.raises(KeyError):
        run_bench("dice", "cpu", [0, 1], tmp_path)
    result, _ = run_bench("dice", "cpu", [0], tmp_path)
    assert MADE == [0, 0] and len(result.attempts) == 1


def test_a_run_stops_when_its_time_is_over_and_goes_on(tmp_path: Path) -> None:
    said = "stopped after 0.0 minutes in seeds at 1 of 3; the same command goes on"
    with pytest.raises(BenchPausedError, match=said):
        run_bench("dice", "cpu", None, tmp_path, minutes=0)
    result, _ = run_bench("dice", "cpu", None, tmp_path)
    assert MADE == [0, 1, 2] and len(result.attempts) == 2
    run_bench(
        "dice", "cpu", [7], tmp_path, minutes=0
    )  # the last step is the end: there is nothing to go on with


def test_a_gate_says_figure_bound_and_reference() -> None:
    slow = Gate(figure="register_ratio", value=4.25, bound=3.0, reference="1.4 on two cores")
    few = Gate(figure="dice", value=math.nan, bound=0.5, reference="0.61, seed 0", at_most=False)
    with pytest.raises(GateError) as caught:
        check_gates([slow, few])
    assert str(caught.value) == (
        "register_ratio: expected at most 3, got 4.25; reference: 1.4 on two cores; dice: expected at least 0.5, got nan; "
        "reference: 0.61, seed 0; find what made it worse, or move the bound and say why"
    )
    assert caught.value.exit_code == 3
    at_its_bound = [
        Gate(figure="x", value=3.0, bound=3.0, reference="", at_most=side) for side in (True, False)
    ]
    check_gates(at_its_bound)


def test_errors_name_what_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="expected a benchmark of dice, got 'speed'"):
        find_bench("speed")
    with pytest.raises(UsageError, match="expected one of smoke, cpu for dice, got 'gpu'"):
        run_bench("dice", "gpu", None, tmp_path)
    hiding = Measured({"seeds": 1})
    monkeypatch.setattr(f"{__name__}.run", lambda *_: hiding)
    with pytest.raises(DataError, match="expected measures with names of their own, got seeds; rename them"):
        run_bench("dice", "smoke", None, tmp_path)


def test_without_an_accelerator_its_preset_is_refused() -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is an accelerator here")
    with pytest.raises(
        UsageError, match="expected a CUDA device for --preset gpu, got none; choose --preset cpu or smoke"
    ):
        device_name("gpu")
    assert {device_name(preset) for preset in ("smoke", "cpu")} == {"cpu"}


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (
            {"schema_version": 3},
            "expected schema version 1 or 2 in .*, got 3; measure again, or use that ctune",
        ),
        ({"seeds": "many"}, "expected the result of a benchmark in .*seeds"),
        ({"surprise": 1}, "expected the result of a benchmark in .*surprise"),
        ({"measures": ["gone"]}, "expected the result of a benchmark in .*gone"),
    ],
)
def test_another_document_is_no_result(tmp_path: Path, change: dict[str, object], text: str) -> None:
    _, path = run_bench("dice", "smoke", None, tmp_path)
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(DataError, match=text):
        read_result(path)


def test_memory_of_an_accelerator_that_was_not_there_is_not_read(tmp_path: Path) -> None:
    _, path = run_bench("dice", "smoke", None, tmp_path)
    old = json.loads(path.read_text())
    old |= {"schema_version": 1, "gpu_peak_mb": {"ctune": 0.0}, "measures": [*old["measures"], "gpu_peak_mb"]}
    path.write_text(json.dumps(old))
    assert read_result(path).measures == {"dice": 0.5, "of_none": None}


def test_results_are_found_oldest_first(tmp_path: Path) -> None:
    for number, started in ((1, "2026-01-02"), (2, "2026-01-03"), (3, "2026-01-01")):
        _, path = run_bench("dice", "smoke", [number], tmp_path)
        path.write_text(json.dumps({**json.loads(path.read_text()), "started": started}))
    assert [r.seeds for _, r in all_results(tmp_path)] == [(3,), (1,), (2,)]


def test_what_numpy_measured_is_written_as_numbers() -> None:
    found = plain(
        {"a": np.float64(1.5), "b": np.int64(3), "c": np.array([1.0, math.inf]), 4: (np.bool_(True), None)}
    )
    assert json.dumps(found, allow_nan=False) == '{"a": 1.5, "b": 3, "c": [1.0, null], "4": [true, null]}'
