"""Regions by hand, figures by hand, and the whole benchmark at its smallest."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch

from ctune.bench.catalogue import Preset
from ctune.bench.report.plots import Bars
from ctune.bench.result import BenchResult, Gate
from ctune.bench.run import run_bench
from ctune.bench.selection import protocol
from ctune.bench.selection.chapter import compared_in_words, minutes_in_words, tables
from ctune.bench.selection.cohort import (
    COARSE,
    HIPPOCAMPUS,
    PHANTOMS,
    SCALES,
    _real,
    kind_of_image,
    make_cohort,
)
from ctune.bench.selection.compared import against, gain
from ctune.bench.selection.figures import (
    curve,
    gates,
    minutes_to,
    ratios_to_random,
    spearman_ends,
    summary,
)
from ctune.bench.selection.finding import ranking
from ctune.bench.selection.joined import joined
from ctune.bench.selection.parts import Earlier, asked
from ctune.bench.selection.plots import made_from, plots
from ctune.bench.selection.regions import Regions, count_regions, error_regions
from ctune.bench.selection.table import newest, table
from ctune.bench.selection.worth import WAYS
from ctune.bench.statistics import Interval
from ctune.config import preset
from ctune.errors import UsageError
from ctune.types import Grid, silent

ROOT = Path(__file__).resolve().parents[1]
REAL = ROOT.parent / "shared" / "data" / "hippocampus"
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


def way(*rounds: tuple[float, float]) -> dict[str, Any]:
    """From Dice .5 of each of four cases, rounds of (minutes, Dice after)."""
    after = [{"minutes": m, "dice": {"liver": dict.fromkeys("abcd", d)}, "cases": ["x"]} for m, d in rounds]
    return {"before": {"liver": dict.fromkeys("abcd", 0.5)}, "rounds": after}


def test_a_curve_is_of_the_cases_in_which_there_is_something_to_measure() -> None:
    rounds = way((10, 0.6), (20, 0.8))
    for dice in (rounds["before"], *(done["dice"] for done in rounds["rounds"])):
        dice["liver"]["e"] = None
    assert curve(rounds) == [(0.0, 0.5), (10.0, 0.6), (30.0, 0.8)]


def test_a_round_is_not_divided() -> None:
    """Dice .5001 is reached after nine seconds only on the line that is drawn between two measured points."""
    points = curve(way((10, 0.6), (20, 0.8)))
    assert minutes_to(points, 0.5001) == 10 and minutes_to(points, 0.6) == 10
    assert minutes_to(points, 0.61) == 30 and minutes_to(points, 0.8) == 30
    assert minutes_to(points, 0.5) == 0 and minutes_to(points, 0.81) is None


def found() -> dict[str, Any]:
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


def test_what_scoring_costs_is_the_median_of_turns_measured_apart() -> None:
    """Seeds are measured side by side, which makes scoring dearer than it is: their ratio is .05 here."""
    turns = [{"prediction": 10.0, "ctune": seconds, "aa8k": 2.0} for seconds in (0.5, 0.6, 3.0)]
    cost = {"scale": {}, "turns": turns}
    seeds = {"seed 0": {PHANTOMS: found()}, "seed 1": {PHANTOMS: found()}}
    measures = summary(list(seeds.values()), None, cost)
    assert measures["scoring_over_prediction_time"] == {"ctune": 0.06, "aa8k": 0.2}
    assert summary(list(seeds.values()))["scoring_over_prediction_time"]["ctune"] == 0.05
    (gate,) = (
        g
        for g in gates(summary([], None, cost), Preset.CPU)
        if g.figure.startswith("scoring_over_prediction")
    )
    assert gate.passed and gate.value == 0.06
    _, real = newest(ROOT / "benchmarks" / "results")
    drawn = plots(real.model_copy(update={"details": {**seeds, "cost": cost}, "measures": measures}))[-1]
    assert isinstance(drawn, Bars) and "the median of 3 turns, lowest to highest" in drawn.caption
    assert "seeds together" not in drawn.caption, "no bar is of seeds"
    (bar,) = [bar for bar in drawn.bars if bar.name == "phantoms, importance"]
    assert (bar.value, bar.low, bar.high) == (0.06, 0.05, 0.3)


def test_the_rank_correlation_has_an_interval_over_trainings() -> None:
    """Three seeds: 1, 1 and .5 (one pair of three cases changed); Student's half width is 4.303 x .289 / 3 ** .5."""
    other = found()
    other["finding"]["recipes"]["ctune"]["score"] = {"a": 2, "b": 1, "c": 3}
    low, high = spearman_ends([found(), found(), other], "ctune")
    assert high == 1.0 and low == pytest.approx(0.8333 - 4.303 * 0.2887 / 3**0.5, abs=1e-3)


