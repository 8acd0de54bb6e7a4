"""Chapters of the benchmarks' page: every figure from the cases in the details, whatever a result's measures say."""

from __future__ import annotations

from typing import Any

import pytest
from test_bench_report import result, speed_seed

from ctune.bench.catalogue import find_bench
from ctune.bench.paper import chapter as paper_chapter
from ctune.bench.paper import tables as paper_tables
from ctune.bench.report.promises import promise_table, promises_of
from ctune.bench.report.tables import Chapter, Table, by_case, mean_dice
from ctune.bench.result import Gate
from ctune.bench.speed import chapter as speed_chapter
from ctune.classes import NEW_FOUR, NINE_ORGANS, OLD_FIVE


def cells(table: Table, row: str) -> list[str]:
    (found,) = [cells[1:] for cells in table.rows if cells[0] == row]
    return list(found)


def speed(data: dict[str, str], what: str = "speed") -> Chapter:
    """Two seeds; continual tuning has .8 and .5 where the ceiling has lost the stomach."""
    seeds = {"seed 0": speed_seed(50.0, 0.7), "seed 1": speed_seed(150.0, 0.5)}
    for seed in seeds.values():
        lost = {
            "aorta": {"a": 0.9, "b": None},
            "stomach": {"a": 0.0, "b": 0.0},
            "liver": {"a": 0.9, "b": 0.9},
        }
        seed["full"]["ceiling"] = {**seed["full"]["ceiling"], "dice": lost}
    stale = {"continual_less_rival": {"cases": 99, "p_holm": 0.0}}
    return speed_chapter.tables(result(what=what, details=seeds, data=data, measures=stale))


def test_dice_stands_by_organ_and_way() -> None:
    dice, less, cost = speed({}).tables
    assert dice.columns == ["", "continual", "full, same annotations", "full, all annotated", "text head"]
    assert cells(dice, "aorta") == [".80", ".80", ".90", ".80"] and cells(dice, "mean of the new")[2] == ".45"
    assert cells(less, "stomach")[0].startswith("0 [0, 0]") and "the 6 comparisons" in less.caption
    assert cells(cost, "cases") == ["200", "12", "16.7"]
    assert cells(cost, "time, to the Dice of continual tuning") == [
        "100; not reached in 300 s",
        "5",
        "20, in 1 of 2 seeds",
    ]


def test_what_the_base_took_and_that_heads_differ_is_said() -> None:
    seed = speed_seed(50.0, 0.7)
    seed["base"] = {"curve": [{"epoch": 1, "cpu_seconds": 20.0}, {"epoch": 2, "cpu_seconds": 45.0}]}
    told = speed_chapter.tables(result(what="speed", details={"seed 0": seed}))
    # 100 s of full training over 5 s of tuning and 45 s of the base.
    assert cells(told.tables[-1], "the base, once for all rounds (processor seconds)") == [
        "",
        "45",
        "2 with it, once",
    ]
    assert any("Heads differ too" in said for said in told.said)


def test_a_class_that_was_lost_is_said_and_the_others_compared() -> None:
    said = speed({}).said
    assert "Full training (all annotated) loses the stomach in every seed: its mean says little." in said
    assert (
        "On the others (aorta) it has .90, continual tuning .80: .10 apart, where at most .06 was aimed at."
        in said
    )
    assert any(one.startswith("Against full, same annotations: not decided: 2 seeds") for one in said)


def test_full_training_is_paced_by_the_steps_that_were_timed_beside_the_tuning() -> None:
    seed = speed_seed(50.0, 0.7)
    seed["continual"]["pyramid"]["full_step"] = {"cpu_seconds": 0.5, "seconds": 1.0}
    told = speed_chapter.tables(result(what="speed", details={"seed 0": seed}))
    # 400 steps of .5 s where the training took 100 s; its Dice came at its end.
    cost = told.tables[-1]
    assert cells(cost, "time, to the end (processor seconds)") == ["200", "5", "40"]
    assert cells(cost, "time, to the Dice of continual tuning")[0] == "200" and "right beside" in cost.caption
    assert any(
        one.startswith("In its last 1 epochs full training (same annotations) changed by .6")
        for one in told.said
    )


def test_cases_that_seeds_share_are_said_once() -> None:
    own, same = ({f"cohort, seed {n}": digest for n, digest in enumerate(d)} for d in ("ab", "aa"))
    assert "n = 4 cases of 2 seeds" in speed(own).short[0]
    assert "n = 2 cases, each in 2 seeds" in speed(same, "hippocampus").short[0]


