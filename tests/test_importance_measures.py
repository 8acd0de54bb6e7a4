"""Measures and plausibility, each against a case worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from ctune.config import ImportanceConfig
from ctune.errors import DataError
from ctune.importance import Usual, aa8k, doubt, mutual_information, score_case, usual_volumes
from ctune.importance.crops import claimed_twice, crop, histogram, levels, occupied
from ctune.importance.measures import CUBE, fragments, share
from ctune.importance.morphology import dilated, eroded, opened
from ctune.importance.own import FLOOR
from ctune.importance.plausibility import odd_volume, partner, usual_in_pool, wrong_side
from ctune.types import Grid, Prediction

AA8K = ImportanceConfig(recipe="aa8k")


def test_mutual_information_is_what_members_disagree_about() -> None:
    """Two members at .9 and .1: H(.5) = 1 bit, each alone .469; two at .5 are unsure and agree."""
    members = np.array([[0.9, 0.5], [0.1, 0.5]], dtype=np.float32)
    one = -(0.9 * math.log2(0.9) + 0.1 * math.log2(0.1))
    assert np.allclose(mutual_information(members), [1 - one, 0.0], atol=1e-6)
    assert mutual_information(members[:1]).max() == 0.0


def test_doubt_is_one_minus_the_dice_that_probabilities_promise() -> None:
    """A mask of 10 mL at p = .8 and 5 mL at p = .4 around it: 1 - (2 x 8 + .2) / (10 + 10 + .2)."""
    assert doubt(8.0, 10.0, 8.0 + 2.0) == pytest.approx(1 - 16.2 / 20.2)
    assert doubt(0.0, 0.0, 0.0) == 0.0, "nothing anywhere: nothing to doubt, and no 0 / 0"
    assert doubt(0.0, 0.0, 0.1) < 0.1, "a wisp is not an organ"
    assert doubt(0.0, 0.0, 50.0) > 0.9, "half a hundred mL of maybe is"
    assert doubt(1.6, 2.0, 2.0) > 0.18, "an organ of two mL is doubted as one of two hundred"


def test_share_counts_a_part_against_the_whole() -> None:
    assert share(10.0, 10.0, 9.8) == pytest.approx(20 / 40)
    assert share(0.0, 0.0, 0.0) == 0.0 and share(1e6, 1.0, 1.0) < 1.0


def test_fragments_are_what_lies_outside_the_largest_part() -> None:
    mask = np.zeros((9, 5, 5), dtype=bool)
    mask[0:3, 0:2, 0:2] = mask[5, 0, 0] = mask[7, 4, 4] = True
    grid = Grid(mask.shape, np.diag([2.0, 2.0, 2.0, 1.0]))
    assert fragments(mask, grid) == (3, 2) and fragments(mask[:4], grid) == (1, 0)
    assert fragments(mask[3:5], grid) == (0, 0)
    fine = Grid(mask.shape, np.diag([0.5, 0.5, 0.5, 1.0]))
    assert fragments(mask, fine) == (1, 0), "a millimetre apart: one part"


def test_volumes_are_judged_against_the_pool() -> None:
    """Volumes 80 to 125 mL: median 100; ten times as much is far outside, a tenth more is not."""
    pool = [{"spleen": ml, "rare": 0.0} for ml in (80.0, 85.0, 90.0, 100.0, 100.0, 111.0, 118.0, 125.0)]
    usual = usual_volumes([*pool, {"spleen": 0.0}])
    assert usual.keys() == {"spleen"}, "a class that hardly anybody has tells nothing"
    spleen = usual["spleen"]
    assert spleen.median == pytest.approx(math.log(100)) and spleen.found == pytest.approx(8 / 9)
    assert odd_volume(110.0, spleen) == 0.0 and odd_volume(1000.0, spleen) == 1.0
    assert odd_volume(0.0, spleen) == pytest.approx(8 / 9) and odd_volume(5.0, None) == 0.0
    assert 0 < odd_volume(100 * math.exp(3 * spleen.spread), spleen) < 0.3, "three spreads: a quarter"
    assert usual_volumes(pool[:7]) == {}, "seven cases are too few"


@pytest.mark.parametrize("towards_right", [True, False])
def test_left_and_right_are_told_by_the_affine_not_by_the_order_of_voxels(towards_right: bool) -> None:
    """World x grows to the patient's right (RAS+). Two kidneys, and two voxels of the right one at the left one's place."""
    flip = 1.0 if towards_right else -1.0
    grid = Grid((20, 3, 3), np.diag([2.0 * flip, 2.0, 2.0, 1.0]))
    right_end, left_end = (slice(15, 19), slice(2, 6)) if towards_right else (slice(2, 6), slice(15, 19))
    right, left = (np.zeros(grid.shape, dtype=np.float32) for _ in range(2))
    right[right_end], left[left_end] = 1.0, 1.0
    stray = 3 if towards_right else 16
    right[stray, 0, 0:2] = 1.0
    p = np.stack([right, left])
    found = score_case(Prediction("c", ("kidney_right", "kidney_left"), p, grid, "m"), ImportanceConfig())
    assert found.classes["kidney_left"].measures["side"] == 0.0
    assert 0 < found.classes["kidney_right"].measures["side"] < 0.2
    assert "0.0 mL on the wrong side" in found.classes["kidney_right"].reason
    swapped = score_case(Prediction("c", ("kidney_left", "kidney_right"), p, grid, "m"), ImportanceConfig())
    assert min(swapped.classes[n].measures["side"] for n in swapped.classes) > 0.25, "all of both"


def test_two_kidneys_under_one_name_are_on_the_wrong_side() -> None:
    """160 mm between them, the left one's voxels called right; the left kidney was looked for and not found."""
    grid = Grid((100, 6, 6), np.diag([2.0, 2.0, 2.0, 1.0]))
    right, nothing = (np.zeros(grid.shape, dtype=np.float32) for _ in range(2))
    right[88:96], right[8:14] = 1.0, 1.0

    def side(p: np.ndarray, *names: str) -> float:
        channels = np.stack([p, nothing][: len(names)])
        found = score_case(Prediction("c", names, channels, grid, "m"), ImportanceConfig())
        return found.classes[names[0]].wrong_side_ml

    smaller = 6 * 36 * grid.voxel_ml
    assert side(right, "kidney_right", "kidney_left") == pytest.approx(smaller)
    assert side(right, "kidney_left", "kidney_right") == pytest.approx(8 * 36 * grid.voxel_ml)
    assert side(right, "kidney_right") == 0.0, "nobody looked for a left one"
    torn = right.copy()
    torn[8:14], torn[70:76] = 0.0, 1.0
    assert side(torn, "kidney_right", "kidney_left") == 0.0, "halves 30 mm apart are one organ"
    speck = right.copy()
    speck[8:13] = 0.0
    assert side(speck, "kidney_right", "kidney_left") == 0.0, "a speck is no kidney"