def test_a_table_tells_what_there_is() -> None:
    """A result of one data set, and one of rounds alone, have no rows of what they did not measure."""
    phantoms = found() | {"finding_also": {"several": found()["finding"]}, "scale": {"models": 5}}
    phantoms["predicting"] = {"cpu_seconds": 20.0, "several_cpu_seconds": 60.0}
    made = table("some.json", told([phantoms] * 3, PHANTOMS))
    assert "| phantoms, 5 models | .900 / .500 |" in made and "| hippocampus, one pass" not in made
    assert "its 95 % interval, over seeds | | [1.00, 1.00] |" in made
    rounds = table("some.json", told([found()] * 3, COARSE))
    assert "interval, over seeds" not in rounds and "coarse phantoms, 3 seeds" in rounds


def test_a_run_of_the_cost_alone_is_told_without_seeds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is taken into another run where its scale is the same."""
    monkeypatch.setenv("CTUNE_SELECTION_DATA", "cost")
    turn = {"prediction": 10.0, "ctune": 0.5, "aa8k": 1.0}
    scale = asdict(replace(SCALES[PHANTOMS][Preset.SMOKE], models=1))
    monkeypatch.setattr(protocol, "measure_cost", lambda *_: {"scale": scale, "turns": [turn] * 3})
    result, _ = run_bench("selection", "smoke", out=tmp_path)
    assert result.measures["scoring_over_prediction_time"] == {"ctune": 0.05, "aa8k": 0.1}
    assert tables(result).tables == () and plots(result) == []
    monkeypatch.setenv("CTUNE_SELECTION_RESULTS", str(tmp_path))
    earlier = Earlier("smoke")
    assert earlier.alone("cost", scale) and earlier.alone("cost", {**scale, "pool": 9}) is None
    both = joined([told([found()], PHANTOMS), result])
    assert both.measures["scoring_over_prediction_time"]["ctune"] == 0.05  # type: ignore[index,call-overload]
    assert "cost" in both.details and "seed 0" in both.details


def rounds_of(ours: dict[str, Any], random: dict[str, Any], **others: dict[str, Any]) -> dict[str, Any]:
    """A seed with these rounds; every way that is not named does as random choice does."""
    return found() | {"worth": dict.fromkeys(WAYS, random) | {"ctune": ours} | others}


def told(seeds: list[dict[str, Any]], data: str = COARSE, **more: Any) -> BenchResult:
    """A result of one data set."""
    by_seed = {f"seed {n}": {data: seed} for n, seed in enumerate(seeds)}
    _, real = newest(ROOT / "benchmarks" / "results")
    measures = summary(list(by_seed.values()), None)
    bounds = tuple(gates(measures, Preset.CPU))
    return real.model_copy(
        update={"details": by_seed, "measures": measures, "gates": bounds, "data": {}, **more}
    )


def ratio_gate(result: BenchResult, end: str = "") -> Gate:
    return next(g for g in result.gates if g.figure == f"minutes_ratio_to_random{end}.ctune")


def test_the_ratio_is_the_mean_of_those_of_the_seeds() -> None:
    slow = found() | {"worth": {n: way((10, 0.6), (10, 0.7)) for n in WAYS}}
    measures = summary([{"phantoms": found()}, {"phantoms": slow}], LARGE)
    assert measures["minutes_ratio_to_random_by_seed"]["ctune"] == pytest.approx([0.5, 1.0])
    assert measures["minutes_ratio_to_random_by_seed"]["random"] == pytest.approx([1.0, 1.0])
    assert measures["minutes_ratio_to_random"]["ctune"] == pytest.approx(0.75)


def test_headline_tile_table_and_gate_count_whole_rounds() -> None:
    """Importance passes random's last Dice in its first round of 10 minutes; random choice spends 20."""
    seeds = [rounds_of(way((10, 0.9), (10, 0.9)), way((10, 0.5), (10, 0.52))) for _ in range(3)]
    result = told(seeds)
    chapter = tables(result)
    assert ratio_gate(result).value == pytest.approx(0.5)
    assert chapter.tiles[0].value == ".50"
    assert (
        "needs .50 of the minutes of random choice" in chapter.short[0] and "whole rounds" in chapter.short[0]
    )
    rows = next(t.rows for t in chapter.tables if t.title.startswith("What the expert's minutes"))
    assert [row[-1] for row in rows] == ["1.00", ".50", "1.00", "1.00", "1.00"]


