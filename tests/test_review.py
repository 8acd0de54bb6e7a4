"""The review server without a browser: what it shows, takes, keeps and refuses."""

from __future__ import annotations

import gzip
import json
import sqlite3
import subprocess
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from small_review import AFFINE, SHAPE, box, review_project
from starlette.testclient import TestClient

from ctune.data.nifti import write_volume
from ctune.errors import ConfigError, PoolError
from ctune.project import Project
from ctune.review.audit import AuditLog
from ctune.review.desk import ReviewDesk
from ctune.review.server import build_app
from ctune.review.state import LEASE_SECONDS, LeasedError, ReviewState
from ctune.review.tokens import Expert, add_token, check_token, experts, remove_token
from ctune.types import Source


@pytest.fixture
def made(tmp_path: Path) -> Project:
    return review_project(tmp_path / "project")


def client(made: Project, name: str = "dr. a", role: str = "tune") -> TestClient:
    """A browser of an expert who has signed in."""
    app = build_app(made, link_token="once", owner=Expert(name, role))
    out = TestClient(app)
    session = out.post("/api/session", json={"token": "once"}).json()["session"]
    out.headers["authorization"] = f"Bearer {session}"
    return out


def draw(browser: TestClient, name: str, mask: np.ndarray, case: str = "case_1"):
    return browser.put(f"/api/cases/{case}/drafts/{name}", content=gzip.compress(mask.tobytes(order="F")))


def test_the_queue_says_why(made: Project) -> None:
    queue = client(made).get("/api/queue").json()
    first = queue["items"][0]
    assert (queue["round"], queue["done"], queue["total"]) == (1, 0, 2)
    assert first["id"] == "case_1" and first["state"] == "open"
    assert first["reason"] == "spleen: new class; liver: 0.6 mL uncertain in 1 region"


def test_a_case_names_its_classes_and_hot_spots_largest_first(made: Project) -> None:
    browser = client(made)
    case, spots = (browser.get(f"/api/cases/case_1{more}").json() for more in ("", "/spots"))
    assert [c["name"] for c in case["classes"]] == ["spleen", "liver", "aorta"]
    assert [round(s["ml"] / 0.00675) for s in spots["spots"]] == [96, 9], "voxels of 1.5 x 1.5 x 3 mm"
    assert spots["spots"][1]["voxel"] == [29, 16, 8], "the middle of the spot"


def test_where_no_region_stands_out_doubt_is_shown(made: Project) -> None:
    folder, grid = made.root / "rounds" / "001", made.pool.grid("case_1")
    spots = "/api/cases/case_1/spots"
    assert client(made).get(spots).json()["stands_out"]
    write_volume(folder / "attention" / "case_1.nii.gz", np.zeros(SHAPE, np.uint8), grid)
    assert client(made).get(spots).json() == {"spots": [], "stands_out": True}, "no probabilities"
    predicted = folder / "predictions" / "case_1"
    p = np.zeros((*SHAPE, 2), np.float32)
    p[5:9, 8, 6, 0], p[22:24, 22, 6, 1] = 0.4, 0.5  # of the aorta, which is not to revise
    nib.save(
        nib.Nifti1Image(np.rint(p * 255).astype(np.uint8), grid.affine), predicted / "probabilities.nii.gz"
    )
    record = json.loads((predicted / "prediction.json").read_text())
    (predicted / "prediction.json").write_text(
        json.dumps(record | {"probabilities": True, "inconsistency": False})
    )
    browser = client(made)
    found = browser.get(spots).json()
    (spot,) = found["spots"]
    assert not found["stands_out"]
    assert spot["voxel"][1:] == [8, 6] and spot["ml"] == pytest.approx(4 * grid.voxel_ml)
    heat = nib.Nifti1Image.from_bytes(browser.get("/api/cases/case_1/attention").content)
    assert int((np.asarray(heat.dataobj) > 0).sum()) == 4


def test_the_ct_goes_out_byte_for_byte_in_ranges_and_with_a_tag(made: Project) -> None:
    browser = client(made)
    whole = browser.get("/api/cases/case_1/ct")
    assert whole.content == made.pool.case("case_1").image.read_bytes()
    assert (
        browser.get("/api/cases/case_1/ct", headers={"range": "bytes=10-19"}).content == whole.content[10:20]
    )
    again = browser.get("/api/cases/case_1/ct", headers={"if-none-match": whole.headers["etag"]})
    assert again.status_code == 304


