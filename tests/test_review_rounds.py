"""Drafts across rounds: what was drawn before the model predicted a case anew is offered, never mixed in, never lost."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from small_review import box, next_round, review_project
from starlette.testclient import TestClient
from test_review import client, draw

from ctune.project import Project

CASE = "/api/cases/case_1"


@pytest.fixture
def made(tmp_path: Path) -> Project:
    return review_project(tmp_path / "project")


def mask(browser: TestClient, name: str, query: str = "", case: str = "case_1") -> np.ndarray:
    answer = browser.get(f"/api/cases/{case}/masks/{name}{query}")
    assert answer.status_code == 200, answer.text
    return np.asarray(nib.Nifti1Image.from_bytes(answer.content).dataobj)


def test_a_draft_is_offered_when_the_case_was_predicted_anew_and_taken_up_when_asked(made: Project) -> None:
    browser = client(made)
    draw(browser, "spleen", box("spleen"))
    next_round(made)
    case = browser.get(CASE).json()
    assert (case["round"], case["earlier"], case["drafts"]) == (2, {"spleen": 1}, {})
    assert mask(browser, "spleen").sum() == 0, "shown is what the new round has predicted"
    first = browser.get("/api/queue").json()["items"][0]
    assert first["draft"] and first["round"] == 2
    assert browser.post(f"{CASE}/earlier").json() == {"spleen": 1}
    assert np.array_equal(mask(browser, "spleen"), box("spleen"))
    case = browser.get(CASE).json()
    assert (case["earlier"], case["drafts"]) == ({}, {"spleen": 1})


def test_who_draws_anew_is_not_asked_again_and_others_are_not_asked(made: Project) -> None:
    browser = client(made)
    draw(browser, "spleen", box("spleen"))
    next_round(made)
    assert client(made, "dr. b").get(CASE).json()["earlier"] == {}
    draw(browser, "spleen", box("aorta"))
    assert browser.get(CASE).json()["earlier"] == {}
    assert np.array_equal(mask(browser, "spleen"), box("aorta"))


def test_a_draft_that_was_judged_is_finished(made: Project) -> None:
    browser = client(made)
    draw(browser, "spleen", box("spleen"))
    assert browser.post(f"{CASE}/verdict", json={"verdict": "edited"}).status_code == 200
    next_round(made)
    assert browser.get(CASE).json()["earlier"] == {}


def test_a_case_that_the_new_queue_lacks_stays_in_it_while_its_draft_is_unfinished(made: Project) -> None:
    browser = client(made)
    draw(browser, "spleen", box("spleen"), "case_2")
    next_round(made)
    queue = browser.get("/api/queue").json()
    assert [(i["id"], i["round"], i["rank"]) for i in queue["items"]] == [("case_1", 2, 1), ("case_2", 1, 2)]
    assert queue["items"][1]["reason"].startswith("your draft of round 1; spleen: new class")
    assert queue["total"] == 1, "the round's own progress"
    assert [i["id"] for i in client(made, "dr. b").get("/api/queue").json()["items"]] == ["case_1"]
    assert np.array_equal(mask(browser, "spleen", case="case_2"), box("spleen"))
    assert browser.post("/api/cases/case_2/verdict", json={"verdict": "edited"}).status_code == 200
    assert [i["id"] for i in browser.get("/api/queue").json()["items"]] == ["case_1"]
    assert made.pool.annotations("case_2", "spleen")[-1].round == 2, "it counts for the round that is open"


def test_what_is_drawn_over_an_old_prediction_is_not_accepted_with_a_new_one(made: Project) -> None:
    """The page was open while the round came."""
    browser = client(made)
    seen = browser.get(CASE).json()["round"]
    next_round(made)
    kept = browser.put(f"{CASE}/drafts/spleen?round={seen}", content=packed(box("spleen")))
    assert kept.status_code == 200
    for answer in (
        browser.post(f"{CASE}/verdict", json={"verdict": "edited", "round": seen}),
        browser.get(f"{CASE}/masks/liver?round={seen}"),
        browser.get(f"{CASE}/labels?round={seen}"),
    ):
        assert answer.status_code == 409
        assert answer.json()["error"] == (
            "case case_1: expected it as round 2 has predicted it, it was opened in round 1; open it again, your draft is kept"
        )
    assert made.pool.annotations("case_1", "liver") == []
    assert browser.get(CASE).json()["earlier"] == {"spleen": 1}


def test_time_goes_with_its_round_and_with_the_draft_that_is_taken_up(made: Project) -> None:
    browser = client(made)
    draw(browser, "spleen", box("spleen"))
    browser.post(f"{CASE}/seconds", json={"seconds": 60, "round": 1})
    next_round(made)
    browser.post(f"{CASE}/seconds", json={"seconds": 4, "round": 1})  # the page was open while the round came
    browser.post(f"{CASE}/seconds", json={"seconds": 6})
    assert browser.get(CASE).json()["seconds"] == 6
    for _ in range(2):
        browser.post(f"{CASE}/earlier")
        assert browser.get(CASE).json()["seconds"] == 70
    assert browser.post(f"{CASE}/verdict", json={"verdict": "edited"}).status_code == 200
    assert sum(made.pool.annotations("case_1", n)[-1].seconds or 0 for n in ("spleen", "liver")) == 70


def test_who_draws_anew_is_not_timed_for_the_draft_before(made: Project) -> None:
    browser = client(made)
    draw(browser, "spleen", box("spleen"))
    browser.post(f"{CASE}/seconds", json={"seconds": 60})
    next_round(made)
    browser.post(f"{CASE}/seconds", json={"seconds": 6})
    draw(browser, "spleen", box("aorta"))
    assert browser.post(f"{CASE}/verdict", json={"verdict": "edited"}).status_code == 200
    assert sum(made.pool.annotations("case_1", n)[-1].seconds or 0 for n in ("spleen", "liver")) == 6


def test_the_time_of_a_case_that_the_new_queue_lacks_is_its_own(made: Project) -> None:
    browser = client(made)
    draw(browser, "spleen", box("spleen"), "case_2")
    next_round(made)
    browser.post("/api/cases/case_2/seconds", json={"seconds": 40})
    assert browser.get("/api/cases/case_2").json()["seconds"] == 40
    assert browser.post("/api/cases/case_2/verdict", json={"verdict": "edited"}).status_code == 200
    assert made.pool.annotations("case_2", "spleen")[-1].seconds == 20.0, "spleen and liver share them"
    answer = browser.post("/api/cases/case_2/seconds", json={"seconds": 1, "round": 2})
    assert answer.status_code == 409 and "expected a round up to 1, got 2" in answer.json()["error"]


@pytest.mark.parametrize("number", ["x", "-1", "1.5", "9999999"])
def test_a_round_that_is_no_number(made: Project, number: str) -> None:
    answer = client(made).get(f"{CASE}/labels?round={number}")
    assert answer.status_code == 422 and "expected the number of a round" in answer.json()["error"]


def test_a_draft_of_a_round_that_is_not_there(made: Project) -> None:
    answer = client(made).put(f"{CASE}/drafts/spleen?round=7", content=packed(box("spleen")))
    assert (
        answer.status_code == 409
        and "expected a round up to 1, got 7; reload the page" in answer.json()["error"]
    )


def packed(voxels: np.ndarray) -> bytes:
    import gzip

    return gzip.compress(voxels.tobytes(order="F"))