def test_where_random_choice_gains_nothing_in_a_seed_no_ratio_is_decided() -> None:
    """It gains .003 in the mean of five seeds, less than it differs between them, and loses in the last."""
    ends = (0.53, 0.51, 0.50001, 0.50001, 0.475)
    seeds = [rounds_of(way((10, 0.9), (10, 0.9)), way((10, 0.5), (10, end))) for end in ends]
    result = told(seeds, HIPPOCAMPUS)
    gate = ratio_gate(result, "_hippocampus")
    assert gate.value is None and not gate.passed
    assert set(result.measures["minutes_ratio_to_random_hippocampus"].values()) == {None}  # type: ignore[union-attr]
    chapter = tables(result)
    assert (
        "+.003 Dice [-.022, .028] from where it began, is not decided: in 1 of 5 seeds it does not come"
        in chapter.short[0]
    )
    assert [tile.value for tile in chapter.tiles] == [".90"], "what attention finds stands there instead"
    rows = next(t.rows for t in chapter.tables if t.title.startswith("What the expert's minutes"))
    assert {row[-1].split(";")[0] for row in rows} == {"not decided"}


def test_how_much_there_was_to_gain_is_told_beside_the_minutes() -> None:
    said = minutes_in_words([0.36, 0.37], 2, Interval(0.01, -0.001, 0.02, cases=40, seeds=2))
    assert "importance needs .36 (.36 to .37) of the minutes" in said and said.endswith(
        "in whole rounds (2 seeds)"
    )
    assert "ends, +.010 Dice [-.001, .020] from where it began" in said


def test_a_way_that_does_not_come_there_in_every_seed_has_no_ratio() -> None:
    """Others keep theirs: random choice gained in each seed."""
    gains = way((10, 0.6), (10, 0.7))
    seeds = [
        rounds_of(way((10, 0.9)), gains),
        rounds_of(way((10, 0.9)), gains),
        rounds_of(way((10, 0.6)), gains),
    ]
    result = told(seeds)
    assert ratio_gate(result).value is None
    assert result.measures["minutes_ratio_to_random"]["random"] == pytest.approx(1.0)  # type: ignore[index,call-overload]
    chapter = tables(result)
    assert (
        "is not decided: in 1 of 3 seeds it does not come there, or random choice gains nothing"
        in chapter.short[0]
    )
    rows = next(t.rows for t in chapter.tables if t.title.startswith("What the expert's minutes"))
    assert rows[1][-1] == "not decided; comes there in 2 of 3 seeds"


def by_cases(*values: float) -> dict[str, Any]:
    """One round of 10 minutes, with a Dice of its own for each case."""
    cases = {f"case {n:02d}": value for n, value in enumerate(values)}
    after = {"minutes": 10, "dice": {"liver": cases}, "cases": ["x"]}
    return {"before": {"liver": dict.fromkeys(cases, 0.5)}, "rounds": [after]}


def compared(ours: dict[str, Any], **others: dict[str, Any]) -> tuple[list[str], str, dict[str, list[str]]]:
    """(columns, the note, {other way: its row}) of three such seeds of phantoms, each with a cohort of its own."""
    random = by_cases(*[0.6] * 20)
    seeds = [rounds_of(ours, random, **others) | {"digest": str(n)} for n in range(3)]
    chapter = tables(told(seeds))
    table = next(t for t in chapter.tables if t.title == f"Importance less each other way: {COARSE}")
    return list(table.columns), chapter.said[0], {row[0]: list(row) for row in table.rows}


def test_importance_is_compared_with_each_other_way_by_case() -> None:
    """Two of twenty cases are far better than by chance, all others a hair worse; entropy alone has the same two."""
    few = by_cases(0.95, 0.95, *[0.599] * 18)
    columns, note, rows = compared(few, uncertainty=few)
    assert list(rows) == ["random", "entropy alone", "diverse", "stratified"]
    assert rows["random"][1].startswith("+.034 [") and rows["random"][2] == "6 : 54 : 0"
    assert rows["entropy alone"][1].startswith("0 [") and rows["entropy alone"][2] == "0 : 0 : 60"
    assert "p by Holm" in columns
    assert "not shown to be better than entropy alone (0 [0, 0])" in note


