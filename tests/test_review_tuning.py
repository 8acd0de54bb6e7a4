"""The live loop: from a revised case to the next round's queue, and what a kill in the middle costs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from small_review import box, learning_project, review_project
from starlette.testclient import TestClient

from ctune.data.files import read_json, write_json
from ctune.errors import RoundError
from ctune.project import Project
from ctune.review.desk import ReviewDesk
from ctune.review.server import build_app
from ctune.review.state import ReviewState
from ctune.review.tokens import Expert
from ctune.review.tuning import _CODE, Tuner, work
from ctune.round import ARROWS, ArrowDone, RoundState, abandon, rounds
from ctune.round.state import now, write_state
from ctune.types import Source

os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="module")
def learning(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """A project with a trained base whose round 1 waits; one case is revised as the truth has it."""
    made, truth = learning_project(tmp_path_factory.mktemp("learning") / "project")
    desk = ReviewDesk(made)
    case_id = desk.rows()[0].case_id
    desk.hand_in(case_id, {"stomach": truth(case_id, "stomach")}, "dr. a", "edited", "")
    yield made
    Tuner(made).stop()


def until(tuner: Tuner, true: str, patience: float = 120.0) -> dict:
    end = time.monotonic() + patience
    while time.monotonic() < end:
        status = tuner.status()
        if status and (status["state"] == true or status["arrow"] == true):
            return status
        if status and status["state"] == "failed":
            break
        time.sleep(0.05)
    raise AssertionError(f"expected {true}, got {tuner.status()}")


def test_a_tuning_that_is_killed_goes_on_and_the_next_round_is_in_the_queue(learning: Project) -> None:
    tuner, before = Tuner(learning), rounds(learning)[-1]
    assert tuner.start("dr. a")["state"] == "running"
    with pytest.raises(RoundError, match="expected no tuning at work, one is; wait for it"):
        Tuner(learning).start("dr. b")
    status = until(tuner, "tune")
    os.kill(int(status["pid"]), signal.SIGKILL)
    assert tuner.process is not None
    tuner.process.wait()
    assert tuner.status()["state"] == "interrupted"  # type: ignore[index]
    revised = learning.pool.annotations(ReviewDesk(learning).rows()[0].case_id, "stomach")
    assert [r.author for r in revised if r.round == 1] == ["dr. a"], "what was revised is there"
    app = build_app(learning, link_token="once", owner=Expert("dr. a", "tune"))
    browser = TestClient(app)
    session = browser.post("/api/session", json={"token": "once"}).json()["session"]
    browser.headers["authorization"] = f"Bearer {session}"
    assert browser.get("/api/tuning").json()["state"] == "running", "a server that starts goes on with it"
    assert browser.get("/api/queue").json()["round"] == 1, "the old queue stands until the new one is made"
    done = until(Tuner(learning), "done")
    first, second = rounds(learning)
    assert first.model_out == second.model and first.number == before.number and second.next_arrow == "revise"
    assert list(done["dice"]) and done["dice"]["stomach"][0] is None, (
        "a new class, measured on the test cases"
    )
    queue = browser.get("/api/queue").json()
    assert queue["round"] == 2 and queue["items"] and queue["done"] == 0
    predicted = ReviewDesk(learning).predicted(queue["items"][0]["id"])
    assert "stomach" in predicted, "the new class is predicted now"


def test_a_case_of_the_old_queue_stays_open(learning: Project) -> None:
    desk = ReviewDesk(learning)
    if desk.round_number != 2:
        pytest.skip("needs the round that the test before makes")
    old = next(r.case_id for r in desk.rows(1))
    assert desk.round_of(old) in (1, 2) and desk.case(old, "dr. a")["id"] == old


def test_the_next_round_keeps_the_budget_and_leaves_out_what_is_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, asked = review_project(tmp_path / "project"), dict[str, Any]()
    over = rounds(made)[-1].model_copy(
        update={
            "annotations": 7,
            "minutes": 30.0,
            "model_out": "0" * 64,
            "arrows": dict.fromkeys(ARROWS, ArrowDone(finished=now(), seconds=0.0)),
        }
    )
    write_state(made, over)

    def begin(project: Project, **more: Any) -> RoundState:
        # A case that was opened while the round went on.
        ReviewState(project.root / "review").lease("case_2", "ann")
        asked.update(more, open=more["leased"]())
        return over

    monkeypatch.setattr("ctune.review.tuning.start", begin)
    work(str(made.root), "dr. a")
    assert (asked["annotations"], asked["minutes"], asked["open"]) == (7, 30.0, {"case_2"})


def test_after_a_round_that_was_given_up_the_next_begins_from_its_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, asked = review_project(tmp_path / "project"), dict[str, Any]()
    given_up = abandon(made)

    def begin(project: Project, **more: Any) -> RoundState:
        asked.update(more)
        return given_up

    monkeypatch.setattr("ctune.review.tuning.start", begin)
    work(str(made.root), "dr. a")
    assert (asked["model"], asked["classes"]) == (given_up.model, given_up.classes)


def test_what_nobody_asked_for_is_nothing_to_tune(tmp_path: Path) -> None:
    made = review_project(tmp_path / "project")
    made.pool.annotate("case_1", "aorta", box("aorta"), source=Source.REVISED, author="dr. a", round=1)
    with pytest.raises(RoundError, match="expected at least one revised case to learn from"):
        Tuner(made).start("dr. a")


def test_nothing_revised_nothing_tuned(tmp_path: Path) -> None:
    tuner = Tuner(review_project(tmp_path / "project"))
    with pytest.raises(
        RoundError, match="round 1: expected at least one revised case to learn from, found none"
    ):
        tuner.start("dr. a")
    assert tuner.status() is None and tuner.stop() is None and not tuner.go_on()


def test_a_fault_is_told(tmp_path: Path) -> None:
    """The model of this round is in no registry."""
    made = review_project(tmp_path / "project")
    ReviewDesk(made).accept("case_1", "dr. a", edited=False, comment="")
    tuner = Tuner(made)
    tuner.start("dr. a")
    end = time.monotonic() + 60
    while tuner.running and time.monotonic() < end:
        time.sleep(0.05)
    status = tuner.status()
    assert status and status["state"] == "failed" and status["error"]


def test_who_may_tune(tmp_path: Path) -> None:
    made = review_project(tmp_path / "project")
    browser = TestClient(build_app(made, link_token="once", owner=Expert("dr. a", "revise")))
    session = browser.post("/api/session", json={"token": "once"}).json()["session"]
    answer = browser.post("/api/tuning", headers={"authorization": f"Bearer {session}"})
    assert answer.status_code == 403 and "expected the role tune, dr. a has revise" in answer.json()["error"]


def test_a_note_of_a_process_that_is_gone_is_no_running_tuning(tmp_path: Path) -> None:
    tuner = Tuner(review_project(tmp_path / "project"))
    tuner.note.parent.mkdir(exist_ok=True)
    write_json(tuner.note, {"state": "running", "pid": 1, "expert": "dr. a", "round": 1})
    assert tuner.status()["state"] == "interrupted" and read_json(tuner.note)["state"] == "running"  # type: ignore[index]


_STUB = (
    "import os, sys, time; from pathlib import Path; from filelock import FileLock; from ctune.data.files import write_json\n"
    "note = Path(sys.argv[1]) / 'review' / 'tuning.json'\n"
    "with FileLock(note.with_suffix('.lock')):\n"
    "    write_json(note, {'state': 'running', 'pid': os.getpid(), 'expert': 'dr. b', 'round': 1})\n"
    "    time.sleep(120)"
)
"""A worker that holds the lock and comes to no end."""


@pytest.fixture
def signalled(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The processes that a signal was sent to, which is sent."""
    found, kill = list[int](), os.kill
    monkeypatch.setattr("ctune.review.tuning.os.kill", lambda pid, sign: (found.append(pid), kill(pid, sign)))
    return found