def test_an_organ_that_the_base_never_finds_is_as_odd_as_people_have_drawn_it() -> None:
    predicted = {f"new_{n}": {"spleen": 0.0, "liver": 1000.0 + n} for n in range(20)}
    judged = {f"old_{n}": {"spleen": 200.0 + n} for n in range(10)}
    usual = usual_in_pool(predicted, judged)
    assert odd_volume(0.0, usual["spleen"]) == 1.0 and usual["spleen"].cases == 10
    assert usual["liver"].cases == 20, "nobody drew one: the predictions tell"
    few = usual_in_pool(predicted, dict(list(judged.items())[:7]))
    assert "spleen" not in few, "seven are too few, whoever found them"
    # A case's judged mask counts in place of its prediction.
    both = usual_in_pool(predicted, {"new_0": {"liver": 5.0}})
    assert both["liver"].cases == 20


def test_no_case_takes_hours_because_of_a_haze() -> None:
    """Sixteen litres of .3 from a base of two epochs."""
    haze = np.full((1, 100, 80, 80), 0.3, dtype=np.float32)
    grid = Grid(haze.shape[1:], np.diag([4.4, 4.4, 4.4, 1.0]))
    prediction = Prediction("c", ("spleen",), haze, grid, "m")
    spleen = score_case(prediction, ImportanceConfig()).classes["spleen"]
    assert spleen.soft_ml > 16000 and spleen.expected_ml == 500.0 and spleen.minutes == pytest.approx(25.5)
    usual = {"spleen": Usual(math.log(200), 0.2, 1.0, 20)}
    spleen = score_case(prediction, ImportanceConfig(), usual=usual).classes["spleen"]
    assert spleen.expected_ml == pytest.approx(2 * 200 * math.exp(0.4))


