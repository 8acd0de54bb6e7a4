"""The benchmark of full training: both ways learn the same, its figures are what they say, its promises are gates."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from ctune.bench.catalogue import Preset, find_bench
from ctune.bench.result import check_gates
from ctune.bench.run import run_bench
from ctune.bench.training import protocol as training
from ctune.bench.training.plots import plots
from ctune.bench.training.protocol import (
    CTUNE,
    LOADED,
    PLAIN,
    SCALES,
    WAYS,
    Scale,
    _Way,
    config_of,
    gates,
    summary,
)
from ctune.data.phantom import write_cohort
from ctune.errors import BenchPausedError, GateError


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Any:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def seed(ctune: list[float], plain: list[float], loaded: list[float]) -> dict[str, Any]:
    """One seed of four steps a turn with these seconds; a tenth of each way's time is waiting, a fifth of ctune's."""
    turns = [dict(zip(WAYS, each, strict=True)) for each in zip(ctune, plain, loaded, strict=True)]
    ends = {way: {"seconds": 10.0, "wait": 2.0 if way == CTUNE else 1.0, "peak_mb": 100.0} for way in WAYS}
    return {"steps_a_turn": 4, "turns": turns, "prepare": dict.fromkeys(WAYS, 1.0), "ends": ends}


def test_ctune_is_compared_with_the_faster_plain_loop_turn_by_turn() -> None:
    found = summary([seed([1.0, 2.0, 1.0], [2.0, 3.0, 2.0], [1.5, 2.4, 1.5])])
    assert found["rival"] == LOADED and found["time_ratio_monai_over_ctune"] == 1.5
    assert found["time_ratio_by_turn"] == {"lowest": 1.2, "highest": 1.5, "turns": 3}
    assert found["steps_per_second"] == {CTUNE: 4.0, PLAIN: 2.0, LOADED: pytest.approx(4 / 1.5)}
    assert found["computing_share"] == 0.8
    stages = found["step_stage_seconds"][CTUNE]
    assert stages == {"wait for patches": 0.05, "forward, backward, optimiser": 0.2}


def test_a_slower_step_and_a_stall_fail_their_gates_and_smoke_has_none() -> None:
    slow = summary([seed([1.1], [1.0], [1.2])])
    with pytest.raises(GateError, match=r"time_ratio_monai_over_ctune: expected at least 1, got 0.9091; .*"):
        check_gates(gates(slow, "cpu"))
    with pytest.raises(GateError, match=r"computing_share: expected at least 0\.9, got 0\.8"):
        check_gates(gates(slow, "cpu"))
    assert gates(slow, "smoke") == []


def test_memory_of_an_accelerator_is_told_where_there_is_one() -> None:
    on_cpu, on_gpu = seed([1.0], [1.0], [1.0]), seed([1.0], [1.0], [1.0])
    assert not any("gpu" in name for name in summary([on_cpu])), "a 0 would read as if it had been measured"
    for number, end in enumerate(on_gpu["ends"].values(), start=1):
        end["gpu_peak_mb"] = 1000.0 * number
    assert summary([on_gpu])["training_gpu_peak_mb"] == dict(zip(WAYS, (1000.0, 2000.0, 3000.0), strict=True))


def test_a_seed_goes_on_with_the_sitting_that_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sat: list[str] = []

    def sitting(cohort: Path, preset: str, scale: Scale, number: int, *_: object) -> dict[str, Any]:
        sat.append(cohort.name)
        return seed([1.0, 1.0], [2.0, 2.0], [2.0, 2.0])

    monkeypatch.setitem(SCALES, Preset.SMOKE, Scale(1, 2, "small", "phantom", {}, sittings=3))
    monkeypatch.setattr(training, "compare", sitting)
    pauses, result = 0, None
    while result is None:
        try:
            result, _ = run_bench("training", "smoke", None, tmp_path, minutes=0)
        except BenchPausedError:
            pauses += 1
    assert sat == ["cohort-0"] * 3 and pauses == 2
    assert list(result.details) == [f"seed 0, sitting {number}" for number in (1, 2, 3)]
    spread: Any = result.measures["time_ratio_by_turn"]
    assert spread["turns"] == 6 and set(result.parts) == {f"seed-0-sitting-{number}" for number in (1, 2, 3)}


def test_processes_take_turns_and_begin_with_the_same_weights(tmp_path: Path) -> None:
    result, path = run_bench("training", "smoke", None, tmp_path)
    (found,) = (each for name, each in result.details.items() if name.startswith("seed"))
    assert path.exists() and result.gates == ()
    ends: Any = found["ends"]
    assert set(ends) == {CTUNE, PLAIN} and all(end["peak_mb"] > 100 for end in ends.values())
    first = [end["losses"][0] for end in ends.values()]
    assert max(first) - min(first) < 0.1, "the same network, and patches alike"
    assert len(plots(result)) == 3


def test_a_way_that_fails_says_why(tmp_path: Path) -> None:
    write_cohort(tmp_path / "cohort", 1, 0)
    next((tmp_path / "cohort").glob("*/segmentations/liver.nii.gz")).unlink()
    config = config_of(Scale(1, 1, "small", "phantom", {}), 0)
    with pytest.raises(RuntimeError, match=r"expected ctune to train, got: (.|\n)*liver"):
        _Way(CTUNE, tmp_path / "cohort", config, 0, "cpu", tmp_path / "work")


def test_it_is_in_the_catalogue() -> None:
    assert find_bench("training").plots == "ctune.bench.training.plots:plots"