def test_stop_ends_the_worker_of_another_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, signalled: list[int]
) -> None:
    made = review_project(tmp_path / "project")
    tuner, other = Tuner(made), Tuner(made)
    tuner.process = subprocess.Popen(["true"])  # what this server once began has ended
    tuner.process.wait()
    monkeypatch.setattr("ctune.review.tuning._CODE", _STUB)
    other._spawn("dr. b")
    assert other.process is not None
    try:
        _wait(lambda: read_json(tuner.note)["pid"])
        assert tuner.stop()["state"] == "stopped"  # type: ignore[index]
        assert other.process.wait(10) == -signal.SIGTERM and set(signalled) == {other.process.pid}
        assert read_json(tuner.note)["state"] == "stopped" and not tuner.running
    finally:
        other.process.kill()


@pytest.mark.parametrize("whose", ["a stranger's", "of another project", "that is gone", "not noted yet"])
def test_stop_signals_nobody_but_a_worker_of_this_project(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, signalled: list[int], whose: str
) -> None:
    """Somebody holds the lock, and the note has the number of a process that is not ours."""
    monkeypatch.setattr("ctune.review.tuning._ENDS_WITHIN", 0.5)
    tuner = Tuner(review_project(tmp_path / "project"))
    code = _CODE if whose == "of another project" else ""
    command = [sys.executable, "-c", "import time; time.sleep(120)", code, f"{tuner.project.root}-2", "dr. b"]
    stranger = subprocess.Popen(command)
    try:
        if whose == "that is gone":
            stranger.kill()
            stranger.wait()
            signalled.clear()
        pid = 0 if whose == "not noted yet" else stranger.pid
        tuner.note.parent.mkdir(exist_ok=True)
        write_json(tuner.note, {"state": "running", "pid": pid, "expert": "dr. b", "round": 1})
        with (
            FileLock(tuner.note.with_suffix(".lock")),
            pytest.raises(RoundError, match="round 1: expected a tuning that this server can end"),
        ):
            tuner.stop()
        assert signalled == [] and read_json(tuner.note)["state"] == "running"
    finally:
        stranger.kill()


def test_a_tuning_that_ends_while_it_is_stopped_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tuner = Tuner(review_project(tmp_path / "project"))
    write_json(tuner.note, {"state": "running", "pid": 1, "expert": "dr. b", "round": 1})
    lock = FileLock(tuner.note.with_suffix(".lock"))
    lock.acquire()

    def over(seconds: float) -> None:
        write_json(tuner.note, {"state": "done", "pid": 1, "expert": "dr. b", "round": 1})
        lock.release()

    monkeypatch.setattr("ctune.review.tuning.time.sleep", over)
    assert tuner.stop()["state"] == "done"  # type: ignore[index]


def _wait(true: Callable[[], Any], patience: float = 60.0) -> None:
    end = time.monotonic() + patience
    while not true():
        assert time.monotonic() < end
        time.sleep(0.05)
