"""The model of scaling against lines that one can add up, and its benchmark at the size of a toy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ctune.bench.catalogue import Preset
from ctune.bench.result import all_results
from ctune.bench.scaling import chapter as scaling_chapter
from ctune.bench.scaling import plots as scaling_plots
from ctune.bench.scaling import protocol as scaling
from ctune.bench.scaling.costs import GPU_HOUR, costs, table
from ctune.bench.scaling.model import (
    ASSUMED,
    Counted,
    Round,
    base_flops,
    carried_on,
    errors,
    feature_bytes,
    fit,
    head_flops,
    modelled_errors,
    rate_of,
    seconds_of,
)
from ctune.bench.scaling.protocol import Plan
from ctune.config import BaseConfig, Config
from ctune.config import preset as settings_of
from ctune.types import silent

SIZES = (Round(4, 2, 1), Round(8, 2, 1), Round(4, 4, 1), Round(4, 2, 2), Round(8, 4, 2))
TOY = Plan((Round(1, 1, 1), Round(2, 1, 1)), (Round(2, 2, 1),), 2, 1, channels=(2, 4))


def seconds(size: Round) -> dict[str, float]:
    """A machine on which everything is a straight line."""
    return {
        "predict": 2.0 * size.pool + 0.5 * size.pool * size.classes,
        "tune": 3.0 + 1.0 * size.revised + 0.25 * size.revised * size.classes,
    }


def seed(*sizes: Round, slower: float = 1.0) -> dict[str, Any]:
    def stages(size: Round) -> dict[str, Any]:
        return {stage: {"cpu_seconds": slower * s} for stage, s in seconds(size).items()}

    return {"sizes": {str(size): {"stages": stages(size)} for size in sizes}}


def test_a_line_is_found_again() -> None:
    found = fit([seed(*SIZES)], SIZES, "tune", "cpu_seconds")
    assert found == pytest.approx(
        {"round": 3.0, "revised case": 1.0, "revised case and class": 0.25}, abs=1e-3
    )
    assert fit([seed(*SIZES)], SIZES, "predict", "cpu_seconds") == pytest.approx(
        {"case": 2.0, "case and class": 0.5}, abs=1e-3
    )


def test_the_error_is_that_on_sizes_that_were_not_fitted() -> None:
    unseen, machine = Round(100, 20, 4), seed(*SIZES)
    lines = {stage: fit([machine], SIZES, stage, "cpu_seconds") for stage in ("predict", "tune")}
    assert errors([seed(unseen)], [unseen], lines, "cpu_seconds") == {
        str(unseen): pytest.approx(0.0, abs=1e-3)
    }
    slower = errors([seed(unseen, slower=1.25)], [unseen], lines, "cpu_seconds")
    assert slower == {"100 cases, 20 revised, 4 classes": pytest.approx(-0.2, abs=1e-3)}


def test_operations_are_counted() -> None:
    small = BaseConfig(architecture="unet_small", channels=(2, 4))
    assert base_flops(small, (16, 16, 16)) * 8 == pytest.approx(base_flops(small, (32, 32, 32)), rel=0.01)


def test_a_large_pool_on_one_and_on_sixteen() -> None:
    assumed = ASSUMED
    found = carried_on(assumed)
    hours = found["abdomenatlas_hours_on_h200"]
    assert 8 < hours["1"] / hours["16"] <= 16 and not found["abdomenatlas"]["rate_is_measured"]
    dollars = found["abdomenatlas_dollars"]
    assert dollars == pytest.approx({n: int(n) * h * GPU_HOUR for n, h in hours.items()}), "who waits is paid"
    # 422 CTs, each 60 s and nine organs of 15 + 4 x 30 + .5 x 20 s.
    assert found["abdomenatlas_expert_minutes"] == pytest.approx(422 * (60 + 9 * 145) / 60)
    twice = carried_on({**assumed, "flops": 2 * assumed["flops"]})
    assert twice["abdomenatlas_hours_on_h200"]["1"] < hours["1"]


def test_what_stops_a_round_from_going_faster() -> None:
    # A second a CT: 66.4 MB a second and accelerator, 2,000 MB there are; the 128 wait for storage.
    found = costs(8000, 8000.0, 0.0, 60.0, 9)
    assert found["accelerators_at_the_limit"] == pytest.approx(
        {"storage": 2000 / 66.4, "driver": 780.0, "tuning": 9.0}
    )
    on = found["by_accelerators"]
    assert on["16"]["predict_hours"] * 3600 == 500.0, "so many cases for each"
    assert on["128"]["predict_hours"] * 3600 == pytest.approx(8000 * 66.4 / 2000)
    assert on["1"]["tune_hours"] == pytest.approx(9 * on["128"]["tune_hours"]), (
        "a class is tuned in one place"
    )
    # Where predicting costs ten times as much, storage no longer decides: 63 CTs for the fullest of 128.
    assert costs(8000, 80_000.0, 0.0, 60.0, 9)["by_accelerators"]["128"]["predict_hours"] * 3600 == 630.0


def small_config() -> Config:
    return settings_of("phantom", base={"architecture": "unet_small", "channels": (2, 4)})


def test_the_arithmetic_of_the_large_pool_can_be_checked_on_a_small_one() -> None:
    config, counted = small_config(), Counted.of(small_config())
    on = seconds_of(Round(10, 4, 2), config, 3, 1e9, 0.5, None)
    network = 3 * (counted.window + 2 * counted.heads["pyramid"]) / 1e9
    assert on["predict"] == pytest.approx(10 * (network + 0.5)), "one processor does both"
    looking = config.model_copy(
        update={"importance": config.importance.model_copy(update={"consistency": True})}
    )
    thrice = seconds_of(Round(10, 4, 2), looking, 3, 1e9, 0.5, None)
    assert thrice["predict"] == pytest.approx(3 * on["predict"]), "and at two views of each image"
    steps = config.tune.epochs * 4 * config.tune.patches_per_case
    assert on["tune one class"] == pytest.approx(steps * counted.step / 1e9)
    beside = seconds_of(Round(10, 4, 2), config, 3, 1e9, 0.5, 2)
    assert beside["predict"] == pytest.approx(10 * max(network, 0.25)), (
        "cores work while the accelerator does"
    )


def test_a_prediction_costs_what_its_heads_and_windows_cost() -> None:
    config, counted = small_config(), Counted.of(small_config())
    assert 0 < counted.heads["text"] < counted.heads["pyramid"] / 10
    found = seconds_of(Round(10, 4, 2), config, 3, 1e9, 0.0, None, "text", runs=1)
    assert found["predict"] == pytest.approx(10 * (counted.window + 2 * counted.heads["text"]) / 1e9)
    assert found["cache"] == seconds_of(Round(10, 4, 2), config, 3, 1e9, 0.0, None)["cache"], "of all windows"


def test_a_step_trains_weights_and_no_features() -> None:
    base, patch = small_config().base, (16, 16, 16)
    forward = head_flops(base, "pyramid", 8, patch)
    assert 2 * forward < head_flops(base, "pyramid", 8, patch, backward=True) < 3 * forward


def test_features_without_room_are_computed_at_each_reading() -> None:
    config, size = small_config(), Round(10, 4, 2)
    of_window = feature_bytes(config.base, config.inference.patch_size)
    half = config.tune.model_copy(update={"cache_gb": 4 * 3 * of_window / 2 / 1e9})
    counted, kept = Counted.of(config), seconds_of(size, config, 3, 1e9, 0.5, None)
    tight = seconds_of(size, config.model_copy(update={"tune": half}), 3, 1e9, 0.5, None)
    assert (kept["share not cached"], tight["share not cached"]) == (0.0, pytest.approx(0.5))
    patches = config.tune.epochs * 4 * config.tune.patches_per_case
    more = tight["tune one class"] - kept["tune one class"]
    assert more == pytest.approx(patches * 0.5 * counted.window / 1e9)
    # Of 40^3 voxels in float16: skips of 2 channels at full size, ..., as `Features` lists them.
    assert of_window > 2 * 2 * 40**3


def test_the_error_of_the_model_is_that_on_rounds_that_were_measured() -> None:
    size, config = Round(10, 4, 2), small_config()
    config = config.model_copy(update={"heads": config.heads.model_copy(update={"kind": "pyramid"})})
    here = {"windows": 3, "flops": 1e9, "around_s": 0.5, "cores": None}
    on = seconds_of(size, config, 3, 1e9, 0.5, None)
    stages = {
        "predict": {"cpu_seconds": on["predict"]},
        "tune": {"cpu_seconds": on["cache"] + 2 * on["tune one class"]},
        "evaluate": {"cpu_seconds": 1e6},
    }
    machine = {"sizes": {str(size): {"stages": stages}}}
    assert modelled_errors([machine], [size], config, here, "cpu_seconds")[str(size)] == pytest.approx(0.0)
    twice = modelled_errors([machine], [size], config, {**here, "flops": 5e8}, "cpu_seconds")[str(size)]
    assert 0 < twice < 1, "half the rate: all but the work around the network takes twice as long"


def test_a_rate_is_measured_on_a_processor_too() -> None:
    found = rate_of("cpu", small_config())
    assert found["measured"] and 1e6 < found["flops"] < 1e14


def test_nothing_is_timed_before_it_is_warm(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    monkeypatch.setattr(scaling, "one_round", lambda *words: done.append(words[0]) or {})
    run = scaling._Warm(lambda: done.append("warm"))
    run("first"), run("second")
    assert done == ["warm", "first", "second"]


def test_the_page_tells_the_model_and_the_newest_result() -> None:
    root = Path(__file__).resolve().parents[1]
    newest = [r for _, r in all_results(root / "benchmarks" / "results") if r.what == "scaling"][-1]
    found: Any = newest.measures
    page = " ".join((root / "docs" / "scale.md").read_text(encoding="utf-8").split())
    said = [
        f"preset {newest.preset}, on {newest.device}",
        f"by {100 * found['largest_relative_error']:.0f} % at most",
    ]
    if "modelled_relative_error" in found:
        missed = found["modelled_relative_error"].values()
        said.append(f"by {100 * min(missed):+.0f} to {100 * max(missed):+.0f} %")
    assert [text for text in said if text not in page] == [], "to be told in docs/scale.md"
    model = found if "by_accelerators" in found["abdomenatlas"] else carried_on(ASSUMED)
    written = table(model["abdomenatlas"], model["abdomenatlas_expert_minutes"])
    assert " ".join(written.split()) in page
    limits = model["abdomenatlas_accelerators_at_the_limit"]
    assert f"at {limits['storage']:.0f} the shared storage" in page


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Any:
    work: Path = tmp_path_factory.mktemp("scaling")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(scaling.PLANS, Preset.SMOKE, TOY)
        return scaling.run("smoke", (0,), work, silent)


def test_every_stage_of_every_size_is_kept(measured: Any) -> None:
    seed = measured.details["seed 0"]
    assert set(seed["sizes"]) == {str(r) for r in (*TOY.fitted, *TOY.held_out)} and len(seed["rounds"]) == 2
    for found in (*seed["sizes"].values(), *seed["rounds"]):
        assert set(found["stages"]) == {"predict", "score", "tune", "evaluate"} and found["steps"] > 0
    assert set(measured.measures["relative_error_on_unseen_sizes"]) == {"2 cases, 2 revised, 1 classes"}
    assert "modelled" in measured.failures[0], "what was not measured is said"
    modelled = measured.measures["modelled_relative_error"]
    assert set(modelled) == set(seed["sizes"]) and all(error > -1 for error in modelled.values())
    here = measured.details["this device"]
    assert here["measured"] and here["windows"] == 2 and 0 < here["around_s"] < 60
    assert here["runs"] in (1, 2) and here["flops"] == seed["around"]["flops"]


def test_what_is_modelled_is_drawn_as_such(measured: Any) -> None:
    from small_result import result_of

    hours, missed, modelled = scaling_plots.plots(result_of("scaling", measured))
    assert [bar.name for bar in modelled.bars] == list(measured.measures["modelled_relative_error"])
    told = scaling_chapter.tables(result_of("scaling", measured))
    assert any("off on the 3 rounds that were measured here" in said for said in told.said)
    assert [row[0] for row in told.tables[1].rows][:3] == ["1 H200", "16 H200", "128 H200"]
    assert "Modelled, not measured" in hours.caption and hours.bars[-1].name == "all, 128 H200"
    assert missed.bars[0].text.endswith("%")
