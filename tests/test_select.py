"""Which cases the expert gets, in which order, and why."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_network import network, project
from typer.testing import CliRunner

from cli.main import app
from ctune.compositions import register_model
from ctune.errors import UsageError
from ctune.importance import CaseImportance, ClassImportance, write_importances
from ctune.review.state import ReviewState
from ctune.select import Budget, candidates_of, lacking, read_csv, select, write_csv
from ctune.types import Source


def case(name: str, score: float, liver: float | None = None, uncertain: float = 1.0) -> CaseImportance:
    """By default the liver is what matters, and a spleen that is as bad everywhere."""
    liver = score - 1.0 if liver is None else liver
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


@pytest.mark.parametrize("strategy", ["importance", "uncertainty", "stratified", "diverse"])
def test_the_classes_that_are_asked_for_decide_alone(strategy: str) -> None:
    """The spleen of b is as wrong as can be; nobody asks for spleens."""

    def one(name: str, liver: float, spleen: float) -> CaseImportance:
        found = {n: ClassImportance(s, s, 0, 0, 1, 9.0, n) for n, s in (("liver", liver), ("spleen", spleen))}
        return CaseImportance(name, liver + spleen, found)

    features = {"a": np.zeros(2, np.float32), "b": np.ones(2, np.float32)}
    (row,) = select(
        [one("a", 1.0, 0.0), one("b", 0.5, 9.0)],
        classes=["liver"],
        cases=1,
        strategy=strategy,
        features=features,
    )
    assert (row.case_id, row.score) == ("a", 1.0)


def test_where_all_classes_are_new_everything_that_was_scored_decides() -> None:
    rows = select(CASES, classes=["aorta"], cases=2)
    assert [(r.case_id, r.classes) for r in rows] == [("a", ("aorta",)), ("b", ("aorta",))]


def test_cases_of_the_published_recipe_go_by_their_attended_voxels() -> None:
    """Its classes have heat for a score, and its cases the number of attended voxels."""

    def one(name: str, heat: float, attended: float) -> CaseImportance:
        found = {
            "liver": ClassImportance(heat, 0, 0, 0, 1, 9.0, "liver", {"attended": attended}),
            "spleen": ClassImportance(9.0, 0, 0, 0, 1, 9.0, "spleen", {"attended": 9.0}),
        }
        return CaseImportance(name, attended + 9.0, found)

    rows = select([one("a", 5.0, 6.0), one("b", 2.0, 7.0)], classes=["liver"], cases=2)
    assert [(r.case_id, r.score) for r in rows] == [("b", 7.0), ("a", 6.0)]


def test_a_name_that_nobody_knows_is_said_with_the_nearest(tmp_path: Path) -> None:
    """A class with a text vector may be asked for although the project does not list it."""
    made, _ = project(tmp_path, pool=1)
    write_importances(tmp_path / "scores" / "scores.json", [timed("case_0", 1.0, liver=1.0)])
    words = [
        "select",
        str(tmp_path / "scores"),
        "-o",
        str(tmp_path / "list.csv"),
        "--project",
        str(made.root),
    ]

    def asked(classes: str) -> tuple[int, str]:
        found = CliRunner().invoke(app, [*words, "--classes", classes, "--json"])
        said = json.loads(found.stdout)["selected"][0]["classes"] if found.exit_code == 0 else found.stderr
        return found.exit_code, " ".join(said.split()) if isinstance(said, str) else ",".join(said)

    code, said = asked("duodenim")
    assert code == UsageError.exit_code and "got 'duodenim'; did you mean duodenum?" in said
    assert asked("duodenum,Duodenum,IVC") == (0, "duodenum,postcava")


# What is judged already -----------------------------------------------------------------------------------------------


def test_a_class_that_somebody_judged_is_not_asked_for_again() -> None:
    judged = {"a": {"liver"}, "b": {"liver", "spleen"}}
    rows = select(CASES, classes=["liver", "spleen", "aorta"], cases=9, judged=judged)
    # Of a the spleen is left, as wrong as d is; of b nothing but a class that nobody has scored.
    assert [(r.case_id, r.score) for r in rows] == [("c", 2.0), ("a", 1.0), ("d", 1.0), ("b", 0.0)]
    every = {r.case_id: r.classes for r in rows}
    assert every["a"] == ("aorta", "spleen") and every["b"] == ("aorta",)


def test_a_case_with_nothing_left_to_ask_is_not_offered() -> None:
    rows = select(CASES, classes=["liver"], cases=9, judged={"a": {"liver"}, "b": {"spleen"}})
    assert [r.case_id for r in rows] == ["b", "c", "d"]


def test_unknown_strategy() -> None:
    with pytest.raises(
        UsageError,
        match="expected a strategy of importance, uncertainty, random, diverse, stratified; got 'luck'",
    ):
        select(CASES, classes=["liver"], cases=1, strategy="luck")


def test_list_on_disk(tmp_path: Path) -> None:
    rows = select(CASES, classes=["liver", "aorta"], cases=4)
    write_csv(tmp_path / "selection.csv", rows)
    assert read_csv(tmp_path / "selection.csv") == rows


# Budgets --------------------------------------------------------------------------------------------------------------


def timed(name: str, score: float, **minutes: float) -> CaseImportance:
    found = {n: ClassImportance(m, 0, 0, 0, 1, 1.0, n, minutes=m) for n, m in minutes.items()}
    return CaseImportance(name, score, found, sum(minutes.values()))


TIMED = [
    timed("a", 3.0, liver=4.0, spleen=2.0),
    timed("b", 2.0, liver=1.0, spleen=3.0),
    timed("c", 1.0, liver=1.0),
]
BOTH = ["liver", "spleen"]
BOTH_T = ("liver", "spleen")


def test_a_budget_in_annotations_ends_within_a_case() -> None:
    rows = select(TIMED, classes=BOTH, budget=Budget(annotations=3))
    assert [(r.case_id, r.classes) for r in rows] == [("a", ("liver", "spleen")), ("b", ("spleen",))]


def test_a_budget_in_minutes_takes_what_fits_and_says_how_long() -> None:
    rows = select(TIMED, classes=BOTH, budget=Budget(minutes=11.5))
    # One minute to open each: 1 + 4 + 2, then 1 + 3; the liver of b no longer fits.
    assert [(r.case_id, r.classes, r.minutes) for r in rows] == [("a", BOTH_T, 7.0), ("b", ("spleen",), 4.0)]
    assert sum(r.minutes for r in rows) <= 11.5


def test_the_smallest_budget_buys_one_class_of_one_case() -> None:
    (row,) = select(TIMED, classes=BOTH, budget=Budget(minutes=0.5))
    assert (row.case_id, row.classes) == ("a", ("liver",))


def test_a_case_that_does_not_fit_is_passed_over_for_shorter_ones() -> None:
    found = [timed("a", 9.0, liver=2.0), timed("b", 8.0, liver=50.0), timed("c", 7.0, liver=1.0)]
    rows = select(found, classes=["liver"], budget=Budget(minutes=5.0))
    assert [(r.rank, r.case_id, r.minutes) for r in rows] == [(1, "a", 3.0), (2, "c", 2.0)]
    rows = select(found[1:], classes=["liver"], budget=Budget(minutes=5.0))
    assert [r.case_id for r in rows] == ["c"]
    rows = select(found, classes=["liver"], budget=Budget(minutes=0.1))
    assert [r.case_id for r in rows] == ["a"], "a budget always buys one"


def test_several_limits_hold_together() -> None:
    rows = select(TIMED, classes=BOTH, budget=Budget(cases=1, annotations=9, minutes=99.0))
    assert [r.case_id for r in rows] == ["a"]
    with pytest.raises(UsageError, match="expected a budget above 0 of cases, annotations or minutes"):
        Budget()


@given(
    cases=st.none() | st.integers(1, 6),
    annotations=st.none() | st.integers(1, 12),
    minutes=st.none() | st.floats(0.1, 40.0),
    strategy=st.sampled_from(["importance", "uncertainty", "random", "stratified"]),
    leased=st.sets(st.sampled_from("abc")),
)
def test_no_list_goes_over_its_budget_or_hands_out_a_leased_case(
    cases: int | None, annotations: int | None, minutes: float | None, strategy: str, leased: set[str]
) -> None:
    if cases is annotations is minutes is None:
        return
    budget = Budget(cases, annotations, minutes)
    rows = select(TIMED, classes=BOTH, budget=budget, strategy=strategy, leased=leased)
    assert bool(rows) == (len(leased) < 3)
    assert not leased & {r.case_id for r in rows} and len({r.case_id for r in rows}) == len(rows)
    assert [r.rank for r in rows] == list(range(1, len(rows) + 1))
    assert cases is None or len(rows) <= cases
    assert annotations is None or sum(len(r.classes) for r in rows) <= annotations
    smallest = len(rows) == 1 and len(rows[0].classes) == 1
    assert minutes is None or sum(r.minutes for r in rows) <= minutes or smallest


# Which ----------------------------------------------------------------------------------------------------------------


def test_stratified_gives_each_class_its_turn() -> None:
    found = [timed(f"liver{n}", 9.0 - n, liver=2.0, spleen=1.0) for n in range(4)]
    found += [timed(f"spleen{n}", 3.0 - n, liver=1.0, spleen=2.0) for n in range(2)]
    rows = select(found, classes=BOTH, cases=4, strategy="stratified")
    assert [r.case_id for r in rows] == ["liver0", "spleen0", "liver1", "spleen1"]


def test_diverse_passes_over_what_looks_like_a_case_that_was_chosen_or_annotated() -> None:
    found = [
        timed(name, score, liver=1.0) for name, score in (("a", 5.0), ("b", 4.9), ("c", 4.0), ("d", 3.0))
    ]
    places = {"a": (0, 0), "b": (0.1, 0), "c": (9, 0), "d": (0, 9)}
    features = {name: np.array(at, np.float32) for name, at in places.items()}
    order = [
        r.case_id for r in select(found, classes=["liver"], cases=4, strategy="diverse", features=features)
    ]
    assert order == ["a", "c", "d", "b"], "b is nearly a"
    known = {**features, "old": np.array((9, 0.1), np.float32)}
    order = [
        r.case_id
        for r in select(
            found, classes=["liver"], cases=2, strategy="diverse", features=known, annotated=["old"]
        )
    ]
    assert order == ["a", "d"], "c is nearly what is known"
    with pytest.raises(
        UsageError, match="expected global features of every candidate for diverse, got none of a"
    ):
        select(found, classes=["liver"], cases=1, strategy="diverse")


def test_cases_of_other_splits_are_never_offered(tmp_path: Path) -> None:
    made, _ = project(tmp_path, pool=2, test=2)
    scores = [timed(case.id, 1.0, liver=1.0) for case in made.pool.cases()]
    assert len(scores) == 4
    assert [one.case_id for one in candidates_of(made, scores, ["aorta"])] == ["case_0", "case_1"]


def test_cases_in_which_all_is_judged_are_not_offered(tmp_path: Path) -> None:
    """The small project's cases have a liver and a spleen from the beginning."""
    made, _ = project(tmp_path, pool=3)
    mask = made.pool.read(made.pool.annotations("case_0", "liver")[0]).mask
    made.pool.annotate("case_0", "aorta", mask, source=Source.REVISED, author="ann", round=1)
    made.pool.annotate("case_1", "aorta", mask, source=Source.PREDICTED, author="ctune", round=1)
    assert lacking(made, ["aorta"]) == ["case_1", "case_2"], "a prediction is no judgement"
    assert lacking(made, ["liver", "spleen"]) == []
    write_importances(
        tmp_path / "scores" / "scores.json",
        [timed(f"case_{n}", 1.0, liver=1.0, aorta=2.0) for n in range(3)],
    )
    words = ["select", str(tmp_path / "scores"), "-o", str(tmp_path / "list.csv"), "--cases", "9"]
    where = ["--project", str(made.root), "--json"]
    found = CliRunner().invoke(app, [*words, "--classes", "liver,aorta", *where])
    assert found.exit_code == 0, found.output
    rows = json.loads(found.stdout)["selected"]
    assert {row["case_id"]: row["classes"] for row in rows} == {"case_1": ["aorta"], "case_2": ["aorta"]}
    nothing = CliRunner().invoke(app, [*words, "--classes", "liver", *where[:-1]])
    assert nothing.exit_code == 0 and "no case is left to ask about" in nothing.stdout