def test_a_gain_that_a_few_cases_carry_is_said_to_be_theirs() -> None:
    """The words follow the figures: 100 cases, a mean above 0, and a test of ranks that sees nothing."""
    one = {
        "mean": 0.026, "low": 0.003, "high": 0.056, "cases": 100, "seeds": 5, "shared": False, "p": 0.46, "p_holm": 0.92,
        "non_inferior": True, "higher": 44, "lower": 56, "equal": 0, "carried_by": 8,
    }  # fmt: skip
    open_ = {**one, "mean": -0.002, "low": -0.005, "high": 0.003, "p": 0.1, "p_holm": 0.3}
    note = compared_in_words("coarse phantoms", {"random": one, "uncertainty": open_})
    assert note == (
        "Coarse phantoms, Dice after the last round with 95 % intervals: importance is higher in the mean, but not case by case, than random "
        "(+.026 [.003, .056], Wilcoxon's p .46, by Holm .92; a few cases carry it: without 8 of 100 nothing is left); it is not shown to be "
        "better than entropy alone (-.002 [-.005, .003])."
    )
    better = {**one, "p": 0.001, "p_holm": 0.004}
    assert "importance is better than random" in compared_in_words(COARSE, {"random": better})
    against = {**open_, "p": 0.001, "p_holm": 0.004}
    assert "yet lower in 56 of 100 cases" in compared_in_words(COARSE, {"random": against})
    worse = {**open_, "high": -0.001}
    assert "importance is worse than random" in compared_in_words(COARSE, {"random": worse})
    few = {**one, "seeds": 2}
    assert "cannot be judged from fewer than 3 seeds" in compared_in_words(COARSE, {"random": few})


def test_a_case_that_all_seeds_share_is_one_case() -> None:
    rounds = by_cases(0.95, *[0.6] * 19)
    own = [rounds_of(rounds, by_cases(*[0.6] * 20)) | {"digest": str(n)} for n in range(3)]
    same = [{**one, "digest": "one"} for one in own]
    assert [against(seeds)["random"]["cases"] for seeds in (own, same)] == [60, 20]
    assert [against(seeds)["random"]["higher"] for seeds in (own, same)] == [3, 1]
    assert gain(same).shared and not gain(own).shared


def test_figure_table_headline_and_gate_count_regions_alike() -> None:
    """Seeds with 9 of 10 and with 0 of 90 regions: 9 of 100, not the mean of .9 and 0."""
    poor = found()
    counted = asdict(Regions(90, 0, 10, 5, 5.0, 10.0))
    poor["finding"]["recipes"]["ctune"]["regions"] = {"liver": counted}
    result = told([found(), poor])
    chapter = tables(result)
    drawn = next(p for p in plots(result) if p.title == f"Errors found by region: {COARSE}")
    assert isinstance(drawn, Bars)
    bar = drawn.bars[0]
    assert (bar.value, bar.low, bar.high) == pytest.approx((0.09, 0.0, 0.9))
    assert result.measures["sensitivity_coarse"]["ctune"] == pytest.approx(0.09)  # type: ignore[index,call-overload]
    assert chapter.tables[0].rows[0][1] == ".09 (0 to .90)"
    assert "attention finds .09 (0 to .90) of the error regions" in chapter.short[0]


def test_captions_say_seeds_and_what_bars_and_bands_are() -> None:
    _, result = newest(ROOT / "benchmarks" / "results")
    for plot in plots(result):
        assert "5 seeds" in plot.caption, plot.title
        ends = (
            "lowest to highest of the seeds"
            if isinstance(plot, Bars)
            else "95 % intervals over cases and seeds"
        )
        assert ends in plot.caption, plot.title


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


def test_the_published_recipe_may_not_find_more_from_several_models() -> None:
    one = found()
    recipes = one["finding"]["recipes"]
    other_way = {**one["finding"], "recipes": {"ctune": recipes["aa8k"], "aa8k": recipes["ctune"]}}
    for several, passed in ((one["finding"], True), (other_way, False)):
        seed = {**one, "finding_also": {"several": several}}
        seed["predicting"] = {"cpu_seconds": 20.0, "several_cpu_seconds": 60.0}
        measures = summary([{"phantoms": seed}], LARGE)
        held = {gate.figure: gate.passed for gate in gates(measures, Preset.CPU) if "_several" in gate.figure}
        assert len(held) == 2 and set(held.values()) == {passed}


