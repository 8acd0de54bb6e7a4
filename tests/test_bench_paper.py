"""The paper's protocol at the size of a toy: what is revised when, what is wrong on purpose, what stands beside it."""

from __future__ import annotations

import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ctune.bench import run
from ctune.bench.catalogue import Preset
from ctune.bench.paper import plots as paper_plots
from ctune.bench.paper import protocol as paper
from ctune.bench.paper import tables as paper_tables
from ctune.bench.paper.protocol import PROTOCOLS, Protocol, Sizes
from ctune.classes import NEW_FOUR, NINE_ORGANS, OLD_FIVE
from ctune.errors import UsageError
from ctune.model.base import build_base
from ctune.model.features import WindowFeatures
from ctune.project import Project
from ctune.types import Source, silent
from registry import ModelRecord

TOY = Protocol(
    {
        "unet_small": Sizes(
            cases=2, revised=2, tests=1, epochs=1, look_every=1000, tune_epochs=1, whole_epochs=2
        )
    },
    {"unet_small": (("hybrid", "heads"), ("full", "all"))},
)


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("paper")


@pytest.fixture(scope="module")
def measured(work: Path) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PROTOCOLS, Preset.SMOKE, TOY)
        return paper.run("smoke", (0,), work, silent)


def test_both_settings_have_every_way_and_two_rounds(measured: Any) -> None:
    cells = measured.details["seed 0"]["unet_small"]
    assert set(cells) == {"table 1", "table 2"}
    for setting, cell in cells.items():
        assert set(cell) == {"before", "hybrid, heads", "full, all"}
        assert set(cell["before"]) == {*(NINE_ORGANS if setting == "table 1" else OLD_FIVE)}
        for way, rounds in cell.items():
            if way != "before":
                assert [set(r["dice"]) for r in rounds] == [{*NINE_ORGANS}] * 2
    ways = measured.measures["dice"]["table 2"]
    assert ways["before"]["new four"] == 0.0, "a class without a head finds nothing"
    assert measured.measures["unrevised_max_abs_logit_change"] == 0.0 and measured.gates[0].passed


def test_a_round_revises_its_own_share_of_the_cases(work: Path, measured: Any) -> None:
    root = work / "seed-0" / "unet_small" / "table-2"
    config = paper.config_of("smoke", "unet_small", 0)
    study = paper.make_setting(root, config, TOY.scales["unet_small"], "table 2", 0, silent)
    rounds = {
        case.id: {a.round for a in study.project.pool.annotations(case.id) if a.source == Source.REVISED}
        for case in study.project.pool.cases("pool")  # type: ignore[arg-type]
    }
    assert sorted(rounds.values(), key=str) == [{1}, {2}]


def test_all_weights_train_in_a_round_as_before_it(work: Path, measured: Any) -> None:
    """On windows as large as those of the prediction; heads take sub-patches of kept features."""
    root = work / "seed-0" / "unet_small" / "table-2"
    registry = Project(root / "project", paper.config_of("smoke", "unet_small", 0)).open_registry()
    cells, asked = measured.details["seed 0"]["unet_small"]["table 2"], {}
    for way in ("hybrid, heads", "full, all"):
        record = registry.record_of(cells[way][1]["model"])
        assert isinstance(record, ModelRecord)
        asked[way] = record.config["tune"]
    config = paper.config_of("smoke", "unet_small", 0)
    assert asked["full, all"]["patch_size"] == list(config.inference.patch_size) == [40, 40, 40]
    assert asked["full, all"]["patches_per_case"] == config.train.patches_per_case
    assert asked["hybrid, heads"]["patch_size"] == [24, 24, 24]
    epochs = {way: (settings["trainable"], settings["epochs"]) for way, settings in asked.items()}
    assert epochs == {"hybrid, heads": ("heads", 1), "full, all": ("all", 2)}


def test_the_rounds_of_all_weights_are_as_long_beside_the_base_as_in_the_paper() -> None:
    for preset in (Preset.CPU, Preset.GPU):
        for scale in PROTOCOLS[preset].scales.values():
            assert scale.whole_epochs / scale.epochs == 100 / 250