def test_the_command_leaves_out_what_an_expert_has_open_and_keeps_to_minutes(tmp_path: Path) -> None:
    made, _ = project(tmp_path, pool=4)
    register_model(made.open_registry(), made.config.name, network(), made.config, {})
    scores = [timed(case.id, 1.0 + n, aorta=1.0 + n / 10) for n, case in enumerate(made.pool.cases())]
    write_importances(tmp_path / "scores" / "scores.json", scores)
    ReviewState(made.root / "review").lease("case_3", "ann")
    words = ["select", str(tmp_path / "scores"), "-o", str(tmp_path / "list.csv"), "--classes", "aorta"]
    where = ["--project", str(made.root), "--json"]
    found = CliRunner().invoke(app, [*words, "--minutes", "4.5", *where])
    assert found.exit_code == 0, found.output
    said = json.loads(found.stdout)
    assert [row["case_id"] for row in said["selected"]] == ["case_2", "case_1"]
    assert (said["leased"], said["minutes"]) == (["case_3"], pytest.approx(4.3))
    diverse = CliRunner().invoke(app, [*words, "--cases", "2", "--strategy", "diverse", *where])
    assert diverse.exit_code == 0, diverse.output
    assert len(json.loads(diverse.stdout)["selected"]) == 2
    kept = list((made.cache / "global").rglob("*.npy"))
    assert len(kept) == 4 and all(np.load(path).shape == (256,) for path in kept)