def test_results_from_before_say_that_they_were_made_from_views() -> None:
    now = {"predicting": {"cpu_seconds": 1.0}}
    assert made_from("plain", [now]) == ""
    assert (
        made_from("plain", [{"predicting": {"cpu_seconds": 3.0, "plain_cpu_seconds": 1.0}}]) == ", with views"
    )


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
    assert len(took.parts) == 5 + len(few) and all(part.seconds > 0 for part in took.parts.values())
    for figure in ("scoring_over_prediction_time_views", "scoring_over_prediction_time_several"):
        assert document[figure]["ctune"] > 0
    assert set(document["details"]["seed 0"]["phantoms"]["finding_also"]) == {"views", "several"}
    assert document["sensitivity_several"].keys() == document["sensitivity_views"].keys() == {"ctune", "aa8k"}
    told = [row[0] for row in tables(result).tables[0].rows]
    assert told == [
        "phantoms: importance", "phantoms: published recipe", "phantoms: importance, with views",
        "phantoms: importance, 2 models", "phantoms: published recipe, 2 models",
    ]  # fmt: skip

    # Another run takes the parts of this one: nothing is measured again.
    monkeypatch.setenv("CTUNE_SELECTION_RESULTS", str(tmp_path))
    monkeypatch.setattr("ctune.bench.selection.protocol.one", None)
    merged, _ = run_bench("selection", "smoke", out=tmp_path / "merged")
    assert merged.details == result.details and merged.data == result.data
    assert merged.parts == result.parts and merged.seconds >= sum(p.seconds for p in result.parts.values())


def test_rounds_begin_with_the_heads_that_they_tune(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The base has text heads; the model that all ways start from has pyramids of the revised classes on the same base."""
    from ctune.compositions import load_model

    small = replace(SCALES["phantoms"][Preset.SMOKE], base=2, pool=2, validation=1, tests=1, epochs=1)
    monkeypatch.setitem(SCALES, "phantoms", {Preset.SMOKE: small})
    cohort = make_cohort(tmp_path, "phantoms", Preset.SMOKE, 0, lambda _: None)
    registry, cpu = cohort.project.open_registry(), torch.device("cpu")
    base, model = (load_model(registry, name, cpu) for name in ("base", cohort.model))
    assert {base.network.head(n).kind for n in small.revised} == {"text"}
    assert {model.network.head(n).kind for n in small.revised} == {"pyramid"}
    assert model.record.base == base.record.base


def test_the_kind_of_an_mr_image_is_how_its_numbers_lie_on_disk(tmp_path: Path) -> None:
    for name, dtype, largest in (
        ("bytes", np.uint8, 255),
        ("small", np.float32, 2e4),
        ("large", np.float32, 2.1e4),
    ):
        values = np.full((4, 4, 4), largest, dtype=dtype)
        nib.save(nib.Nifti1Image(values, np.eye(4)), tmp_path / f"{name}.nii.gz")  # type: ignore[no-untyped-call]
        assert kind_of_image(tmp_path / f"{name}.nii.gz") == name


@pytest.mark.skipif(not REAL.exists(), reason=f"{REAL} is not here")
def test_the_base_of_the_hippocampus_sees_one_kind_of_image(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the lists that came with the data, which the benchmark does not read."""
    monkeypatch.setenv("CTUNE_HIPPOCAMPUS", str(REAL))
    groups = json.loads((REAL / "intensity_groups.json").read_text())
    group = {name.split(".")[0]: key for key, names in groups.items() for name in names}
    scale = SCALES[HIPPOCAMPUS][Preset.CPU]
    for seed in (0, 1):
        parts = {name: [group[case.id] for case in cases] for name, cases in _real(scale, seed).items()}
        assert set(parts["base"]) == {"B"} and len(parts["base"]) == scale.base
        assert parts["pool"].count("B") == 56 and parts["tests"].count("B") == 42 and "A" in parts["pool"]


def test_results_of_different_data_sets_are_told_as_one() -> None:
    _, older = newest(ROOT / "benchmarks" / "results")
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
    assert [f for f in found.failures if f.startswith(f"{HIPPOCAMPUS}: measured {older.started[:10]}")]
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

    def predicts(_: Any, folder: Path, views: Any, say: Any, model: str = "base") -> float:
        found.append(folder.exists())
        asked.append((folder.name, len(views), model))
        folder.mkdir(exist_ok=True)
        return 2.0

    asked = list[tuple[str, int, str]]()
    monkeypatch.setattr(protocol, "predict_candidates", predicts)
    for name in ("predictions-1", "predictions-views"):
        (tmp_path / name / "a").mkdir(parents=True)
    cohort: Any = SimpleNamespace(
        project=SimpleNamespace(config=preset("phantom")), candidates=("a",), model="base", others=("other",)
    )
    spent = protocol._predict(cohort, protocol._Places(tmp_path), silent)
    assert found == [False] * 3 and spent["cpu_seconds"] == spent["views_cpu_seconds"] == 2.0
    assert spent["several_cpu_seconds"] == 4.0, "both models took their time"
    assert asked == [
        ("predictions-1", 0, "base"),
        ("predictions-2", 0, "other"),
        ("predictions-views", 2, "base"),
    ]
