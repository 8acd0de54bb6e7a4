"""Jobs: asked for now, done later, over restarts; and nobody sees another's."""

from __future__ import annotations

import dataclasses
import errno
import io
import logging
import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import small_serve as small
import torch
from starlette.testclient import TestClient

from ctune.serve.app import build_app
from ctune.serve.faults import Refused
from ctune.serve.jobs import ATTEMPTS, Jobs, State
from ctune.serve.model import ServedModel, load
from ctune.serve.parts import Part, TorchLoader
from ctune.serve.registered import RegistrySource
from ctune.serve.service import Service, Settings
from ctune.serve.tokens import Tokens

ADA = {"authorization": "Bearer a"}
BOB = {"authorization": "Bearer b"}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> ServedModel:
    source = RegistrySource(small.fill(tmp_path_factory.mktemp("registry")), "small")
    return load(source, TorchLoader(source, torch.device("cpu")), source.resolve())


@pytest.fixture
def service(model: ServedModel, tmp_path: Path) -> Service:
    tokens = Tokens({"ada": small.hashed("a"), "bob": small.hashed("b")})
    return Service(model, Settings(tmp_path, tokens=tokens, jobs=2))


@pytest.fixture
def client(service: Service) -> Iterator[TestClient]:
    with TestClient(build_app(service), headers=ADA) as client:
        yield client


def ended(client: TestClient, job_id: str) -> dict[str, Any]:
    for _ in range(400):
        job: dict[str, Any] = client.get(f"/jobs/{job_id}").json()
        if job["state"] in ("done", "failed"):
            return job
        time.sleep(0.025)
    raise AssertionError(job)


def held(service: Service, model: ServedModel) -> threading.Event:
    """From now on every window waits until the event is set."""
    free = threading.Event()

    def run(windows: torch.Tensor, needs: frozenset[str]) -> Any:
        free.wait(20)
        return model.base.run(windows, needs)

    service.model = dataclasses.replace(model, base=Part(model.base.digest, run))
    return free


def test_a_job_gives_what_a_request_would_have_given(client: TestClient, service: Service) -> None:
    asked = client.post("/jobs?classes=liver", content=small.ct_gz())
    assert asked.status_code == 202 and asked.headers["location"] == f"/jobs/{asked.json()['id']}"
    job = ended(client, asked.json()["id"])
    assert (job["state"], job["attempts"], job["model"]) == (
        "done",
        1,
        f"sha256:{service.model.about.digest}",
    )
    result, now = client.get(job["result"]), client.post("/segment?classes=liver", content=small.ct_gz())
    assert result.content == now.content
    assert result.headers["x-ctune-volumes-ml"] == now.headers["x-ctune-volumes-ml"]
    assert not (service.jobs.folder(job["id"]) / "upload").exists(), "the CT itself is not kept"


def test_a_job_that_cannot_be_read_says_why(client: TestClient) -> None:
    job = ended(client, client.post("/jobs", content=b"nonsense").json()["id"])
    assert job["state"] == "failed" and "expected a NIfTI image" in job["error"]
    answer = client.get(job["result"])
    assert answer.status_code == 422 and answer.json()["error"] == job["error"]
    assert client.post("/jobs?classes=livr", content=small.ct_gz()).status_code == 422


def test_nobody_sees_or_ends_the_job_of_another(client: TestClient) -> None:
    job_id = client.post("/jobs", content=small.ct_gz()).json()["id"]
    for method, path in (("GET", ""), ("DELETE", ""), ("GET", "/result")):
        answer = client.request(method, f"/jobs/{job_id}{path}", headers=BOB)
        assert answer.status_code == 404 and "a job of yours" in answer.json()["error"]
    assert ended(client, job_id)["state"] == "done"


def test_deleted_while_it_runs_it_stops_and_leaves_nothing(
    client: TestClient, service: Service, model: ServedModel
) -> None:
    free = held(service, model)
    ids = [client.post("/jobs", content=small.ct_gz()).json()["id"] for _ in range(2)]
    while client.get(f"/jobs/{ids[0]}").json()["state"] != "running":
        time.sleep(0.01)
    early = client.get(f"/jobs/{ids[1]}/result")
    assert early.status_code == 409 and "this one is queued" in early.json()["error"]
    assert client.delete(f"/jobs/{ids[0]}").status_code == 204
    free.set()
    assert ended(client, ids[1])["state"] == "done"
    assert client.get(f"/jobs/{ids[0]}").status_code == 404 and not service.jobs.folder(ids[0]).exists()
    assert list(service.scratch.iterdir()) == []


