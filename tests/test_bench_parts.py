"""What a run took is the sum of its parts, each second once, wherever and by however many processes they were made."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from ctune.bench import catalogue, energy, parts
from ctune.bench import run as running
from ctune.bench.catalogue import Bench, Preset, check_preset
from ctune.bench.parts import Sitting, part
from ctune.bench.result import Attempt, Measured, Part, read_result
from ctune.bench.run import run_bench
from ctune.errors import BenchPausedError, UsageError
from ctune.types import OnProgress, Progress


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[float], None]]:
    """Seconds that pass when a test says so."""
    at = [1000.0]
    monkeypatch.setattr(time, "perf_counter", lambda: at[0])
    yield lambda seconds: at.__setitem__(0, at[0] + seconds)


@pytest.fixture
def passing(monkeypatch: pytest.MonkeyPatch, clock: Callable[[float], None]) -> Callable[[float], None]:
    """A benchmark of two seeds: each takes 10 s, of which an arm within it takes 4, and 1 s lies in no part."""

    def arm() -> dict[str, float]:
        clock(4)
        return {"dice": 0.5}

    def seed(work: Path, number: int) -> Any:
        clock(6)
        return part(work / f"arm-{number}.json", arm)

    def run(preset: str, seeds: Sequence[int], work: Path, on_progress: OnProgress) -> Measured:
        clock(1)
        for number in seeds:
            part(work / f"seed-{number}.json", seed, work, number)
            on_progress(Progress("seeds", number + 1, len(seeds)))
        return Measured({"dice": 0.5})

    monkeypatch.setattr(catalogue, "BENCHES", (Bench("arms", "none:run", "Arms."),))
    monkeypatch.setattr(running, "load", lambda bench: run)
    return clock


def test_each_second_counts_once(passing: object, tmp_path: Path) -> None:
    result, path = run_bench("arms", "cpu", [0, 1], tmp_path)
    assert result.seconds == 21.0 and set(result.parts) == {"seed-0", "seed-1"}
    seed = result.parts["seed-0"]
    assert (seed.own_seconds, seed.seconds, set(seed.parts)) == (6.0, 10.0, {"arm-0"})
    assert seed.device == "cpu" and seed.machine["cores"] and seed.commit == result.attempts[0].commit
    assert (result.attempts[0].seconds, result.attempts[0].outside_parts) == (21.0, 1.0)
    assert read_result(path) == result


def test_a_paused_run_is_the_sum_of_its_attempts(passing: object, tmp_path: Path) -> None:
    with pytest.raises(BenchPausedError):
        run_bench("arms", "cpu", [0, 1], tmp_path, minutes=0)
    result, _ = run_bench("arms", "cpu", [0, 1], tmp_path)
    assert result.seconds == 22.0 and len(result.attempts) == 2


def test_parts_made_elsewhere_keep_what_they_took(passing: object, tmp_path: Path) -> None:
    folders = [tmp_path / f"work-{number}" / "arms-cpu-seeds-0-1" for number in range(2)]
    with pytest.raises(BenchPausedError):
        run_bench("arms", "cpu", [0, 1], tmp_path, work=folders[0].parent, minutes=0)
    folders[1].mkdir(parents=True)
    for each in folders[0].glob("seed-0*"):
        shutil.copy2(each, folders[1])
    result, _ = run_bench("arms", "cpu", [0, 1], tmp_path, work=folders[1].parent)
    assert len(result.attempts) == 1 and result.seconds == 21.0, "ten of them in another process"


def test_parts_of_other_results_count_too(
    passing: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = Part(
        started="2020-01-01T00:00:00+00:00",
        peak_memory_mb=1e6,
        commit="old",
        own_seconds=100.0,
        parts={"inner": Part(started="2021", peak_memory_mb=1.0, commit="new", own_seconds=5.0)},
    )
    monkeypatch.setattr(running, "load", lambda bench: lambda *_: Measured({}, parts={"seed 7": there}))
    result, _ = run_bench("arms", "cpu", [0], tmp_path)
    assert (result.seconds, result.peak_memory_mb) == (105.0, 1e6)
    assert result.started == there.started and result.commits[:2] == ("old", "new")


def test_a_part_that_was_stopped_keeps_the_seconds_of_its_attempts(
    clock: Callable[[float], None], tmp_path: Path
) -> None:
    def stops() -> None:
        clock(3)
        raise KeyError("a cable")

    def ends() -> dict[str, float]:
        clock(2)
        return {"dice": 0.5}

    place = tmp_path / "seed-0.json"
    with pytest.raises(KeyError):
        part(place, stops)
    assert not place.exists()
    with Sitting() as sitting:
        assert part(place, ends) == {"dice": 0.5}
    assert sitting.parts["seed-0"].seconds == 5.0


def test_a_killed_part_is_known_up_to_its_last_note(clock: Callable[[float], None], tmp_path: Path) -> None:
    sitting = Sitting()
    sitting.open(tmp_path / "seed-0.json").__enter__()
    clock(7)
    sitting.note()
    with Sitting() as next_one:
        part(tmp_path / "seed-0.json", lambda: clock(1))
    assert next_one.parts["seed-0"].seconds == 8.0


def test_a_run_that_goes_on_elsewhere_is_refused(
    passing: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(BenchPausedError):
        run_bench("arms", "cpu", [0, 1], tmp_path, minutes=0)
    monkeypatch.setattr(running, "device_name", lambda preset: "NVIDIA H200")
    folder = tmp_path / ".unfinished" / "arms-cpu-seeds-0-1"
    before = (folder / "attempts.json").read_text()
    with pytest.raises(UsageError) as refused:
        run_bench("arms", "cpu", [0, 1], tmp_path)
    assert str(refused.value) == (
        "expected cpu, on which this run began, got NVIDIA H200: figures of two devices make no result; go on there, or "
        f"remove {folder} to begin anew"
    )
    assert (folder / "attempts.json").read_text() == before
    sitting = Sitting(device="NVIDIA H200")
    with (
        sitting,
        pytest.raises(UsageError, match=r"expected cpu, on which .*seed-0\.json was made, got NVIDIA"),
    ):
        part(folder / "seed-0.json", dict)


def test_what_cannot_begin_leaves_nothing(
    passing: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(preset: str, seeds: Sequence[int], work: Path, on_progress: OnProgress) -> Measured:
        on_progress(Progress("seeds", 0, 1))  # which notes the attempt
        raise UsageError("expected a folder")

    monkeypatch.setattr(running, "load", lambda bench: run)
    with pytest.raises(UsageError, match="expected a folder"):
        run_bench("arms", "cpu", [0], tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_attempts_of_an_earlier_version_are_read() -> None:
    old = {"started": "2026-01-02T03:04:05+00:00", "seconds": 3.0, "peak_memory_mb": 9.0, "commit": None}
    assert Attempt(**old).outside_parts is None


def test_a_preset_that_is_not_there_says_why(passing: object) -> None:
    bench = Bench("arms", "none:run", "Arms.", (Preset.SMOKE,), no_gpu="arms are counted by hand")
    with pytest.raises(UsageError) as refused:
        check_preset(bench, Preset.GPU)
    assert str(refused.value) == "expected one of smoke for arms, got 'gpu': arms are counted by hand"


# Accelerators, played by the processor ------------------------------------------------------------------------------


def test_on_a_processor_no_accelerator_is_mentioned(passing: object, tmp_path: Path) -> None:
    _, path = run_bench("arms", "cpu", [0], tmp_path)
    text = path.read_text()
    assert "gpu_peak_mb" not in text and "joules" not in text and json.loads(text)["failures"] == []


def test_memory_and_energy_of_parts(
    passing: Callable[[float], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    class Meter:
        def joules(self) -> float:
            return 100 * (time.perf_counter() - 1000.0)

        def stop(self) -> None:
            pass

    # Half a GiB at the first look, and so much more at each later one; each look forgets what was before.
    looks = count(1)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: next(looks) * 2**29)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda: None)
    for name, value in (("device_name", "NVIDIA H200"), ("device_uuid", "GPU-1"), ("meter_of", Meter())):
        monkeypatch.setattr(running, name, lambda _=None, value=value: value)
    result, path = run_bench("arms", "cpu", [0], tmp_path)
    seed = result.parts["seed-0"]
    assert (seed.own_joules, seed.joules, result.joules) == (600.0, 1000.0, 1100.0)
    inner = seed.parts["arm-0"]
    assert inner.gpu_peak_mb and seed.gpu_peak_mb and result.gpu_peak_mb
    assert inner.gpu_peak_mb < seed.gpu_peak_mb <= result.gpu_peak_mb
    document = json.loads(path.read_text())
    assert document["joules"] == 1100.0 and document["parts"]["seed-0"]["gpu_peak_mb"] == seed.gpu_peak_mb


def test_energy_that_nobody_tells_is_a_failure(
    passing: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("device_name", "NVIDIA H200"), ("device_uuid", "GPU-1"), ("meter_of", None)):
        monkeypatch.setattr(running, name, lambda _=None, value=value: value)
    result, _ = run_bench("arms", "cpu", [0], tmp_path)
    assert result.failures == (energy.UNREADABLE,) and result.joules is None


def test_power_is_added_up_over_time(clock: Callable[[float], None]) -> None:
    watts = iter([100.0, 300.0, None, 300.0])
    sampler = energy.Sampler(lambda: next(watts), every_s=1e6)
    clock(2)
    assert sampler.joules() == 400.0, "from 100 to 300 watts in two seconds"
    clock(1)
    assert sampler.joules() == 400.0, "no answer"
    clock(1)
    assert sampler.joules() == 1000.0
    sampler.stop()


def test_a_counter_counts_from_its_start() -> None:
    values = iter([5000.0, 5250.0])
    assert energy.Counter(lambda: next(values)).joules() == 250.0


def test_where_there_is_no_driver_nothing_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr("ctypes.CDLL", lambda name: (_ for _ in ()).throw(OSError(name)))
    assert energy.meter_of("GPU-1") is None


def test_names_of_parts_start_from_the_runs_folder(tmp_path: Path) -> None:
    with Sitting(work=tmp_path) as sitting:
        part(tmp_path / "seed-0" / "arm.json", dict)
    assert list(sitting.parts) == ["seed-0/arm"] and parts.TOOK == ".took.json"
