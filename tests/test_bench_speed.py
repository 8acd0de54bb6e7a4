"""The benchmark of speed at the size of a toy: what it measures, what it keeps, and that it goes on where it stopped."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ctune.bench import run
from ctune.bench.catalogue import Preset
from ctune.bench.earlier import EarlierSeeds
from ctune.bench.forgetting import protocol as forgetting
from ctune.bench.paper import protocol as paper
from ctune.bench.speed import figures
from ctune.bench.speed import protocol as speed
from ctune.bench.speed.lengths import by_epochs, quickest
from ctune.bench.study import Clock, Scale, means
from ctune.errors import UsageError
from ctune.types import Progress

TOY = Scale(
    cases=3,
    revised=1,
    tests=1,
    epochs=2,
    look_every=1,
    tune_epochs=1,
    old=("liver", "spleen"),
    new=("aorta",),
)


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("speed")


@pytest.fixture(scope="module")
def measured(work: Path) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(speed.SCALES, Preset.SMOKE, TOY)
        patch.setitem(speed.LENGTHS, Preset.SMOKE, (1, 2))
        return speed.run("smoke", (0,), work, lambda _: None)


def test_the_figures_that_were_agreed(measured: Any) -> None:
    found = measured.measures
    assert set(found["dice_new_classes"]) == {"continual", "text", "rival", "ceiling"}
    assert found["unrevised_max_abs_logit_change"] == 0.0
    seed = measured.details["seed 0"]
    assert seed["continual"]["pyramid"]["full_step"]["cpu_seconds"] > 0
    assert seed["continual"]["pyramid, no cache"]["full_step"] is None
    for name in (
        "time_ratio_full_over_continual",
        "time_ratio_uncached_over_cached",
        "time_ratio_paper_over_continual",
    ):
        assert found[name] > 0
    assert [gate.figure for gate in measured.gates] == ["unrevised_max_abs_logit_change"]
    assert all(gate.passed for gate in measured.gates)


def test_every_case_and_every_arm_is_kept(measured: Any) -> None:
    seed = measured.details["seed 0"]
    assert set(seed["continual"]) == set(speed.ARMS)
    for arm in seed["continual"].values():
        assert set(arm["dice"]["aorta"]) == {"phantom_0003"}
        assert arm["unrevised_dice_moved"] == [] and arm["steps"]["aorta"] > 0
    rows = seed["full"]["rival"]["curve"]
    assert [row["epoch"] for row in rows] == [1, 2]
    assert rows[0]["cpu_seconds"] < rows[1]["cpu_seconds"] and set(rows[0]["dice"]) == {
        "liver",
        "spleen",
        "aorta",
    }
    assert seed["full"]["rival"]["steps"] == 4


def test_tunings_of_other_lengths_are_kept_with_what_they_took(measured: Any) -> None:
    seed = measured.details["seed 0"]
    own = seed["continual"]["pyramid"]["steps"]["aorta"]
    assert set(seed["lengths"]) == {"2"}, "that of the study's own length is the one that is compared"
    longer = seed["lengths"]["2"]
    assert longer["steps"]["aorta"] == 2 * own and longer["cpu_seconds"] > 0
    assert set(longer["dice"]) == {"aorta"} and set(longer["dice"]["aorta"]) == {"phantom_0003"}


def test_the_quickest_tuning_that_is_good_enough_is_looked_up_among_all_lengths() -> None:
    def tuning(seconds: float, dice: float) -> dict[str, Any]:
        return {"cpu_seconds": seconds, "dice": {"aorta": {"a": dice}}}

    seed = {
        "continual": {"pyramid": tuning(20, 0.7)},
        "lengths": {"12": tuning(60, 0.8), "1": tuning(9, 0.5)},
    }
    assert list(by_epochs(seed, 3)) == [1, 3, 12]
    found = [quickest(seed, ["aorta"], "cpu_seconds", target) for target in (0.4, 0.6, 0.75, 0.9)]
    assert found == [9.0, 20.0, 60.0, None]


def test_the_rival_sees_the_annotations_that_there_are_and_the_ceiling_all(work: Path, measured: Any) -> None:
    study = speed.make_study(work / "seed-0", speed.config_of("smoke", 0), TOY, 0, lambda _: None)
    seen = {arm: [set(case.labels) for case in study.cases(arm)] for arm in ("base", "rival", "ceiling")}
    assert seen["base"] == [{"liver", "spleen"}] * 3
    assert (
        seen["rival"].count({"liver", "spleen", "aorta"}) == 1
        and seen["rival"].count({"liver", "spleen"}) == 2
    )
    assert seen["ceiling"] == [{"liver", "spleen", "aorta"}] * 3


def test_what_is_trained_already_is_not_trained_again(work: Path, measured: Any) -> None:
    (work / "seed-0" / "seed.json").unlink()
    stages: list[str] = []

    def listen(step: Progress) -> None:
        stages.append(step.stage)

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(speed.SCALES, Preset.SMOKE, TOY)
        patch.setitem(speed.LENGTHS, Preset.SMOKE, (1, 2))
        again = speed.run("smoke", (0,), work, listen)
    assert not any(stage.startswith(("train", "tune")) for stage in stages)
    assert again.measures == measured.measures and again.data == measured.data


def test_a_ceiling_that_lost_an_organ_does_not_look_near() -> None:
    dice = {
        "continual": {"aorta": 0.8, "gall_bladder": 0.5, "stomach": 0.7},
        "ceiling": {"aorta": 0.9, "gall_bladder": 0.0, "stomach": 0.9},
    }
    found = figures.short_of_ceiling(dice)
    assert found["mean"] == pytest.approx(0.15) and found["lost"] == ["gall_bladder"]
    assert found["by_class"]["gall_bladder"] == -0.5
    nothing = {"continual": {"aorta": 0.5}, "ceiling": {"aorta": 0.01}}
    assert figures.short_of_ceiling(nothing) == {
        "by_class": {"aorta": -0.49},
        "mean": None,
        "lost": ["aorta"],
    }


def test_the_ratio_is_of_steps_timed_beside_the_tuning() -> None:
    """Full training was slower when it was made, with neighbours: what counts is the pace beside the tuning."""
    curve = [{"epoch": 1, "cpu_seconds": 400.0}, {"epoch": 2, "cpu_seconds": 900.0}]
    seed: dict[str, Any] = {
        "full": {"rival": {"steps": 1000, "curve": curve}},
        "continual": {"pyramid": {"cpu_seconds": 10.0, "full_step": {"cpu_seconds": 0.5}}},
    }
    assert figures.full_over_continual(seed, "pyramid", "cpu_seconds") == 50.0
    seed["continual"]["pyramid"]["full_step"] = None
    assert figures.full_over_continual(seed, "pyramid", "cpu_seconds") == 90.0


def test_whether_full_training_came_to_its_end_is_told() -> None:
    looks = [{"dice": {"aorta": d, "stomach": d}} for d in (0.1, 0.7, 0.72)]
    assert figures.rise_at_the_end([looks[0], {}, *looks[1:]], ["aorta", "stomach"]) == pytest.approx(0.02)
    assert figures.rise_at_the_end(looks[:1], ["aorta"]) == 0.0


def test_the_promises_of_time_are_those_of_the_preset() -> None:
    measures = {"time_ratio_full_over_continual": 60.0, "time_ratio_paper_over_continual": 8.0}
    assert [g.passed for g in figures.ratio_gates(measures, "cpu")] == [True]
    assert [(g.bound, g.passed) for g in figures.ratio_gates(measures, "gpu")] == [
        (300.0, False),
        (10.0, False),
    ]
    assert figures.ratio_gates(measures, "smoke") == []


def test_the_base_may_train_for_fewer_epochs(work: Path, measured: Any) -> None:
    scale = replace(TOY, base_epochs=1)
    study = speed.make_study(work / "seed-0", speed.config_of("smoke", 0), scale, 0, lambda _: None)
    assert study.settings("base").epochs == 1 and study.settings("rival").epochs == 8
    assert speed.full_steps(study, "base") == 2


def test_a_batch_and_the_features_of_the_wide_network_fit_an_accelerator() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(speed, "torch_device", lambda preset: "cuda" if preset == "gpu" else "cpu")
        config = speed.config_of("gpu", 0)
    assert (config.base.architecture, config.train.batch_size // config.train.accumulate) == ("swin_unetr", 4)
    assert (config.tune.window_cover, config.tune.background_windows) == ("organ", 2)
    assert speed.config_of("cpu", 0).train.accumulate == 1


def test_seeds_of_other_runs_are_put_together(
    tmp_path: Path, measured: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(speed.SCALES, Preset.SMOKE, TOY)
    monkeypatch.setattr(run, "load", lambda _: lambda *_: measured)
    run.run_bench("speed", "smoke", (0,), tmp_path / "seeds", work=tmp_path / "work")
    monkeypatch.undo()
    monkeypatch.setitem(speed.SCALES, Preset.SMOKE, TOY)
    monkeypatch.setitem(speed.LENGTHS, Preset.SMOKE, (1, 2))
    monkeypatch.setenv("CTUNE_BENCH_RESULTS", str(tmp_path / "seeds"))
    again = speed.run("smoke", (0,), tmp_path / "new", lambda _: None)
    assert again.measures == run.plain(measured.measures) and again.data == measured.data
    assert not (tmp_path / "new").exists(), "nothing was made"
    other = EarlierSeeds("speed", "smoke")
    assert other.seed(0, lambda *_: True) and other.seed(0, lambda *_: False) is None
    assert other.seed(1, lambda *_: True) is None
    assert not speed._as_now(measured.details["seed 0"], replace(TOY, epochs=3), Preset.SMOKE)
    monkeypatch.setitem(speed.LENGTHS, Preset.SMOKE, (1, 2, 3))
    asked: list[int] = []
    monkeypatch.setattr(speed, "make_study", lambda *_: asked.append(1) or sys.exit())
    with pytest.raises(SystemExit):
        speed.run("smoke", (0,), tmp_path / "new", lambda _: None)
    assert asked, "a seed without all lengths is measured"
    with pytest.raises(
        UsageError, match="expected results of hippocampus in CTUNE_BENCH_RESULTS, found none"
    ):
        EarlierSeeds("hippocampus", "smoke")


def test_real_images_need_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CTUNE_HIPPOCAMPUS", raising=False)
    with pytest.raises(UsageError, match="CTUNE_HIPPOCAMPUS"):
        speed.run_hippocampus("smoke", (0,), tmp_path, lambda _: None)


def test_a_tuning_on_an_accelerator_does_more_than_warm_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every way of it, in every benchmark: with the preset's warm-up of 20 epochs and a step each, heads would never leave it."""
    for module in (forgetting, paper, speed):
        monkeypatch.setattr(module, "torch_device", lambda _: "cuda")
    scales = {"speed": speed.SCALES, "forgetting": forgetting.SCALES}
    configs = {"speed": speed.config_of("gpu", 0), "forgetting": forgetting.config_of("gpu", 0)}
    asked = [(configs[what].tune, of[Preset.GPU].revised) for what, of in scales.items()]
    for backbone, sizes in paper.PROTOCOLS[Preset.GPU].scales.items():
        asked.append((paper.config_of("gpu", backbone, 0).tune, sizes.revised // paper.ROUNDS))
    for tune, cases in asked:
        steps = -(-cases * tune.patches_per_case // tune.batch_size)
        assert steps * tune.epochs >= 60 and tune.warmup_epochs <= tune.epochs / 5
    shortest = speed.LENGTHS[Preset.GPU][0]
    assert configs["speed"].tune.warmup_epochs <= shortest / 3


def test_a_clock_counts_only_between_start_and_stop() -> None:
    clock = Clock(cpu=10.0, wall=20.0)
    clock.start()
    clock.stop()
    assert 10.0 <= clock.read()["cpu_seconds"] < 10.5 and 20.0 <= clock.read()["seconds"] < 20.5


def test_a_class_that_nobody_has_is_no_nan() -> None:
    assert means({"aorta": {"a": 0.5, "b": None}, "liver": {"a": None}}) == {"aorta": 0.5, "liver": 0.0}