def test_accepted_with_edits_is_on_the_cts_grid_with_its_provenance(made: Project) -> None:
    browser = client(made)
    assert draw(browser, "spleen", box("spleen")).json() == {"version": 1}
    browser.post("/api/cases/case_1/seconds", json={"seconds": 40})
    done = browser.post("/api/cases/case_1/verdict", json={"verdict": "edited", "comment": "ok"}).json()
    changed = {r["class_name"]: (r["slices_changed"], round(r["after_ml"], 2)) for r in done["revised"]}
    assert changed == {"spleen": (7, 3.78), "liver": (0, 18.71)}
    record = made.pool.annotations("case_1", "spleen")[-1]
    assert (record.source, record.author, record.round, record.seconds) == (Source.REVISED, "dr. a", 1, 20.0)
    image = nib.load(made.pool.root / record.path)
    assert np.array_equal(np.asarray(image.dataobj), box("spleen")) and np.allclose(image.affine, AFFINE)
    assert browser.get("/api/queue").json()["done"] == 1


def test_accepted_as_is_takes_the_predictions_of_the_classes_to_revise(made: Project) -> None:
    done = client(made).post("/api/cases/case_1/verdict", json={"verdict": "as_is"}).json()
    assert [(r["class_name"], r["changed_ml"]) for r in done["revised"]] == [("liver", 0.0)]


def seconds_of(made: Project, case: str = "case_1", name: str = "spleen") -> list[float | None]:
    return [a.seconds for a in made.pool.annotations(case, name) if a.source == Source.REVISED]


def test_who_accepts_twice_is_timed_once(made: Project) -> None:
    desk, mask = ReviewDesk(made), box("spleen")
    for more in (60.0, 10.0):
        desk.add_seconds("case_1", "dr. a", more)
        desk.add_seconds("case_1", "dr. b", 7.0)
        desk.hand_in("case_1", {"spleen": mask}, "dr. a", "edited", "")
        desk, mask = ReviewDesk(made), box("aorta")  # the server starts anew
    assert seconds_of(made) == [60.0, 10.0]
    assert desk.case("case_1", "dr. a")["seconds"] == 70.0, "the page goes on counting where it was"


def test_time_that_nobody_measured_is_unknown_and_not_zero(made: Project) -> None:
    desk = ReviewDesk(made)
    desk.hand_in("case_1", {"spleen": box("spleen")}, "dr. a", "edited", "")
    assert seconds_of(made) == [None]
    desk.add_seconds("case_2", "dr. a", 30.0)
    desk.hand_in("case_2", {"spleen": box("spleen")}, "dr. a", "edited", "", timed=False)
    desk.hand_in("case_2", {"spleen": box("aorta")}, "dr. a", "edited", "")
    assert seconds_of(made, "case_2") == [None, None], "looked at here, drawn elsewhere"


def test_what_came_before_a_verdict_that_changed_nothing_is_counted_with_it(made: Project) -> None:
    desk = ReviewDesk(made)
    desk.add_seconds("case_1", "dr. a", 30.0)
    desk.cannot_judge("case_1", "dr. a", "motion")
    desk.add_seconds("case_1", "dr. a", 5.0)
    desk.hand_in("case_1", {"spleen": box("spleen")}, "dr. a", "edited", "")
    assert seconds_of(made) == [5.0]


def test_a_hand_in_that_is_refused_keeps_its_time(made: Project) -> None:
    desk = ReviewDesk(made)
    desk.add_seconds("case_1", "dr. a", 30.0)
    with pytest.raises(PoolError):
        desk.hand_in("case_1", {"no such class!": box("spleen")}, "dr. a", "edited", "")
    desk.hand_in("case_1", {"spleen": box("spleen")}, "dr. a", "edited", "")
    assert seconds_of(made) == [30.0]


def test_two_experts_are_both_kept_and_a_third_resolves(made: Project) -> None:
    for number, name in enumerate(("dr. a", "dr. b", "dr. c"), 1):
        browser, mask = client(made, name), box("spleen")
        mask[:, : 14 + 4 * (number % 3), :] = 0
        draw(browser, "spleen", mask)
        browser.post("/api/cases/case_1/verdict", json={"verdict": "edited"})
        item = browser.get("/api/queue").json()["items"][0]
        assert len(item["experts"]) == number
        assert item["state"] == ("done", "apart", "done")[number - 1]
        if number == 2:
            assert item["agreement"] == pytest.approx(2 * 2 / (6 + 2), abs=1e-6)


