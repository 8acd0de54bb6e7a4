"""Regions by hand, figures by hand, and the whole benchmark at its smallest."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from ctune.bench.result import all_results
from ctune.bench.run import run_bench
from ctune.bench.selection import protocol
from ctune.bench.selection.cohort import COARSE, HIPPOCAMPUS, PHANTOMS, SCALES, make_cohort
from ctune.bench.selection.figures import curve, gates, minutes_to, ratios_to_random, summary
from ctune.bench.selection.finding import ranking
from ctune.bench.selection.joined import joined
from ctune.bench.selection.parts import asked
from ctune.bench.selection.regions import Regions, count_regions, error_regions
from ctune.bench.selection.worth import WAYS
from ctune.config import preset
from ctune.errors import UsageError
from ctune.types import Grid, silent

ROOT = Path(__file__).resolve().parents[1]
GRID = Grid((20, 12, 12), np.diag([5.0, 5.0, 5.0, 1.0]))
"""A voxel is an eighth of a millilitre."""


def empty() -> np.ndarray:
    return np.zeros(GRID.shape, dtype=bool)


def boxed(*box: tuple[int, int]) -> np.ndarray:
    out = empty()
    out[tuple(slice(a, b) for a, b in box)] = True
    return out


def test_a_rim_of_one_voxel_is_no_error_region() -> None:
    truth = boxed((4, 12), (3, 9), (3, 9))
    assert error_regions(boxed((3, 13), (2, 10), (2, 10)), truth, GRID)[1] == 0


def test_what_is_missing_and_what_is_too_much_are_regions_each() -> None:
    truth = boxed((2, 12), (3, 9), (3, 9))
    predicted = boxed((6, 12), (3, 9), (3, 9)) | boxed((16, 20), (0, 4), (0, 4))
    labels, count = error_regions(predicted, truth, GRID)
    assert count == 2 and labels[3, 5, 5] != labels[17, 2, 2] and labels[8, 5, 5] == 0


def test_a_region_below_a_fifth_of_a_millilitre_does_not_count() -> None:
    """A cross of seven voxels survives the opening: .875 mL here, and .112 mL where a voxel is .016 mL."""
    cross = empty()
    cross[5, 5, 4:7] = cross[5, 4:7, 5] = cross[4:7, 5, 5] = True
    assert error_regions(cross, empty(), GRID)[1] == 1
    assert error_regions(cross, empty(), Grid(GRID.shape, np.diag([2.5, 2.5, 2.5, 1.0])))[1] == 0


def test_a_tenth_of_a_region_must_be_attended_and_a_stray_region_is_not_right() -> None:
    predicted = boxed((2, 12), (2, 7), (2, 7))
    region = error_regions(predicted, empty(), GRID)[0] > 0
    # The opening takes edges and corners: 186 of 250 voxels are left.
    nine, ten = empty(), empty()
    nine[4:10, 3:6, 4] = ten[4:10, 3:6, 4] = True
    ten[3, 4, 4] = True
    assert region.sum() == 186 and (region & nine).sum() == 18 and (region & ten).sum() == 19
    few = count_regions(predicted, empty(), nine, GRID)
    enough = count_regions(predicted, empty(), ten | boxed((15, 17), (8, 10), (8, 10)), GRID)
    assert (few.errors, few.found, few.attended, few.right) == (1, 0, 1, 1)
    assert (enough.errors, enough.found, enough.attended, enough.right) == (1, 1, 2, 1)
    assert enough.volume_ratio == pytest.approx(27 / 250) and enough.error_ml == pytest.approx(31.25)


def test_nothing_wrong_and_nothing_attended_has_no_share() -> None:
    nothing = count_regions(empty(), empty(), empty(), GRID)
    assert nothing == Regions() and nothing.sensitivity is None and nothing.precision is None


def test_a_queue_in_the_right_order_holds_the_worst_first() -> None:
    dice = {f"c{i}": {"liver": 1 - i / 20, "aorta": None} for i in range(20)}
    right = ranking({f"c{i}": float(i) for i in range(20)}, dice)
    wrong = ranking({f"c{i}": float(-i) for i in range(20)}, dice)
    assert right == {"spearman": pytest.approx(1.0), "worst_tenth_in_first_fifth": 1.0}
    assert wrong == {"spearman": pytest.approx(-1.0), "worst_tenth_in_first_fifth": 0.0}


def way(*rounds: tuple[float, float]) -> dict[str, object]:
    """From Dice .5, rounds of (minutes, Dice after)."""
    after = [{"minutes": m, "dice": {"liver": {"a": d, "b": None}}, "cases": ["x"]} for m, d in rounds]
    return {"before": {"liver": {"a": 0.5, "b": None}}, "rounds": after}


def test_minutes_to_a_dice_are_read_off_the_curve() -> None:
    points = curve(way((10, 0.6), (20, 0.8)))
    assert points == [(0.0, 0.5), (10.0, 0.6), (30.0, 0.8)]
    assert minutes_to(points, 0.7) == pytest.approx(20)
    assert minutes_to(points, 0.5) == 0 and minutes_to(points, 0.9) is None


def found() -> dict[str, object]:
    """One data set of a seed: ctune finds 9 of 10, the published recipe 5; importance needs half the minutes."""

    def recipe(right: int, scores: dict[str, float]) -> dict[str, object]:
        counted = asdict(Regions(10, right, 10, right, 5.0, 10.0))
        return {
            "regions": {"liver": counted},
            "score": scores,
            "entropy": {"a": 2, "b": 1, "c": 3},
            "cpu_seconds": 1.0,
        }

    dice = {"a": {"liver": 0.9}, "b": {"liver": 0.8}, "c": {"liver": 0.1}}
    recipes = {"ctune": recipe(9, {"a": 1, "b": 2, "c": 3}), "aa8k": recipe(5, {"a": 3, "b": 2, "c": 1})}
    ways = {name: way((10, 0.6), (10, 0.7)) for name in WAYS} | {"ctune": way((10, 0.7), (10, 0.75))}
    return {
        "finding": {"recipes": recipes, "dice": dice},
        "worth": ways,
        "predicting": {"cpu_seconds": 20.0, "plain_cpu_seconds": 8.0},
    }


LARGE = {recipe: {"seconds": 3.0, "peak_mb": 500.0} for recipe in ("ctune", "aa8k")}


def test_the_figures_say_what_was_found_and_what_it_took() -> None:
    measures = summary([{"phantoms": found()}, {"phantoms": found()}], LARGE)
    assert measures["sensitivity"] == {"ctune": 0.9, "aa8k": 0.5}
    assert measures["minutes_ratio_to_random"]["ctune"] == pytest.approx(0.5)
    assert measures["minutes_ratio_to_random"]["random"] == pytest.approx(1.0)
    assert measures["spearman"]["ctune"] == pytest.approx(1.0)
    assert measures["spearman"]["entropy"] == pytest.approx(0.5)
    assert all(gate.passed for gate in gates(measures, "cpu"))  # type: ignore[arg-type]


def test_each_seed_has_a_ratio_of_its_own_beside_that_of_the_mean_curve() -> None:
    slow = found() | {"worth": {n: way((10, 0.6), (10, 0.7)) for n in WAYS}}
    measures = summary([{"phantoms": found()}, {"phantoms": slow}], LARGE)
    assert measures["minutes_ratio_to_random_by_seed"]["ctune"] == pytest.approx([0.5, 1.0])
    assert measures["minutes_ratio_to_random_by_seed"]["random"] == pytest.approx([1.0, 1.0])
    assert 0.5 < measures["minutes_ratio_to_random"]["ctune"] < 1.0


def test_where_random_choice_gains_nothing_no_way_has_a_ratio() -> None:
    """Else every way would need no minutes at all to come where it stood before."""
    lost = {n: curve(way((10, 0.45))) for n in WAYS} | {"ctune": curve(way((10, 0.9)))}
    assert set(ratios_to_random(lost).values()) == {None}


def test_the_hippocampus_has_the_gates_of_phantoms() -> None:
    measures = summary([{"phantoms": found(), "hippocampus": found()}], LARGE)
    bounds = {gate.figure: gate.bound for gate in gates(measures, "cpu")}  # type: ignore[arg-type]
    assert bounds["spearman_hippocampus.ctune"] == 0.6
    assert bounds["worst_tenth_in_first_fifth_hippocampus.ctune"] == 0.8
    assert bounds["minutes_ratio_to_random_hippocampus.ctune"] == 0.5


def test_a_run_of_one_data_set_has_its_gates_alone() -> None:
    measures = summary([{"hippocampus": found()}], None)
    figures = [gate.figure for gate in gates(measures, "cpu")]  # type: ignore[arg-type]
    assert "spearman_hippocampus.ctune" in figures and "spearman.ctune" not in figures


def test_another_name_of_a_data_set_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CTUNE_SELECTION_DATA", "phantoms, hippocampi")
    with pytest.raises(UsageError, match=r"expected some of phantoms, hippocampus in .*, got 'hippocampi'"):
        asked(["phantoms", "hippocampus"])


@pytest.mark.parametrize(
    ("figure", "value"),
    [
        ("sensitivity", 0.84),
        ("precision", 0.84),
        ("spearman", 0.59),
        ("attention_over_error_volume", 3.1),
        ("minutes_ratio_to_random", 0.51),
        ("minutes_ratio_to_random", None),
        ("scoring_over_prediction_time", 0.11),
    ],
)
def test_a_figure_beyond_its_bound_fails_its_gate(figure: str, value: float | None) -> None:
    measures = summary([{"phantoms": found()}], LARGE)
    measures[figure] = {**measures[figure], "ctune": value}
    failed = [gate.figure for gate in gates(measures, "cpu") if not gate.passed]  # type: ignore[arg-type]
    assert f"{figure}.ctune" in failed


def test_the_smallest_run_goes_from_cohort_to_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = {name: WAYS[name] for name in ("random", "ctune")}
    monkeypatch.setattr("ctune.bench.selection.worth.WAYS", few)
    result, path = run_bench("selection", "smoke", out=tmp_path)
    document = result.document()
    for figure in ("sensitivity", "precision", "minutes_ratio_to_random"):
        assert "ctune" in document[figure]
    assert set(document["minutes_ratio_to_random"]) == set(few)
    assert path.exists() and len(document["data"]) == 1 and document["failures"]
    worth = document["details"]["seed 0"]["phantoms"]["worth"]
    assert all(len(found["rounds"]) == 1 and found["rounds"][0]["minutes"] > 0 for found in worth.values())
    (took,) = [took for name, took in result.parts.items() if name.startswith("seed-0")]
    assert len(took.parts) == 3 + len(few) and all(part.seconds > 0 for part in took.parts.values())
    assert document["scoring_over_plain_prediction_time"]["ctune"] > 0

    # Another run takes the parts of this one: nothing is measured again.
    monkeypatch.setenv("CTUNE_SELECTION_RESULTS", str(tmp_path))
    monkeypatch.setattr("ctune.bench.selection.protocol.one", None)
    merged, _ = run_bench("selection", "smoke", out=tmp_path / "merged")
    assert merged.details == result.details and merged.data == result.data
    assert merged.parts == result.parts and merged.seconds >= sum(p.seconds for p in result.parts.values())


def test_rounds_begin_with_the_heads_that_they_tune(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The base has text heads; the model that all ways start from has pyramids of the revised classes on the same base."""
    from ctune.bench.catalogue import Preset
    from ctune.compositions import load_model

    small = replace(SCALES["phantoms"][Preset.SMOKE], base=2, pool=2, validation=1, tests=1, epochs=1)
    monkeypatch.setitem(SCALES, "phantoms", {Preset.SMOKE: small})
    cohort = make_cohort(tmp_path, "phantoms", Preset.SMOKE, 0, lambda _: None)
    registry, cpu = cohort.project.open_registry(), torch.device("cpu")
    base, model = (load_model(registry, name, cpu) for name in ("base", cohort.model))
    assert {base.network.head(n).kind for n in small.revised} == {"text"}
    assert {model.network.head(n).kind for n in small.revised} == {"pyramid"}
    assert model.record.base == base.record.base