def test_more_than_may_wait_are_refused_and_clients_who_wait_go_first(
    client: TestClient, service: Service, model: ServedModel
) -> None:
    free = held(service, model)
    first = client.post("/jobs", content=small.ct_gz()).json()["id"]
    while service.jobs.waiting:
        time.sleep(0.01)
    waiting = [client.post("/jobs", content=small.ct_gz()) for _ in range(3)]
    assert [a.status_code for a in waiting] == [202, 202, 429] and waiting[2].headers["retry-after"] == "60"
    asked: list[Any] = []
    thread = threading.Thread(target=lambda: asked.append(client.post("/segment", content=small.ct_gz())))
    thread.start()
    while not service.worker.waiting:
        time.sleep(0.01)
    free.set()
    thread.join(20)
    last = client.get(f"/jobs/{waiting[1].json()['id']}").json()
    assert asked[0].status_code == 200
    done = [ended(client, i)["finished"] for i in (first, *(a.json()["id"] for a in waiting[:2]))]
    assert done == sorted(done) and last["state"] in ("queued", "running"), "after the request, in order"


def test_a_killed_service_goes_on_with_its_jobs_and_gives_up_after_three_times(tmp_path: Path) -> None:
    jobs = Jobs(tmp_path, 10, 60)
    job_id = jobs.add(io.BytesIO(b"ct"), {"classes": "liver"}, "ada")
    (tmp_path / "jobs" / "orphan").mkdir()
    (tmp_path / "jobs" / "orphan" / "upload.tmp").write_bytes(b"half")
    for attempt in range(1, ATTEMPTS + 1):
        begun = jobs.begin()
        assert begun and (begun.id, begun.attempts, begun.state) == (job_id, attempt, State.RUNNING)
        jobs.close()  # The process is killed: the row says that it runs.
        jobs = Jobs(tmp_path, 10, 60)
    found = jobs.find(job_id, "ada")
    assert found.state is State.FAILED
    assert found.error == "the service ended 3 times while it worked on it"
    assert [p.name for p in (tmp_path / "jobs").iterdir()] == [job_id], "what has no row is gone"


def test_what_ended_long_ago_is_forgotten(tmp_path: Path) -> None:
    jobs = Jobs(tmp_path, 10, 60)
    old, new = (jobs.add(io.BytesIO(b"ct"), {}, "ada") for _ in range(2))
    for job_id in (old, new):
        jobs.begin()
        jobs.done(job_id, io.BytesIO(b"mask"), "application/gzip", {"volumes_ml": {}})
    with sqlite3.connect(tmp_path / "jobs.sqlite") as rows:
        rows.execute("UPDATE jobs SET finished = finished - 61 WHERE id = ?", (old,))
    jobs.expire()
    assert not jobs.folder(old).exists() and jobs.find(new, "ada").state is State.DONE
    with pytest.raises(Refused, match="it may have expired"):
        jobs.find(old, "ada")


def test_a_service_that_ends_leaves_its_job_for_the_next(model: ServedModel, tmp_path: Path) -> None:
    service = Service(model, Settings(tmp_path))
    free = held(service, model)
    service.start()
    job = service.add_job(io.BytesIO(small.ct_gz()), {}, "anyone")
    while service.jobs.waiting:
        time.sleep(0.01)
    threading.Timer(0.2, free.set).start()
    service.close(0.1)
    again = Service(model, Settings(tmp_path))
    assert again.jobs.find(job.id, "anyone").state is State.QUEUED
    with TestClient(build_app(again)) as client:
        done = ended(client, job.id)
        assert (done["state"], done["attempts"]) == ("done", 1)


class _Torn(io.BytesIO):
    """An upload after whose first bytes the disk has no room."""

    def read(self, size: int | None = -1, /) -> bytes:
        if self.tell():
            raise OSError(errno.ENOSPC, "No space left on device")
        return super().read(1000)


