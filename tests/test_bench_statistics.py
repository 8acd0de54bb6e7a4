"""Statistics of benchmarks, against values worked out by hand and properties that must always hold."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ctune.bench.statistics import (
    case_differences,
    comparisons,
    holm,
    mean_interval,
    non_inferior,
    paired_interval,
    shares_cases,
    wilcoxon,
)

DIFFERENCES = st.lists(st.floats(-1, 1), min_size=1, max_size=12)


def test_two_cases_have_the_interval_of_all_four_draws() -> None:
    # Means of two draws from {0, 1}: 0 (1/4), .5 (1/2), 1 (1/4); 2.5 % lie in each end.
    found = paired_interval([[0.0, 1.0]])
    assert (found.mean, found.low, found.high, found.cases, found.seeds) == (0.5, 0.0, 1.0, 2, 1)


def test_the_interval_is_that_of_the_normal_curve_where_cases_are_many() -> None:
    values = np.random.default_rng(3).normal(0.1, 0.2, 400)
    found = paired_interval([values.tolist()])
    half = 1.96 * values.std() / np.sqrt(len(values))
    assert found.low == pytest.approx(values.mean() - half, abs=0.002)
    assert found.high == pytest.approx(values.mean() + half, abs=0.002)


def test_seeds_that_differ_widen_the_interval() -> None:
    # Within a seed all cases agree; what varies is the training. Pooled, twenty cases would hide that.
    alike, apart = paired_interval([[0.1] * 10] * 3), paired_interval([[0.0] * 10, [0.1] * 10, [0.2] * 10])
    assert (alike.low, alike.high) == (0.1, 0.1)
    # Student with two degrees of freedom: 4.303 times .1 over the root of 3. The bootstrap alone ends at 0 and .2.
    assert (apart.low, apart.high) == (
        pytest.approx(0.1 - 0.2484, abs=1e-4),
        pytest.approx(0.1 + 0.2484, abs=1e-4),
    )


def test_the_interval_of_three_seeds_holds_as_often_as_it_says() -> None:
    # Trainings differ by .03, cases by .05 about a difference of 0; the bootstrap alone holds it in about 80 of 100.
    chance, held = np.random.default_rng(5), 0
    for _ in range(100):
        found = paired_interval((chance.normal(0, 0.03, (3, 1)) + chance.normal(0, 0.05, (3, 20))).tolist())
        held += found.low <= 0 <= found.high
    assert held >= 90


def test_an_interval_goes_no_further_than_dice() -> None:
    two = paired_interval([[0.0] * 5, [0.8] * 5])
    assert (two.low, two.high) == (-1.0, 1.0), "two seeds say next to nothing"
    dice = mean_interval([[0.1], [0.9]])
    assert (dice.low, dice.high) == (0.0, 1.0)


@settings(max_examples=25, deadline=None)
@given(st.lists(DIFFERENCES, min_size=1, max_size=3))
def test_the_interval_holds_the_mean_and_lies_within_what_can_be(differences: list[list[float]]) -> None:
    found, every = paired_interval(differences), np.concatenate(differences)
    lowest, highest = (every.min(), every.max()) if len(differences) == 1 else (-1.0, 1.0)
    assert lowest - 1e-9 <= found.low <= found.mean + 1e-9
    assert found.mean - 1e-9 <= found.high <= highest + 1e-9
    assert found == paired_interval(differences), "the same differences give the same interval"
    turned = paired_interval([[-d for d in cases] for cases in differences])
    assert (turned.low, turned.high) == (
        pytest.approx(-found.high, abs=1e-6 + 0.1 * (found.high - found.low)),
        pytest.approx(-found.low, abs=1e-6 + 0.1 * (found.high - found.low)),
    )


def test_nothing_has_no_interval() -> None:
    with pytest.raises(
        ValueError, match="expected at least one difference, got none; measure some cases first"
    ):
        paired_interval([[], []])


def test_signed_ranks_by_hand() -> None:
    # Five differences of one sign: 2 of 2^5 signs are as extreme.
    assert wilcoxon([[0.1, 0.2], [0.3, 0.4, 0.5]]) == pytest.approx(2 / 32)
    # Ranks 1 and 2 negative of 1..4: sums 3 and 7; as extreme or more: 3, 2, 1, 0 and back: 10 of 16 ways.
    assert wilcoxon([[-0.1, -0.2, 0.3, 0.4]]) == pytest.approx(10 / 16)
    assert wilcoxon([[0.0, 0.0]]) == 1.0


def test_holm_by_hand() -> None:
    # Holm 1979: .01 x 4, .02 x 3, .03 x 2 (not below the one before), .5 x 1.
    assert holm({"c": 0.03, "a": 0.01, "d": 0.5, "b": 0.02}) == {"c": 0.06, "a": 0.04, "d": 0.5, "b": 0.06}
    assert holm({}) == {}


@given(st.dictionaries(st.text(min_size=1, max_size=3), st.floats(0, 1), max_size=6))
def test_holm_lies_between_none_and_bonferroni_and_keeps_the_order(p: dict[str, float]) -> None:
    found = holm(p)
    assert list(found) == list(p)
    assert all(p[n] <= found[n] <= min(1.0, len(p) * p[n]) + 1e-12 for n in p)
    order = sorted(p, key=lambda n: p[n])
    assert all(found[a] <= found[b] for a, b in pairwise(order))


@pytest.mark.parametrize(
    ("differences", "said"),
    [
        ([[0.05, 0.07]] * 3, "better, and so non-inferior (margin 0.01; +0.060"),
        ([[-0.004, 0.002]] * 3, "non-inferior (margin 0.01; -0.001"),
        ([[-0.10, -0.08]] * 3, "inferior (margin 0.01; -0.090"),
        ([[-0.10, 0.10]] * 3, "non-inferiority was not shown (margin 0.01; +0.000"),
        ([[0.05, 0.07]], "not decided: 1 seed, 3 are asked for (margin 0.01; +0.060"),
    ],
)
def test_what_may_be_said(differences: list[list[float]], said: str) -> None:
    text = str(non_inferior(differences, 0.01))
    assert text.startswith(said) and "95 % interval" in text and "n = " in text
    assert "no significant difference" not in text


def test_cases_that_seeds_share_are_counted_once() -> None:
    # Five cases of one sign, whatever the number of seeds: 2 of 2^5 signs are as extreme. As fifteen they would give 6e-5.
    shared = [[0.1, 0.2, 0.3, 0.4, 0.5]] * 3
    assert wilcoxon(shared, shared=True) == pytest.approx(2 / 32) and wilcoxon(shared) < 1e-3
    found = paired_interval(shared, shared=True)
    assert (found.cases, found.seeds) == (5, 3) and found.n == "n = 5 cases, each in 3 seeds"
    assert wilcoxon([[0.1, -0.2], [-0.1, 0.2]], shared=True) == 1.0, "means of zero are zero"


def test_seeds_crossed_with_cases_by_hand() -> None:
    # Two seeds that agree, two cases at 0 and 1: the four draws of the cases. Nested, ends would be seldom: 1/16 each.
    found = paired_interval([[0.0, 1.0]] * 2, shared=True)
    assert (found.mean, found.low, found.high) == (0.5, 0.0, 1.0)
    # Cases that agree, seeds at 0 and .1: of the seeds alone, however many cases there are (12.7 times .05 about .05).
    apart = paired_interval([[0.0] * 50, [0.1] * 50], shared=True)
    assert (apart.low, apart.high) == (pytest.approx(-0.5853, abs=1e-4), pytest.approx(0.6853, abs=1e-4))
    assert apart.cases == 50


def test_cases_of_which_all_seeds_say_the_same_are_no_more_certain_for_it() -> None:
    values = np.random.default_rng(5).normal(0.1, 0.2, 40).tolist()
    once, thrice = paired_interval([values]), paired_interval([values] * 3, shared=True)
    assert thrice.high - thrice.low == pytest.approx(once.high - once.low, rel=0.05)
    nested = paired_interval([values] * 3)
    assert nested.high - nested.low < 0.8 * (thrice.high - thrice.low)


def test_shared_seeds_have_the_same_cases() -> None:
    with pytest.raises(ValueError, match="expected the same cases in every seed, got 2, 1 of them"):
        paired_interval([[0.1, 0.2], [0.1]], shared=True)


def test_cohorts_tell_whether_cases_are_shared() -> None:
    data = {
        "cohort, seed 0, unet": "a",
        "cohort, seed 1, unet": "b",
        "cohort, seed 0, swin": "c",
        "cohort, seed 1, swin": "c",
    }
    assert not shares_cases(data) and not shares_cases(data, "unet") and shares_cases(data, "swin")
    assert not shares_cases({"cohort, seed 0": "a"}) and not shares_cases({})


def test_a_corrected_p_is_never_smaller_than_it_was() -> None:
    found = holm({"a": 1.7e-19, "b": 0.2})
    assert found["a"] == 2 * 1.7e-19
    alone = comparisons({"a": [np.linspace(0.01, 0.5, 120).tolist()]}, 0.01)["a"]
    assert 0 < alone["p"] < 1e-19 and alone["p_holm"] == alone["p"]


def test_what_the_test_speaks_of_is_said() -> None:
    three = {"a": [[0.1, 0.2, 0.3]] * 3}
    assert comparisons(three, 0.01)["a"]["p_over"] == "9 cases, the trainings as given"
    once = comparisons(three, 0.01, shared=True)["a"]
    assert once["p_over"] == "3 cases, each with its mean over 3 seeds" and "each in 3 seeds" in once["said"]


def test_a_mean_has_the_interval_of_its_cases_and_seeds() -> None:
    assert mean_interval([[0.2, 0.4]]) == paired_interval([[0.2, 0.4]])


def test_a_margin_is_stated() -> None:
    with pytest.raises(
        ValueError, match="expected a margin above 0, got 0; state what difference would matter"
    ):
        non_inferior([[0.1]], 0)


def test_one_seed_decides_nothing_however_good() -> None:
    assert not non_inferior([[0.5] * 50], 0.01).non_inferior
    assert non_inferior([[0.5] * 50] * 3, 0.01).non_inferior


def test_an_absent_organ_that_was_found_counts_as_a_loss() -> None:
    ours = {"aorta": {"a": 0.8, "b": None}, "liver": {"a": 0.9, "b": 0.9}}
    theirs = {"aorta": {"a": 0.6, "b": 0.0}, "liver": {"a": 0.9, "b": None}}
    assert case_differences(ours, theirs, ["aorta", "liver"]) == pytest.approx([0.1, (1.0 - 0.1) / 2])
    with pytest.raises(ValueError, match="the same cases"):
        case_differences(ours, {"aorta": {"a": 0.6}, "liver": {"a": 0.9, "b": 0.1}}, ["aorta", "liver"])


def test_several_comparisons_know_of_each_other() -> None:
    found = comparisons({"lwf": [[0.1, 0.2, 0.3, 0.4, 0.5]] * 3, "ewc": [[0.1, -0.1, 0.2, -0.2]] * 3}, 0.01)
    assert found["lwf"]["p_holm"] == pytest.approx(2 * found["lwf"]["p"]) and found["lwf"]["non_inferior"]
    assert found["ewc"]["p_holm"] == found["ewc"]["p"] and found["ewc"]["cases"] == 12
    assert found["ewc"]["said"].startswith("non-inferiority was not shown (margin 0.01;")