def test_values_that_are_no_numbers_are_refused() -> None:
    p = np.zeros((2, 4, 4, 4), dtype=np.float32)
    p[1, 0, 0, :2] = np.nan
    broken = Prediction("case_7", ("liver", "aorta"), p, Grid((4, 4, 4), np.eye(4)), "m")
    for recipe in (ImportanceConfig(), AA8K):
        with pytest.raises(
            DataError, match="case case_7, aorta: expected probabilities, got 2 values that are not finite"
        ):
            score_case(broken, recipe)
    assert score_case(broken, ImportanceConfig(), classes=["liver"]).score == 0.0


def test_sides_have_partners() -> None:
    assert partner("adrenal_gland_left") == "adrenal_gland_right" and partner("copyright_organ") is None
    grid = Grid((4, 1, 1), np.diag([1.0, 1.0, 1.0, 1.0]))
    mask = np.ones((2, 1, 1), dtype=bool)
    assert wrong_side(mask, (1, 0, 0), grid, 1.5, right=True).ravel().tolist() == [True, False]


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 2), st.sampled_from([(7, 8, 9), (3, 1, 6), (12, 2, 5)]))
def test_morphology_is_that_of_scipy(seed: int, steps: int, shape: tuple[int, int, int]) -> None:
    mask = np.random.default_rng(seed).random(shape) > 0.25
    before = mask.copy()
    for ours, theirs in (
        (dilated, ndimage.binary_dilation), (eroded, ndimage.binary_erosion), (opened, ndimage.binary_opening),
    ):  # fmt: skip
        assert np.array_equal(ours(mask, steps), theirs(mask, CUBE, iterations=steps))
    assert np.array_equal(mask, before)


# The published recipe, class by class in boxes ------------------------------------------------------------------------


def test_the_published_recipe_in_boxes_is_the_one_on_whole_volumes() -> None:
    rng = np.random.default_rng(0)
    p = ndimage.gaussian_filter(rng.random((2, 3, 18, 16, 14)), (0, 0, 2, 2, 2))
    p = ((p - p.min()) / np.ptp(p)).astype(np.float32) * np.float32([1.0, 0.9, 0.3])[
        None, :, None, None, None
    ]
    p[:, :, :4] = 0.0
    p = np.rint(p * 255).astype(np.float32) / np.float32(255)
    grid = Grid(p.shape[2:], np.eye(4))
    models = [Prediction("c", ("a", "b", "c"), one, grid, "m") for one in p]
    found, whole = score_case(models, AA8K, per_class=True), aa8k(p)
    assert found.score == float(whole.attention.sum()) > 0
    assert whole.inconsistent.any() and whole.overlapping.any() and whole.uncertain.any()
    for k, name in enumerate(("a", "b", "c")):
        assert np.array_equal(found.maps[name] > 0, whole.heat[k] > 0)
        assert found.classes[name].score == pytest.approx(float(whole.heat[k].sum(dtype=np.float64)))


def test_heat_is_divided_by_each_classs_own_maximum() -> None:
    """-p ln p is .306 at .6 and .230 at .1: both classes reach 1."""
    channels = np.zeros((1, 2, 16, 16, 16), dtype=np.float32)
    channels[0, 0, 4:11, 4:11, 4:11], channels[0, 1, 4:11, 4:11, 4:11] = 0.6, 0.1
    assert aa8k(channels).heat.max(axis=(1, 2, 3)).tolist() == [1.0, 1.0]