BREAK = {
    "INSERT": "CREATE TRIGGER bad BEFORE INSERT ON jobs BEGIN SELECT RAISE(ROLLBACK, 'disk I/O error'); END",
    "COMMIT": "PRAGMA foreign_keys = ON; CREATE TABLE one (id PRIMARY KEY); "
    "CREATE TABLE two (id REFERENCES one DEFERRABLE INITIALLY DEFERRED); "
    "CREATE TRIGGER bad AFTER INSERT ON jobs BEGIN INSERT INTO two VALUES (1); END",
}
"""What makes a statement fail: the first ends the transaction, as SQLite does when the disk is full; the other leaves it open."""


@pytest.mark.parametrize("fails", ["the disk", *BREAK])
def test_a_job_that_cannot_be_kept_leaves_nothing_of_a_patient(tmp_path: Path, fails: str) -> None:
    jobs = Jobs(tmp_path, 10, 60)
    first = jobs.add(io.BytesIO(b"ct"), {}, "ada")
    jobs._rows.executescript(BREAK.get(fails, ""))
    upload = _Torn(b"ct" * 1000) if fails == "the disk" else io.BytesIO(b"ct" * 1000)
    with pytest.raises((OSError, sqlite3.Error), match=r"No space|disk I/O|FOREIGN KEY"):
        jobs.add(upload, {}, "ada")
    assert [p.relative_to(tmp_path / "jobs").as_posix() for p in sorted((tmp_path / "jobs").rglob("*"))] == [
        first,
        f"{first}/upload",
    ]
    assert jobs.waiting == 1 and not jobs._rows.in_transaction
    jobs._rows.execute("DROP TRIGGER IF EXISTS bad")
    second = jobs.add(io.BytesIO(b"ct"), {}, "ada")
    assert jobs.find(second, "ada").state is State.QUEUED


def test_a_result_that_the_disk_does_not_take_leaves_no_half(tmp_path: Path) -> None:
    jobs = Jobs(tmp_path, 10, 60)
    job_id = jobs.add(io.BytesIO(b"ct"), {}, "ada")
    jobs.begin()
    with pytest.raises(OSError, match="No space"):
        jobs.done(job_id, _Torn(b"mask" * 1000), "application/gzip", {})
    assert [p.name for p in jobs.folder(job_id).iterdir()] == ["upload"]


def test_a_table_that_fails_for_a_while_ends_nothing(
    client: TestClient, service: Service, caplog: pytest.LogCaptureFixture
) -> None:
    """While it does, clients who wait are answered; afterwards the job is done."""
    jobs = service.jobs
    job_id = client.post("/jobs", content=small.ct_gz()).json()["id"]
    ended(client, job_id)
    # Every change is refused from now on, and rolled back.
    refuse = "CREATE TRIGGER bad BEFORE UPDATE ON jobs BEGIN SELECT RAISE(ROLLBACK, 'disk I/O error'); END"
    with jobs._lock:
        jobs._rows.executescript(refuse)
    with caplog.at_level(logging.ERROR, "ctune.serve"):
        later = client.post("/jobs", content=small.ct_gz()).json()["id"]
        until = time.monotonic() + 10
        while "jobs: " not in caplog.text and time.monotonic() < until:
            time.sleep(0.01)
    assert "jobs: OperationalError" in caplog.text or "jobs: IntegrityError" in caplog.text
    assert client.get("/readyz").status_code == 200
    assert client.post("/segment", content=small.ct_gz()).status_code == 200
    with jobs._lock:
        jobs._rows.execute("DROP TRIGGER bad")
    service.worker.wake()
    assert ended(client, later)["state"] == "done"


def test_a_job_whose_end_was_not_taken_down_is_done_again(
    client: TestClient, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    end, failures = service.jobs._end, iter(range(2))

    def refuses(*args: Any, **values: Any) -> None:
        if next(failures, None) is not None:
            raise sqlite3.OperationalError("disk I/O error")
        end(*args, **values)

    monkeypatch.setattr(service.jobs, "_end", refuses)
    job = ended(client, client.post("/jobs", content=small.ct_gz()).json()["id"])
    assert (job["state"], job["attempts"]) == ("done", 2)
