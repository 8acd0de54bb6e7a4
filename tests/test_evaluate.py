"""Scores one can check by hand, and one rule for empty masks."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest

from ctune.evaluate import (
    Outcome,
    continual_metrics,
    diagonal_mm,
    read_scores,
    score_mask,
    summarise,
    write_scores,
)
from ctune.types import UNLABELLED, Grid

GRID = Grid((20, 10, 10), np.diag([1.0, 2.0, 3.0, 1.0]))


def box(x: slice, y: slice = slice(2, 6), z: slice = slice(2, 6)) -> np.ndarray:
    mask = np.zeros(GRID.shape, dtype=np.uint8)
    mask[x, y, z] = 1
    return mask


def score(predicted: np.ndarray, truth: np.ndarray, tolerance: float = 1.0):
    return score_mask("c", "liver", predicted, truth, GRID, tolerance)


def test_two_boxes_side_by_side() -> None:
    """4 of 6 slices along x agree: 2 * 4 / (6 + 6) with 16 voxels each; the surfaces are up to 2 mm apart."""
    found = score(box(slice(4, 10)), box(slice(6, 12)))
    assert found.outcome == Outcome.FOUND
    assert found.dice == pytest.approx(2 * 4 / 12)
    assert found.hd95_mm == pytest.approx(2.0)
    assert found.truth_ml == pytest.approx(6 * 16 * 6 / 1000)


def test_equal_masks_are_perfect_also_at_the_border() -> None:
    whole = np.ones(GRID.shape, dtype=np.uint8)
    for mask in (box(slice(4, 10)), box(slice(0, 20)), whole):
        found = score(mask, mask)
        assert (found.dice, found.nsd, found.hd95_mm) == (1.0, 1.0, 0.0)


def test_one_wrong_voxel() -> None:
    wrong = box(slice(4, 10))
    wrong[15, 2, 2] = 1
    found = score(wrong, box(slice(4, 10)))
    assert found.dice == pytest.approx(2 * 96 / (97 + 96))
    assert found.hd95_mm == 0.0, "the 95th percentile does not see one voxel"
    assert found.nsd is not None and 0.98 < found.nsd < 1.0


def test_distances_are_in_millimetres_along_every_axis() -> None:
    for axis, mm in ((0, 1.0), (1, 2.0), (2, 3.0)):
        moved = np.roll(box(slice(4, 10)), 1, axis=axis)
        assert score(moved, box(slice(4, 10))).hd95_mm == pytest.approx(mm)


def test_the_surface_tolerance_decides() -> None:
    moved = np.roll(box(slice(4, 10)), 1, axis=2)
    near, far = score(moved, box(slice(4, 10)), 2.9).nsd, score(moved, box(slice(4, 10)), 3.1).nsd
    assert far == 1.0 and near is not None and near < 0.9


def test_where_the_mask_lies_does_not_matter() -> None:
    near, far = (score(np.roll(box(slice(4, 10)), s, 0), np.roll(box(slice(5, 10)), s, 0)) for s in (0, 7))
    assert (near.dice, near.nsd, near.hd95_mm) == (far.dice, far.nsd, far.hd95_mm)


def test_a_missed_organ_is_zero_and_the_diagonal_never_nan() -> None:
    missed = score(box(slice(0, 0)), box(slice(4, 10)))
    diagonal = math.sqrt(20**2 + 20**2 + 30**2)
    assert (missed.outcome, missed.dice, missed.nsd, missed.hd95_mm) == (
        Outcome.MISS,
        0.0,
        0.0,
        pytest.approx(diagonal),
    )
    assert diagonal_mm(GRID) == pytest.approx(diagonal)


def test_an_organ_where_there_is_none_is_a_false_positive() -> None:
    invented = score(box(slice(4, 5)), box(slice(0, 0)))
    assert (invented.outcome, invented.dice, invented.nsd) == (Outcome.FALSE_POSITIVE, 0.0, 0.0)


def test_absent_from_both_is_counted_and_no_number() -> None:
    empty = box(slice(0, 0))
    assert score(empty, empty).outcome == Outcome.ABSENT and score(empty, empty).dice is None


def test_voxels_nobody_judged_are_left_out() -> None:
    truth = box(slice(4, 10))
    truth[12:] = UNLABELLED
    wrong_there = box(slice(4, 10)) | box(slice(13, 16))
    assert score(wrong_there, truth).dice == 1.0


def test_a_mean_counts_every_miss() -> None:
    empty, full = box(slice(0, 0)), box(slice(4, 10))
    scores = [score(full, full), score(empty, full), score(full, empty), score(empty, empty)]
    summary = summarise(scores)["liver"]
    assert summary.dice == pytest.approx(1 / 3)
    assert (summary.cases, summary.misses, summary.false_positives, summary.absent) == (3, 1, 1, 1)


def test_nothing_measured_is_none_not_nan(tmp_path: Path) -> None:
    empty = box(slice(0, 0))
    write_scores(tmp_path, [score(empty, empty)])
    text = (tmp_path / "scores.json").read_text()
    assert "NaN" not in text and json.loads(text)["classes"]["liver"]["dice"] is None


def test_scores_on_disk(tmp_path: Path) -> None:
    scores = [score(box(slice(4, 10)), box(slice(6, 12))), score(box(slice(0, 0)), box(slice(4, 10)))]
    write_scores(tmp_path, scores)
    assert read_scores(tmp_path) == scores
    rows = list(csv.DictReader((tmp_path / "scores.csv").open()))
    assert [r["outcome"] for r in rows] == ["found", "miss"] and float(rows[1]["dice"]) == 0.0


def test_continual_metrics_by_hand() -> None:
    """Class 0 learnt at stage 0 falls from .9 over .95 to .8; class 1 learnt at stage 1 rises; class 2 comes last."""
    nan = math.nan
    table = np.array([[0.90, nan, nan], [0.95, 0.5, nan], [0.80, 0.6, 0.7]])
    found = continual_metrics(table)
    assert found.acc == pytest.approx((0.8 + 0.6 + 0.7) / 3)
    assert found.bwt == pytest.approx(((0.80 - 0.90) + (0.6 - 0.5)) / 2)
    assert found.forgetting == pytest.approx(((0.95 - 0.80) + (0.5 - 0.6)) / 2)


def test_one_stage_forgets_nothing() -> None:
    found = continual_metrics(np.array([[0.9, 0.8]]))
    assert (found.bwt, found.forgetting) == (0.0, 0.0)
