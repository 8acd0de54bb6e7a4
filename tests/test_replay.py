"""Data reuse: which of the cases annotated earlier train again, and that they hold the other classes in place."""

from __future__ import annotations

import math
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_network import config, project, volume

from ctune.compositions import load_model
from ctune.config import Config
from ctune.continual import tune_model
from ctune.errors import DataError
from ctune.foundation import train_model
from ctune.importance import CaseImportance, write_importances
from ctune.project import Project
from ctune.replay import earlier_cases, replay_cases, round_scores
from ctune.strategy import senseless
from ctune.types import Source

CPU = torch.device("cpu")
CASES = st.lists(st.text("abc", min_size=1, max_size=3), unique=True, max_size=12)


@given(CASES, st.dictionaries(st.text("abc", min_size=1, max_size=3), st.floats(0, 9), max_size=9),
       st.integers(0, 100), st.integers(0, 5))  # fmt: skip
def test_a_share_of_the_cases_rounded_up_the_most_important_first(
    cases: list[str], scores: dict[str, float], percent: int, seed: int
) -> None:
    got = replay_cases(cases, scores, percent / 100, seed)
    assert got == replay_cases(cases[::-1], scores, percent / 100, seed)
    assert len(got) == math.ceil(Fraction(percent, 100) * len(cases)) and len(set(got)) == len(got)
    assert set(got) <= set(cases)
    known = [scores[case] for case in got if case in scores]
    assert known == sorted(known, reverse=True)
    assert (
        all(scores[left] <= min(known, default=9) for left in set(cases) & set(scores) - set(got))
        or not known
    )
    assert all(case in scores for case in got[: len(known)])


def test_without_scores_the_seed_draws() -> None:
    cases = [f"case_{i}" for i in range(20)]
    assert replay_cases(cases, {}, 0.2, seed=0) == replay_cases(cases, {}, 0.2, seed=0)
    assert len({tuple(replay_cases(cases, {}, 0.2, seed=s)) for s in range(5)}) == 5


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Four pool cases with liver and spleen; an expert revised the aorta in case 0."""
    made, _ = project(tmp_path_factory.mktemp("replay"))
    train_model(made, "small", device=CPU)
    made.pool.annotate(
        "case_0", "aorta", volume(0)[1]["aorta"], source=Source.REVISED, author="dr. a", round=1
    )
    return made


def test_candidates_are_annotated_by_people_and_train_not_already(home: Project) -> None:
    assert earlier_cases(home, ["liver"], ["case_0"]) == ["case_1", "case_2", "case_3"]
    assert earlier_cases(home, ["aorta"], ["case_0"]) == []
    assert earlier_cases(home, ["aorta"], []) == ["case_0"]


def test_the_last_round_that_scored_a_case_counts(home: Project) -> None:
    try:
        for number, scores in ((1, {"case_1": 5.0, "case_2": 1.0}), (2, {"case_2": 9.0})):
            folder = home.root / "rounds" / f"{number:03d}"
            folder.mkdir(parents=True)
            write_importances(folder / "scores.json", [CaseImportance(c, s, {}) for c, s in scores.items()])
        assert round_scores(home) == {"case_1": 5.0, "case_2": 9.0}
        assert used(home, ["aorta"], trainable="all", reuse=0.5)["liver"] == {"case_0", "case_1", "case_2"}
    finally:
        for path in (home.root / "rounds").glob("*/*"):
            path.unlink()


def test_cases_that_no_round_scored_are_ordered_by_the_scores_that_are_named(
    home: Project, tmp_path: Path
) -> None:
    """A first round has nothing but what was imported."""
    scores = {"case_1": 1.0, "case_2": 3.0, "case_3": 2.0}
    write_importances(tmp_path / "scores.json", [CaseImportance(c, s, {}) for c, s in scores.items()])
    for named in (tmp_path, tmp_path / "scores.json"):
        got = used(home, ["aorta"], trainable="all", reuse=0.5, scores=str(named))
        assert got["liver"] == {"case_0", "case_2", "case_3"}
    with pytest.raises(DataError, match=r"expected scores in .*nowhere.*run `ctune score` first"):
        used(home, ["aorta"], trainable="all", reuse=0.5, scores="nowhere")
    write_importances(tmp_path / "scores.json", [CaseImportance("other", 1.0, {})])
    with pytest.raises(DataError, match=r"scores of some of 3 earlier cases in .*, got those of 1 others"):
        used(home, ["aorta"], trainable="all", reuse=0.5, scores=str(tmp_path))


def test_scores_without_reuse_are_said_to_do_nothing() -> None:
    tuning = config(tune={**config().tune.model_dump(), "scores": "scores"}).tune
    assert any("scores = scores does nothing with reuse = 0" in line for line in senseless(tuning))
    assert not senseless(tuning.model_copy(update={"reuse": 0.1}))


def used(home: Project, classes: list[str], **changes: object) -> dict[str, set[str]]:
    """{class: the cases whose annotations train it}."""
    settings: Config = config(
        tune={**config().tune.model_dump(), "epochs": 1, "patch_size": (16, 16, 16), **changes}
    )
    model = load_model(home.open_registry(), "small", CPU)
    folder = home.root / "heads"
    done = tune_model(Project(home.root, settings), model, classes, folder, seed=0, device=CPU, force=True)
    return {name: {record.case_id for record in records} for name, records in done.annotations.items()}


@pytest.mark.parametrize("trainable", ["all", "heads+decoder"])
@pytest.mark.parametrize("data", ["hybrid", "revised-only"])
def test_where_the_base_moves_earlier_cases_hold_the_other_classes(
    home: Project, trainable: str, data: str
) -> None:
    got = used(home, ["aorta"], trainable=trainable, data=data, reuse=0.1)
    assert got["aorta"] == {"case_0"}
    assert len(got["liver"] - {"case_0"}) == 1 == len(got["spleen"] - {"case_0"})
    assert len(used(home, ["aorta"], trainable=trainable, data=data)["liver"] - {"case_0"}) == 0


def test_a_tuned_head_sees_earlier_cases_of_its_class_alone(home: Project, tmp_path: Path) -> None:
    home.pool.annotate(
        "case_1", "liver", volume(1)[1]["liver"], source=Source.REVISED, author="dr. a", round=1
    )
    assert used(home, ["liver"], trainable="heads")["liver"] == {"case_1"}
    assert used(home, ["liver"], trainable="heads", reuse=1)["liver"] == {f"case_{i}" for i in range(4)}
    assert used(home, ["aorta"], trainable="heads", reuse=1) == {"aorta": {"case_0"}}