def test_a_lease_tells_the_next_one_and_ends(tmp_path: Path) -> None:
    time = [0.0]
    state = ReviewState(tmp_path, clock=lambda: time[0])
    state.lease("case_1", "dr. a")
    with pytest.raises(
        LeasedError, match=r"case_1: expected it to be free, dr. a is working on it \(for 5 more"
    ):
        state.lease("case_1", "dr. b")
    state.release("case_1", "dr. b")
    assert state.leases()["case_1"].expert == "dr. a", "nobody gives back what another holds"
    time[0] = LEASE_SECONDS + 1
    assert state.lease("case_1", "dr. b").expert == "dr. b"


def test_a_draft_outlives_the_server_and_each_version_is_new(made: Project) -> None:
    draw(client(made), "spleen", box("spleen"))
    again = client(made)
    assert draw(again, "spleen", box("aorta")).json() == {"version": 2}
    found = again.get("/api/cases/case_1/masks/spleen").content
    assert np.array_equal(np.frombuffer(found[352:], np.uint8).reshape(SHAPE, order="F"), box("aorta"))


def test_wrong_drafts_are_refused_in_words(made: Project) -> None:
    browser = client(made)
    answer = browser.put("/api/cases/case_1/drafts/spleen", content=gzip.compress(b"\1" * 5))
    assert answer.status_code == 409 and "expected 28800 voxels, got 5" in answer.json()["error"]
    assert "voxels of 0 and 1, got 7" in draw(browser, "spleen", 7 * box("spleen")).json()["error"]
    bomb = browser.put("/api/cases/case_1/drafts/spleen", content=gzip.compress(bytes(10**8)))
    assert "got 28801" in bomb.json()["error"] or bomb.status_code == 413
    assert browser.put("/api/cases/case_1/drafts/spleen", content=b"x" * 200_000).status_code == 413


def test_ids_and_classes_are_looked_up_never_joined(made: Project) -> None:
    browser = client(made)
    for bad in ("..%2F..%2Fctune.toml", "nobody", "%2Fetc%2Fpasswd"):
        assert browser.get(f"/api/cases/{bad}/ct").status_code in (404, 409)
        assert browser.get(f"/api/cases/case_1/masks/{bad}").status_code in (404, 409, 422)


def test_who_may_do_what(made: Project) -> None:
    viewer = client(made, role="view")
    assert viewer.get("/api/queue").status_code == 200
    answer = draw(viewer, "spleen", box("spleen"))
    assert answer.status_code == 403 and "expected the role revise, dr. a has view" in answer.json()["error"]
    stranger = TestClient(build_app(made))
    assert stranger.get("/api/queue").status_code == 401
    assert stranger.get("/", headers={"host": "evil.example"}).status_code == 400
    for cookie in ("session", "token"):
        assert TestClient(build_app(made), cookies={cookie: "x"}).get("/api/queue").status_code == 401


def test_the_link_works_once_and_the_session_outlives_a_restart(made: Project) -> None:
    browser = client(made)
    assert browser.post("/api/session", json={"token": "once"}).status_code == 401
    assert TestClient(build_app(made), headers=browser.headers).get("/api/queue").status_code == 200


def test_the_policy_allows_no_inline_and_no_remote_script(made: Project) -> None:
    answer = TestClient(build_app(made)).get("/")
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'; script-src 'self';" in policy and "unsafe" not in policy
    assert (
        "<script>" not in answer.text and " style=" not in answer.text and " on" + "click=" not in answer.text
    )


def test_tokens_are_kept_as_hashes(tmp_path: Path) -> None:
    path = tmp_path / "tokens.json"
    token = add_token(path, "dr. a", "revise")
    assert token not in path.read_text() and path.stat().st_mode & 0o077 == 0
    assert check_token(path, token) == Expert("dr. a", "revise") and check_token(path, "x") is None
    add_token(path, "dr. a", "view")
    assert check_token(path, token) is None, "a new token ends the old one"


