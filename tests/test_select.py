"""Which cases the expert gets, in which order, and why."""

from __future__ import annotations

from pathlib import Path

import pytest

from ctune.errors import UsageError
from ctune.importance import CaseImportance, ClassImportance
from ctune.select import read_csv, select, write_csv


def case(name: str, score: float, liver: float = 1.0, uncertain: float = 1.0) -> CaseImportance:
    classes = {
        "liver": ClassImportance(liver, uncertain, 0, 0, 1, 1000.0, "liver: reasons"),
        "spleen": ClassImportance(1.0, 0, 0, 0, 1, 200.0, "spleen: reasons"),
    }
    return CaseImportance(name, score, classes)


CASES = [case("b", 2.0, uncertain=9), case("a", 3.0), case("d", 1.0), case("c", 2.0)]


def test_importance_takes_the_largest_and_breaks_ties_by_id() -> None:
    rows = select(CASES, classes=["liver"], cases=3)
    assert [(r.rank, r.case_id) for r in rows] == [(1, "a"), (2, "b"), (3, "c")]
    assert [r.case_id for r in select(list(reversed(CASES)), classes=["liver"], cases=3)] == ["a", "b", "c"]


def test_uncertainty_looks_at_entropy_alone() -> None:
    assert select(CASES, classes=["liver"], cases=1, strategy="uncertainty")[0].case_id == "b"


def test_random_is_seeded() -> None:
    orders = {
        tuple(r.case_id for r in select(CASES, classes=["liver"], cases=4, strategy="random", seed=s))
        for s in range(20)
    }
    again = [select(CASES, classes=["liver"], cases=4, strategy="random", seed=3) for _ in range(2)]
    assert len(orders) > 3 and again[0] == again[1]


def test_classes_most_in_need_first_and_new_ones_before() -> None:
    row = select([case("a", 1.0, liver=0.5)], classes=["liver", "spleen", "aorta"], cases=1)[0]
    assert row.classes == ("aorta", "spleen", "liver")
    assert row.reason == "aorta: new class; spleen: reasons; liver: reasons"


def test_fewer_cases_than_asked_for_are_all_of_them() -> None:
    assert len(select(CASES, classes=["liver"], cases=99)) == 4


def test_unknown_strategy() -> None:
    with pytest.raises(
        UsageError, match="expected a strategy of importance, uncertainty, random; got 'luck'"
    ):
        select(CASES, classes=["liver"], cases=1, strategy="luck")


def test_list_on_disk(tmp_path: Path) -> None:
    rows = select(CASES, classes=["liver", "aorta"], cases=4)
    write_csv(tmp_path / "selection.csv", rows)
    assert read_csv(tmp_path / "selection.csv") == rows