def paper_seed(shift: float) -> dict[str, Any]:
    """Both backbones and settings; heads do not move the old five, and hybrid and revised-only heads are one."""

    def dice(old: float, new: float) -> dict[str, dict[str, float]]:
        return {n: {"a": (old if n in OLD_FIVE else new) + shift, "b": (old if n in OLD_FIVE else new)} for n in NINE_ORGANS}  # fmt: skip

    def rounds(old: float, new: float) -> list[dict[str, Any]]:
        return [{"dice": dice(old, new - 0.1), "steps": 10, "max_abs_logit_change": 0.0}, {"dice": dice(old, new), "steps": 10, "max_abs_logit_change": 0.0}]  # fmt: skip

    cell = {
        "before": dice(0.8, 0.4), "full, all": rounds(0.7, 0.6), "hybrid, heads": rounds(0.8, 0.7),
        "revised-only, heads": rounds(0.8, 0.7), "revised-only, all": rounds(0.0, 0.5),
    }  # fmt: skip
    poor = {**cell, "before": dice(0.3, 0.1)}
    return {
        "swin_unetr": {"table 1": poor, "table 2": poor},
        "unet_small": {"table 1": cell, "table 2": cell},
    }


SIZES = {
    name: {"cases": cases, "revised": 6, "tests": 2, "epochs": 10, "tune_epochs": 2, "whole_epochs": 4}
    for name, cases in (("unet_small", 40), ("swin_unetr", 12))
}


@pytest.fixture(scope="module")
def chapter() -> Chapter:
    details = {f"seed {n}": paper_seed(0.02 * n) for n in range(3)}
    return paper_chapter.tables(
        result(what="paper", seeds=(0, 1, 2), details={**details, "differs": "phantoms", "scales": SIZES})
    )


def test_the_papers_tables_stand_by_organ_beside_the_same_backbone(chapter: Chapter) -> None:
    first, swin, second, *_ = chapter.tables
    assert (
        first.title.endswith("U-Net")
        and "prints no U-Net here" in first.caption
        and swin.title.endswith("Swin UNETR")
    )
    assert cells(swin, "published: hybrid")[:3] == [".95", ".92", ".91"], "Swin UNETR beside Swin UNETR"
    assert cells(second, "published: hybrid")[5:9] == [".64", ".70", ".55", ".42"], "U-Net beside U-Net"
    one, two = (cells(first, f"ours: revised-only or hybrid, heads, round {n}") for n in (1, 2))
    assert one[5] == ".61 (.60 to .62)" and two[5] == ".71 (.70 to .72)" and one[0] == two[0]
    assert len(first.columns) == 1 + 9 + 2


def test_no_backbone_is_left_out_in_short(chapter: Chapter) -> None:
    """One of the two alone would be the one that did better."""
    assert ["U-Net" in line for line in chapter.short] == [True, False]
    assert ["Swin UNETR" in line for line in chapter.short] == [False, True]
    assert all("table 1: " in line and "table 2: " in line for line in chapter.short)


def test_what_may_not_be_concluded_is_said(chapter: Chapter) -> None:
    said = " ".join(chapter.said)
    assert '"hybrid" and "revised-only" are the same to the last digit' in said
    assert (
        "The Swin UNETR base, trained on 12 cases, is too poor to conclude anything from it: .31 and .31"
        in said
    )
    assert "The U-Net base" not in said
    compared = chapter.tables[5]
    assert [row[0] for row in compared.rows] == [
        "Table 1, U-Net",
        "Table 2, U-Net",
        "Table 1, Swin UNETR",
        "Table 2, Swin UNETR",
    ]
    assert "by Holm over all 4" in compared.caption


def test_all_tables_of_the_paper_are_one_family() -> None:
    seeds = [dict(reversed(paper_seed(0.02 * n).items())) for n in range(3)]
    for seed in seeds:
        for cells_ in seed.values():
            for cell in cells_.values():
                cell["hybrid, all"] = cell["full, all"]
    found = paper_tables.compared(seeds, "unet_small")
    every = [one for tables in found.values() for one in tables.values()]
    assert {one["family"] for one in every} == {8} and all(one["p_holm"] >= one["p"] for one in every)
    table = paper_chapter.differences(found, seeds)
    assert [row[1] for row in table.rows] == ["full data"] * 4 + ["hybrid data"] * 4
    assert len({row[0] for row in table.rows}) == 4