def test_a_token_that_ends_takes_its_sessions_along(made: Project, tmp_path: Path) -> None:
    path = tmp_path / "tokens.json"

    def signed_in(role: str) -> TestClient:
        token = add_token(path, "dr. b", role)
        browser = TestClient(build_app(made, tokens=path))
        session = browser.post("/api/session", json={"token": token}).json()["session"]
        browser.headers["authorization"] = f"Bearer {session}"
        return browser

    first = signed_in("revise")
    assert draw(first, "spleen", box("spleen")).status_code == 200
    second = signed_in("view")
    assert first.get("/api/queue").status_code == 401, "a new token ends the old one's sessions"
    assert draw(second, "spleen", box("spleen")).status_code == 403
    assert [(one.name, one.role) for one in experts(path)] == [("dr. b", "view")]
    remove_token(path, "dr. b")
    answer = second.get("/api/queue")
    assert answer.status_code == 401 and "one that is over" in answer.json()["error"]
    with pytest.raises(ConfigError, match=r"expected an expert with a token, got 'dr. b'; those are: nobody"):
        remove_token(path, "dr. b")
    assert client(made).get("/api/queue").status_code == 200, "the one-time link has no token to end"


def test_a_state_of_an_earlier_version_is_brought_up(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "review.db") as db:
        db.execute("create table session (sha256 text primary key, expert text, role text, until real)")
        db.execute("insert into session values ('x', 'dr. a', 'tune', 9e9)")
    state = ReviewState(tmp_path)
    secret = state.new_session(Expert("dr. a", "view"), "hash")
    assert state.session(secret) == (Expert("dr. a", "view"), "hash") and state.session("x") is None


def test_seconds_of_an_earlier_version_count_once(tmp_path: Path) -> None:
    """It kept the sum alone: what was judged was told, what was not is still to tell."""
    ReviewState(tmp_path)
    with sqlite3.connect(tmp_path / "review.db") as db:
        db.execute("drop table seconds")
        db.execute(
            "create table seconds (case_id text, expert text, round integer, active real not null, "
            "primary key (case_id, expert, round))"
        )
        db.execute("insert into seconds values ('case_1', 'ann', 1, 60), ('case_2', 'ann', 1, 20)")
        db.execute("insert into verdict values ('case_1', 'ann', 1, 'edited', '', 9)")
    for _ in range(2):
        state = ReviewState(tmp_path)
        assert [state.new_seconds(f"case_{n}", "ann", 1) for n in (1, 2)] == [0.0, 20.0]
    assert state.add_seconds("case_1", "ann", 1, 5.0) == 65.0 and state.new_seconds("case_1", "ann", 1) == 5.0


@pytest.mark.parametrize("torn", ['{"n": 4, "at"', "\x00" * 100], ids=["half", "zeros"])
def test_a_line_that_was_cut_is_taken_away_and_the_log_goes_on(tmp_path: Path, torn: str) -> None:
    log = AuditLog(tmp_path / "audit.jsonl")
    for number in range(3):
        log.append("dr. a", "saw", f"case_{number}")
    with log.path.open("a") as file:
        file.write(torn)
    log.append("dr. a", "saw", "case_3")
    assert log.verify() == [] and [line["case"] for line in log.lines()] == [f"case_{i}" for i in range(4)]


def test_a_long_comment_is_refused_and_not_cut(made: Project) -> None:
    browser = client(made)
    for comment in ("x" * 2001, ["x"]):
        said = {"verdict": "cannot_judge", "comment": comment}
        answer = browser.post("/api/cases/case_2/verdict", json=said)
        assert answer.status_code == 422 and "a comment of at most 2000 letters" in answer.json()["error"]
    assert ReviewDesk(made).state.verdicts(1) == []


def test_half_a_character_is_refused_before_anything_is_written(made: Project) -> None:
    browser = client(made)
    said = {"/api/session": b'{"token": "\\ud800"}'}
    said["/api/cases/case_1/verdict"] = b'{"verdict": "as_is", "comment": "a\\udc00b"}'
    said["/api/cases/case_1/seconds"] = b'{"seconds": [{"\\ud800": 1}]}'
    browser.post("/api/cases/case_1/lease")
    for path, body in said.items():
        for one in (body, body.replace(b"\\ud800", b"\xed\xa0\x80")):
            answer = browser.post(path, content=one)
            assert answer.status_code == 400, (path, answer.text)
            assert "expected whole characters" in answer.json()["error"]
    assert answer.json()["error"].startswith(
        "expected whole characters in 'seconds', got half of one, \\ud800"
    )
    desk = ReviewDesk(made)
    assert made.pool.annotations("case_1") == [] and desk.state.verdicts(1) == []
    assert list(desk.state.leases()) == ["case_1"]
    both = b'{"verdict": "as_is", "comment": "\\ud83d\\ude00"}'
    assert browser.post("/api/cases/case_1/verdict", content=both).status_code == 200, "two halves are one"
    assert desk.state.verdicts(1)[0].comment == "\U0001f600"