@pytest.mark.parametrize("preset", list(Preset))
def test_windows_and_sub_patches_fit_the_strides_of_every_backbone(
    preset: Preset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What does not fit would stop a run after hours, at its first round."""
    monkeypatch.setattr(paper, "torch_device", lambda _: "cpu")
    for backbone in PROTOCOLS[preset].scales:
        config = paper.config_of(preset, backbone, 0)
        stride = build_base(config.base.model_copy(update={"feature_size": 12}), 0).stride
        window = config.inference.patch_size
        assert config.train.patch_size == window and all(side % stride == 0 for side in window)
        WindowFeatures(window, (stride,) * 3).aligned((0, 0, 0), config.tune.patch_size)


def test_seeds_of_other_runs_are_put_together(
    tmp_path: Path, measured: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(PROTOCOLS, Preset.SMOKE, TOY)
    monkeypatch.setattr(run, "load", lambda _: lambda *_: measured)
    run.run_bench("paper", "smoke", (0,), tmp_path / "seeds", work=tmp_path / "work")
    monkeypatch.setenv("CTUNE_BENCH_RESULTS", str(tmp_path / "seeds"))
    again = paper.run("smoke", (0,), tmp_path / "new", silent)
    assert again.measures == run.plain(measured.measures) and again.data == measured.data
    assert not (tmp_path / "new").exists(), "nothing was made"
    asked: list[int] = []
    monkeypatch.setattr(paper, "make_setting", lambda *_: asked.append(1) or sys.exit())
    larger = {"unet_small": replace(TOY.scales["unet_small"], cases=3)}
    more = {"unet_small": (*TOY.arms["unet_small"], ("full", "heads"))}
    for other in (replace(TOY, scales=larger), replace(TOY, arms=more)):
        monkeypatch.setitem(PROTOCOLS, Preset.SMOKE, other)
        with pytest.raises(SystemExit):
            paper.run("smoke", (0,), tmp_path / "new", silent)
    assert len(asked) == 2, "of another size, or without a way that is measured now"


def test_a_backbone_can_be_measured_by_itself(
    tmp_path: Path, measured: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And put together with another later: what is measured of each lies in results of its own."""
    both = Protocol(
        {**TOY.scales, "swin_unetr": TOY.scales["unet_small"]},
        {**TOY.arms, "swin_unetr": TOY.arms["unet_small"]},
    )
    monkeypatch.setitem(PROTOCOLS, Preset.SMOKE, both)
    cells = measured.details["seed 0"]["unet_small"]
    found = {"first": "unet_small", "second": "swin_unetr"}
    for name, backbone in found.items():
        details = {
            "seed 0": {backbone: cells},
            "scales": run.plain({backbone: asdict(both.scales[backbone])}),
        }
        kept = replace(measured, details=details, data={f"cohort, {backbone}, seed 0": name})
        monkeypatch.setattr(run, "load", lambda _, kept=kept: lambda *_: kept)
        run.run_bench("paper", "smoke", (0,), tmp_path / "seeds", work=tmp_path / name)
    monkeypatch.setenv("CTUNE_BENCH_RESULTS", str(tmp_path / "seeds"))
    whole = paper.run("smoke", (0,), tmp_path / "new", silent)
    assert list(whole.details["seed 0"]) == ["unet_small", "swin_unetr"] and len(whole.data) == 2
    assert not any("left out" in text for text in whole.failures)
    monkeypatch.setenv("CTUNE_PAPER_BACKBONES", "swin_unetr")
    alone = paper.run("smoke", (0,), tmp_path / "new", silent)
    assert list(alone.details["seed 0"]) == ["swin_unetr"] and list(alone.details["scales"]) == ["swin_unetr"]  # type: ignore[arg-type]
    assert "unet_small is left out, by CTUNE_PAPER_BACKBONES" in alone.failures
    for wrong in ("unet", ""):
        monkeypatch.setenv("CTUNE_PAPER_BACKBONES", wrong)
        with pytest.raises(
            UsageError, match="expected names of unet_small, swin_unetr in CTUNE_PAPER_BACKBONES, got"
        ):
            paper.run("smoke", (0,), tmp_path / "new", silent)


def test_bad_annotations_are_near_the_truth_and_wrong(work: Path, measured: Any) -> None:
    root = work / "seed-0" / "unet_small" / "table-1"
    config = paper.config_of("smoke", "unet_small", 0)
    study = paper.make_setting(root, config, TOY.scales["unet_small"], "table 1", 0, silent)
    bad, true = paper.bad_annotations(study, "phantom_0000"), study.masks("phantom_0000", NEW_FOUR)
    assert set(bad) == set(NEW_FOUR) and config.hybrid.order[0] == "revised", "what was wrong does not win"
    dice = 2 * np.sum(bad["stomach"] & true["stomach"]) / (bad["stomach"].sum() + true["stomach"].sum())
    assert 0.2 < dice < 0.95
    assert all(np.array_equal(m, paper.bad_annotations(study, "phantom_0000")[n]) for n, m in bad.items())


def test_what_was_published_is_quoted_as_it_was_read(tmp_path: Path) -> None:
    quoted = paper_tables.published(None)
    assert quoted["table 1"]["revised-only"] == {"old five": 0.106, "new four": 0.825}
    tables = paper_tables.find_tables()
    if tables is None:
        pytest.skip("the paper's tables are not beside this checkout")
    assert paper_tables.published(tables) == quoted


def test_the_tables_may_lie_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CTUNE_PAPER_TABLES", str(tmp_path / "none.json"))
    assert paper_tables.find_tables() is None


def test_ours_stand_beside_theirs(measured: Any) -> None:
    from small_result import result_of

    first, second, third, _ = paper_plots.plots(result_of("paper", measured))
    names = [bar.name for bar in first.bars]
    assert names[0] == "published, Swin UNETR: before" and "before" in names
    assert "published, Swin UNETR: hybrid" in names and "phantoms" in first.caption
    assert "five that are not revised" in second.title and "Table 2" in third.title
