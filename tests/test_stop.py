"""When the queue no longer holds real errors: the rule, its interval, and what a project's rounds say."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from ctune.stop import Change, advise, interval


def change(changed_ml: float, number: int = 0) -> Change:
    return Change(f"case{number}", "aorta", 100.0, 100.0, changed_ml)


def test_major_is_a_dice_below_nine_tenths() -> None:
    assert change(19.0).dice == pytest.approx(0.905) and not change(19.0).major
    assert change(21.0).dice == pytest.approx(0.895) and change(21.0).major


def test_an_organ_that_was_made_or_removed_is_major_and_nothing_is_not() -> None:
    assert Change("a", "aorta", 0.0, 12.0, 12.0).major
    assert Change("a", "aorta", 12.0, 0.0, 12.0).major
    assert not Change("a", "aorta", 0.0, 0.0, 0.0).major


def test_two_of_the_last_twenty() -> None:
    advice = advise([change(90.0)] * 30 + [change(1.0)] * 18 + [change(90.0)] * 2)
    assert advice is not None
    assert (advice.looked_at, advice.major, advice.stop) == (20, 2, False)
    assert advice.text == "2 of the last 20 needed a major revision (95 % interval 1 % to 32 %): go on"


def test_it_stops_only_when_the_upper_end_is_tolerable() -> None:
    quiet = [change(1.0)] * 20
    assert advise(quiet, tolerable=0.2).stop is True  # type: ignore[union-attr]
    assert advise(quiet, tolerable=0.1).stop is False  # type: ignore[union-attr]
    assert advise(quiet[:5]).stop is False, "five quiet cases prove nothing"  # type: ignore[union-attr]


def test_before_the_first_revision_there_is_no_advice() -> None:
    assert advise([]) is None


@given(st.integers(1, 60).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_the_ends_are_where_the_binomial_tails_are(pair: tuple[int, int]) -> None:
    successes, trials = pair
    low, high = interval(successes, trials, 0.95)
    assert 0.0 <= low <= successes / trials <= high <= 1.0
    if successes:
        assert binom.sf(successes - 1, trials, low) == pytest.approx(0.025, abs=1e-6)
    if successes < trials:
        assert binom.cdf(successes, trials, high) == pytest.approx(0.025, abs=1e-6)


def test_a_share_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="got 3 of 2"):
        interval(3, 2, 0.95)