def test_json_that_is_nested_without_end_is_refused(made: Project) -> None:
    answer = client(made).post("/api/session", content=b"[" * 60_000)
    assert answer.status_code == 422 and "expected one JSON object" in answer.json()["error"]


def test_a_full_disk_is_told_and_the_same_again_is_kept(tmp_path: Path) -> None:
    made = review_project(tmp_path / "project")
    folder = made.root / "review"
    folder.mkdir(exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("a small disk can only be mounted by root, outside a closed container")
    try:
        browser = TestClient(client(made).app, raise_server_exceptions=False)
        browser.headers["authorization"] = "Bearer " + ReviewState(folder).new_session(
            Expert("dr. a", "tune")
        )
        assert draw(browser, "spleen", box("spleen")).status_code == 200
        filler = folder / "filler"
        with pytest.raises(OSError), filler.open("wb", buffering=0) as file:
            for size in (4096, 1):
                while True:
                    file.write(b"x" * size)
        answers = [draw(browser, "spleen", box("spleen")) for _ in range(3)]
        answers.append(browser.post("/api/cases/case_1/verdict", json={"verdict": "edited"}))
        for answer in answers:
            # SQLite calls the same "disk I/O error" when it is its log that does not fit.
            why = {507: "its disk is full", 500: "its database: disk I/O error"}[answer.status_code]
            assert why in answer.json()["error"] and str(tmp_path) not in answer.text
        filler.unlink()
        assert draw(browser, "spleen", box("spleen")).status_code == 200
        assert browser.post("/api/cases/case_1/verdict", json={"verdict": "edited"}).status_code == 200
        assert AuditLog(folder / "audit.jsonl").verify() == []
        assert not list(folder.rglob("*.tmp-*"))
    finally:
        subprocess.run(["umount", folder], check=True)


@pytest.mark.parametrize("change", ["edit", "drop", "cut"])
def test_the_audit_log_shows_every_change(tmp_path: Path, change: str) -> None:
    log = AuditLog(tmp_path / "audit.jsonl")
    for number in range(3):
        log.append("dr. a", "saw", f"case_{number}")
    assert log.verify() == []
    lines = log.path.read_text().splitlines()
    if change == "edit":
        lines[1] = json.dumps(json.loads(lines[1]) | {"who": "dr. b"}, sort_keys=True)
    else:
        del lines[1 if change == "drop" else 2]
    log.path.write_text("\n".join(lines) + "\n")
    (problem,) = log.verify()
    assert ("its end is missing" if change == "cut" else "line 2") in problem


def test_cannot_judge_keeps_the_reason(made: Project) -> None:
    browser = client(made)
    browser.post("/api/cases/case_2/verdict", json={"verdict": "cannot_judge", "comment": "motion"})
    assert browser.get("/api/queue").json()["items"][1]["state"] == "cannot judge"
    assert ReviewDesk(made).state.verdicts(1)[0].comment == "motion"
    assert ReviewDesk(made).audit.lines()[-1]["what"] == "cannot_judge"


def test_the_registry_of_a_project_is_verified_with_its_audit_log(
    made: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    from cli.main import run

    log = ReviewDesk(made).audit
    log.append("dr. a", "saw", "case_1")
    for command in (["registry", "verify"], ["review", "--verify"]):
        for text, code in ((log.path.read_text(), 0), (log.path.read_text().replace("dr. a", "dr. b"), 4)):
            was = log.path.read_text()
            log.path.write_text(text)
            with pytest.raises(SystemExit) as end:
                run([*command, "--project", str(made.root)])
            log.path.write_text(was)
            assert end.value.code == code
            assert ("audit log: expected line 1 of" in " ".join(capsys.readouterr().out.split())) == (
                code == 4
            )