def test_what_makes_a_rivals_mean_worth_little_is_said() -> None:
    def dice(old: float, new: float, last: float) -> Any:
        return {n: {"a": old} for n in OLD_FIVE} | {
            n: {"a": last if n == NEW_FOUR[-1] else new} for n in NEW_FOUR
        }

    cell = {
        "before": dice(0.8, 0.0, 0.0),
        "hybrid, heads": [{"dice": dice(0.8, 0.7, 0.5)}],
        "full, all": [{"dice": dice(0.6, 0.6, 0.01)}],
    }
    seeds = [{"unet_small": {"table 1": cell, "table 2": cell}}] * 2
    found = paper_chapter.lost(seeds, paper_tables.compared(seeds, "unet_small")["full, all"])
    gone, fell = found[:2]
    assert (
        f"has not found the {NEW_FOUR[-1].replace('_', ' ')} in any seed" in gone
        and "heads have .70, all weights .60" in gone
    )
    assert "has .60 on them where the base had .80" in fell and len(found) == 4
    rounds = paper_chapter.by_round(
        [
            {
                "unet_small": {
                    "table 2": {
                        **cell,
                        "hybrid, heads": cell["hybrid, heads"] * 2,
                        "full, all": cell["full, all"] * 2,
                    }
                }
            }
        ]
    )
    assert cells(rounds, "published: full, Swin UNETR") == [".544", "not said"]
    assert cells(rounds, "ours: continual, U-Net")[0] == f"{(5 * 0.8 + 3 * 0.7 + 0.5) / 9:.3f}"[1:]


def test_few_steps_are_told_where_epochs_are_alike() -> None:
    seed = paper_seed(0.0)
    for cells_ in seed.values():
        for cell in cells_.values():
            cell["hybrid, all"] = cell["full, all"]
    assert paper_chapter.few_steps([seed]) == [], "as many as full data has"
    fewer = [{**round_, "steps": 3} for round_ in seed["unet_small"]["table 1"]["full, all"]]
    for cell in seed["unet_small"].values():
        cell["hybrid, all"] = fewer
    (told,) = paper_chapter.few_steps([seed])
    assert told.startswith("U-Net: through all weights") and "6 steps where full data has 20" in told


def test_what_differs_is_counted(chapter: Chapter) -> None:
    differs = chapter.tables[6]
    assert cells(differs, "seeds") == ["not said", "3", "3"] and cells(differs, "training cases")[1:] == [
        "40",
        "12",
    ]
    assert cells(differs, "epochs of a round, all weights") == ["100, by its public code", "4", "4"]
    assert cells(differs, "steps of both rounds, table 1, revised-only, all") == ["not said", "20", "20"]
    assert cells(differs, "steps of both rounds, table 1, full, all") == ["not said", "20", "20"]


def test_an_absent_organ_is_left_out_of_a_mean_and_a_missing_class_is_a_miss() -> None:
    dice: dict[str, dict[str, float | None]] = {"aorta": {"a": 0.5, "b": None}, "liver": {"a": 0.7, "b": 0.9}}
    assert by_case(dice, ["aorta", "liver"]) == [pytest.approx(0.6), 0.9]
    assert mean_dice(dice, [*dice, *NEW_FOUR[:1]]) == pytest.approx((0.5 + 0.8 + 0.0) / 3)


def test_promises_count_the_seeds_that_are_behind_them() -> None:
    gates = (
        Gate(figure="minutes_ratio_to_random.ctune", value=0.6, bound=0.5, reference="r"),
        Gate(figure="sensitivity.ctune", value=0.9, bound=0.85, at_most=False, reference="r"),
    )
    details = {"seed 0": {"phantoms": {"worth": {"random": {}}}}, "seed 1": {"phantoms": {"worth": {}}}}
    found = result(what="selection", gates=gates, details=details)
    table = promise_table("Promises", promises_of(find_bench("selection"), [found]))
    assert [row[2:] for row in table.rows] == [
        ["at most 0.5", "NOT KEPT", "one seed"],
        ["at least 0.85", "kept", "2 seeds"],
    ]


def test_rivals_of_a_short_budget_are_said_to_have_had_one() -> None:
    from ctune.bench.forgetting.chapter import short_budget

    (said,) = short_budget([{"base": {}, "ways": {}}])
    assert "not even fine-tuning learns" in said
    assert short_budget([{"base": {}, "ways": {}, "equal_time": {}}]) == []