def test_published_masks_are_post_processed_where_asked() -> None:
    """The overlap of two classes is in a speck, which post-processing removes."""
    a, b = (np.zeros((16, 16, 16), dtype=np.float32) for _ in range(2))
    a[2:8, 2:8, 2:8], a[12, 12, 12], b[10:14, 10:14, 10:14] = 1.0, 1.0, 1.0
    channels = np.stack([a, b])[None]

    def largest(_: int, mask: np.ndarray) -> np.ndarray:
        labels, _count = ndimage.label(mask)
        return labels == np.bincount(labels.ravel())[1:].argmax() + 1

    assert aa8k(channels).overlapping.sum() == 2 and aa8k(channels, cleaner=largest).overlapping.sum() == 0


# Boxes ----------------------------------------------------------------------------------------------------------------


def test_a_box_holds_what_counts_and_nothing_else() -> None:
    p = np.full((10, 10, 10), FLOOR - 1, dtype=np.uint8)
    p[3:5, 4:8, 5], p[4, 5, 5] = FLOOR, 255
    found = crop("liver", [p], None, FLOOR)
    assert found.box == (slice(3, 5), slice(4, 8), slice(5, 6)) and found.p.sum() == 7 * FLOOR + 255
    nothing = crop("liver", [np.zeros_like(p)], None, FLOOR)
    assert nothing.p.size == 0
    shifted = crop("spleen", [np.roll(p, 1, axis=1)], None, FLOOR)
    grid, masks = Grid(p.shape, np.eye(4)), [found.p >= FLOOR, shifted.p >= FLOOR, nothing.p > 0]
    twice = list(claimed_twice(masks, [found, shifted, nothing], grid))
    assert [int(t.sum()) for t in twice] == [2 * 3, 2 * 3, 0] and twice[0].shape == (2, 4, 1)


def test_members_of_a_box_have_a_mean_and_a_deviation() -> None:
    members = [levels(np.full((2, 2, 2), value, dtype=np.float32)) for value in (0.2, 0.6)]
    found = crop("liver", members, None, FLOOR)
    assert found.spread is not None and int(found.p[0, 0, 0]) == 102 and int(found.spread[0, 0, 0]) == 51
    assert len(found.members) == 2


def test_an_absent_class_scores_as_it_is_usual() -> None:
    grid = Grid((6, 6, 6), np.diag([2.0, 2.0, 2.0, 1.0]))
    nothing = Prediction("c", ("spleen",), np.zeros((1, 6, 6, 6), dtype=np.float32), grid, "m")
    usual = {"spleen": Usual(math.log(200.0), 0.2, 0.95, 40)}
    alone, missed = (
        score_case(nothing, ImportanceConfig(), usual=u).classes["spleen"] for u in (None, usual)
    )
    assert alone.score == 0.0 < missed.score and missed.reason.startswith("spleen: not found")
    assert missed.expected_ml > 10.0 and missed.minutes > alone.minutes


@pytest.mark.parametrize("shape", [(0, 3, 4), (3, 5, 7), (64, 64, 64), (127, 129, 131)])
def test_levels_are_counted_eight_at_a_time_as_one_by_one(shape: tuple[int, int, int]) -> None:
    """Of few and of many, of whole eights and others, some and none of them 0, in whatever order they lie in memory."""
    values = np.random.default_rng(3).integers(0, 256, shape, dtype=np.uint8)
    values[: shape[0] // 2] = 0
    expected = np.bincount(values.ravel(), minlength=256)
    assert np.array_equal(histogram(values), expected)
    assert np.array_equal(histogram(np.asfortranarray(values)), expected)


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_the_box_of_what_is_there(data: st.DataObject) -> None:
    shape = data.draw(st.tuples(*[st.integers(0, 5)] * 3))
    there = np.zeros(shape, dtype=bool)
    for at in data.draw(st.lists(st.tuples(*[st.integers(0, max(0, n - 1)) for n in shape]), max_size=4)):
        if there.size:
            there[at] = True
    box = occupied(there)
    assert there[box].sum() == there.sum(), "nothing is left out"
    for axis, line in enumerate(box):
        at = np.flatnonzero(there.any(axis=tuple(a for a in range(3) if a != axis)))
        assert (line.start, line.stop) == ((at[0], at[-1] + 1) if len(at) else (0, 0))
