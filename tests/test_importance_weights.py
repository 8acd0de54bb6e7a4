"""What measures are worth: given weights until there are revisions, learned ones after, and minutes likewise."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from small_review import GRID, box, review_project

from ctune.importance import (
    CaseImportance,
    ClassImportance,
    Example,
    Weights,
    learn,
    read_weights,
    write_importances,
    write_weights,
)
from ctune.importance.weights import ENOUGH, FALLBACK, MEASURES, MINUTES
from ctune.round import folder_of
from ctune.round.calibration import examples, learned_weights
from ctune.select import minutes_of
from ctune.types import Source


def revised(count: int, seed: int = 0) -> list[Example]:
    """Experts change 3 x the overlap and nothing else; a look takes a minute, a mL six seconds."""
    rng, out = np.random.default_rng(seed), []
    for _ in range(count):
        measures = dict(zip(MEASURES, rng.random(len(MEASURES)) * 0.3, strict=True)) | {"side": 0.0}
        changed = 3 * measures["overlap"]
        out.append(Example(measures, changed, 100 * changed, 60.0 + 6.0 * 100 * changed))
    return out


def test_few_revisions_teach_nothing() -> None:
    found = learn(revised(ENOUGH - 1))
    assert found == Weights() and found.measures == FALLBACK and found.minutes == MINUTES
    assert "given; learned from 20 revised classes on" in found.describe()


def test_what_predicts_the_experts_edits_gains_weight() -> None:
    some, many = learn(revised(ENOUGH)), learn(revised(600))
    assert FALLBACK["overlap"] < some.measures["overlap"] < many.measures["overlap"]
    assert many.measures["overlap"] == pytest.approx(3.0, abs=0.4) and many.measures["volume"] < 0.1
    assert min(many.measures.values()) >= 0 and many.measures["side"] == FALLBACK["side"], (
        "never seen: as given"
    )
    assert many.worth["overlap"] == pytest.approx(1.0) and abs(many.worth["volume"]) < 0.2
    assert many.minutes[0] == pytest.approx(1.0, abs=0.3) and many.minutes[1] == pytest.approx(0.1, abs=0.01)
    assert many.revisions == many.timed == 600 and "learned from 600 revised classes" in many.describe()


def test_learning_is_the_same_twice_and_orders_as_the_experts_did() -> None:
    assert learn(revised(50)) == learn(revised(50))
    weights, fresh = learn(revised(200)), revised(50, seed=1)
    scores = [weights.score(e.measures) for e in fresh]
    order, truth = np.argsort(scores), np.argsort([e.changed for e in fresh])
    assert len(set(order[-10:]) & set(truth[-10:])) >= 8


def test_weights_on_disk(tmp_path: Path) -> None:
    write_weights(tmp_path / "weights.json", learn(revised(30)))
    assert read_weights(tmp_path / "weights.json") == learn(revised(30))


def test_revisions_stand_beside_the_scores_of_their_case(tmp_path: Path) -> None:
    """The liver lacks its first slice of 14 x 18 voxels; the expert of case_1 put it back, that of case_2 left it."""
    made = review_project(tmp_path)
    before = box("liver")
    before[:, :, 4] = 0
    scored = [
        CaseImportance(c, 1.0, {"liver": ClassImportance(d, 1.0, 0.0, 0.0, 1, 9.0, "liver: ", {"doubt": d})})
        for c, d in (("case_1", 0.4), ("case_2", 0.1))
    ]
    write_importances(folder_of(made, 1) / "scores.json", scored)
    for case_id, mask, seconds in (("case_1", box("liver"), 90.0), ("case_2", before, None)):
        made.pool.annotate(
            case_id, "liver", mask, source=Source.REVISED, author="dr. a", round=1, seconds=seconds
        )
    first, second = examples(made)
    missing = 14 * 18 * GRID.voxel_ml
    whole = float(box("liver").sum()) * GRID.voxel_ml
    assert first.changed_ml == pytest.approx(missing) and first.seconds == 30.0, (
        "a minute of it was to open the case"
    )
    assert first.changed == pytest.approx(missing / (2 * whole - missing)) and first.measures == {
        "doubt": 0.4
    }
    assert second == Example({"doubt": 0.1}, 0.0, 0.0, None)
    assert learned_weights(made) == Weights(), "two are not enough"


def test_who_goes_back_to_a_case_took_both_times_for_it_and_changed_it_once(tmp_path: Path) -> None:
    made = review_project(tmp_path, cases=1)
    found = {"liver": ClassImportance(0.1, 1.0, 0.0, 0.0, 1, 9.0, "liver", {"doubt": 0.1})}
    write_importances(folder_of(made, 1) / "scores.json", [CaseImportance("case_1", 1.0, found)])
    before = box("liver")
    before[:, :, 4] = 0
    for mask, seconds in ((before, 80.0), (box("liver"), 30.0)):
        made.pool.annotate(
            "case_1", "liver", mask, source=Source.REVISED, author="dr. a", round=1, seconds=seconds
        )
    (one,) = examples(made)
    assert one.seconds == 50.0 and one.changed_ml == pytest.approx(14 * 18 * GRID.voxel_ml)


def test_opening_a_case_is_counted_once(tmp_path: Path) -> None:
    """Two classes of a case in two minutes, one of them for opening it: learned and added up again it is two minutes."""
    made = review_project(tmp_path, cases=1)
    names = ("liver", "aorta")
    found = {n: ClassImportance(0.1, 1.0, 0.0, 0.0, 1, 9.0, n, {"doubt": 0.1}) for n in names}
    write_importances(folder_of(made, 1) / "scores.json", [CaseImportance("case_1", 1.0, found)])
    for name in names:
        made.pool.annotate(
            "case_1", name, box(name), source=Source.REVISED, author="dr. a", round=1, seconds=60.0
        )
    taken = [example.seconds for example in examples(made)]
    assert taken == [30.0, 30.0]
    timed = {n: replace(one, minutes=taken[0] / 60) for n, one in found.items()}
    assert minutes_of(CaseImportance("case_1", 1.0, timed), names) == 2.0


def test_rounds_of_the_published_recipe_teach_nothing(tmp_path: Path) -> None:
    made = review_project(tmp_path, cases=1)
    made.pool.annotate("case_1", "liver", box("liver"), source=Source.REVISED, author="dr. a", round=1)
    assert examples(made) == [], "the scores of this project have no measures"