def test_results_of_different_data_sets_are_told_as_one() -> None:
    path, older = next(
        (p, r)
        for p, r in all_results(ROOT / "benchmarks" / "results")
        if r.what == "selection" and HIPPOCAMPUS in r.details["seed 0"]  # type: ignore[operator]
    )
    every: Any = older.details
    # One seed of rounds, as a run leaves them that had no time for more.
    few = {
        name: {data: found for data, found in one.items() if data != COARSE or name == "seed 0"}
        if name.startswith("seed")
        else one
        for name, one in every.items()
    }
    older, rounds = older.model_copy(update={"details": few}), every["seed 0"]
    newer = older.model_copy(
        update={
            "started": "2099-01-01T00:00:00+00:00",
            "seeds": (0, 7),
            "details": {name: {COARSE: rounds[COARSE]} for name in ("seed 0", "seed 7")},
            "failures": (f"{HIPPOCAMPUS}: not among those of CTUNE_SELECTION_DATA", "a disk was full"),
        }
    )
    found = joined([older, newer])
    details: Any = found.details
    assert set(details["seed 0"]) >= {COARSE, HIPPOCAMPUS, PHANTOMS} and set(details["seed 7"]) == {COARSE}
    assert found.seeds == tuple(sorted({*older.seeds, 7}))
    assert (
        found.measures["minutes_ratio_to_random"]
        == summary([{COARSE: rounds[COARSE]}], None)["minutes_ratio_to_random"]
    )
    assert found.measures["sensitivity"] == older.measures["sensitivity"]
    assert found.measures["large_case_seconds_ctune"] == older.measures["large_case_seconds_ctune"]
    assert {gate.figure for gate in found.gates} >= {"sensitivity.ctune", "minutes_ratio_to_random.ctune"}
    assert "a disk was full" in found.failures and not any(
        "CTUNE_SELECTION_DATA" in f for f in found.failures
    )
    assert [f for f in found.failures if f.startswith(f"{HIPPOCAMPUS}: measured {older.started[:10]}")], path
    assert joined([newer]).details == newer.details
    # A later run of fewer seeds of a data set does not hide the one of more.
    one = newer.model_copy(
        update={
            "started": "2099-02-01T00:00:00+00:00",
            "seeds": (7,),
            "details": {"seed 7": {COARSE: rounds[COARSE]}},
        }
    )
    both: Any = joined([older, newer, one]).details
    assert [name for name, by in both.items() if COARSE in by] == ["seed 0", "seed 7"]


def test_what_a_killed_run_had_predicted_takes_its_time_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A prediction that lies there is not made again, so that the seconds of a run that went on would be too few."""
    found = list[bool]()

    def predicts(_: Any, folder: Path, views: Any, say: Any) -> float:
        found.append(folder.exists())
        folder.mkdir(exist_ok=True)
        return 2.0

    monkeypatch.setattr(protocol, "predict_candidates", predicts)
    (tmp_path / "predictions" / "a").mkdir(parents=True)
    project = SimpleNamespace(config=preset("phantom"))
    spent = protocol._predict(
        SimpleNamespace(project=project, candidates=("a",)), tmp_path / "predictions", silent
    )  # type: ignore[arg-type]
    assert found == [False, False] and spent["cpu_seconds"] == spent["plain_cpu_seconds"] == 2.0
    assert not (tmp_path / "predictions-plain").exists()
