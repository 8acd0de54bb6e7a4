"""Several runs that fill one folder: each case is computed once, nobody waits for what is left, nothing stays behind."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from small_network import config, network, project

from ctune.compositions import register_model
from ctune.errors import DataError
from ctune.inference import claims
from ctune.inference.claims import Claim
from ctune.inference.engine import Job, predict_jobs
from ctune.inference.runtime import TorchRuntime
from ctune.project import Project
from ctune.types import Progress


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Project:
    found, _ = project(tmp_path_factory.mktemp("project"), pool=4)
    register_model(found.open_registry(), "organs", network(), found.config, {})
    return found


def jobs_of(made: Project, folder: Path) -> list[Job]:
    ids = [case.id for case in made.pool.cases()][:3]
    return [Job(i, lambda i=i: made.pool.load(i), folder / i) for i in ids]


def predict(jobs: list[Job], seen: list[str]) -> list[tuple[str, str]]:
    def note(progress: Progress) -> None:
        seen.append(progress.detail)

    runtime = TorchRuntime(network(), None, config().inference)
    return predict_jobs(runtime, jobs, config(), model="m", on_progress=note)


def waiting(until: Callable[[], bool]) -> None:
    for _ in range(1200):
        if until():
            return
        time.sleep(0.05)
    raise AssertionError("waited for a minute")


@pytest.mark.parametrize("finished", [True, False])
def test_a_case_that_another_run_is_at_comes_last(made: Project, tmp_path: Path, finished: bool) -> None:
    jobs, seen = jobs_of(made, tmp_path), list[str]()
    held = Claim(jobs[0].folder)
    assert held.take(wait=False)
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(predict, jobs, seen)
        try:
            waiting(lambda: len(seen) == 2 and (jobs[1].folder / "prediction.json").exists())
            assert seen == [jobs[1].case_id, jobs[2].case_id] and not answer.done()
            if finished:  # what the other run leaves, as far as anybody asks
                jobs[0].folder.mkdir()
                shutil.copy(jobs[1].folder / "prediction.json", jobs[0].folder)
        finally:
            held.give_back()
        assert answer.result() == []
    assert seen[2] == jobs[0].case_id
    assert (jobs[0].folder / "liver.nii.gz").exists() is not finished
    assert sorted(path.name for path in tmp_path.iterdir()) == [job.case_id for job in jobs]


def test_a_case_that_cannot_be_read_is_free_again(made: Project, tmp_path: Path) -> None:
    def bad() -> None:
        raise DataError("no CT")

    jobs = [Job("bad", bad, tmp_path / "bad"), *jobs_of(made, tmp_path)]  # type: ignore[arg-type]
    assert predict(jobs, []) == [("bad", "no CT")]
    assert sorted(path.name for path in tmp_path.iterdir()) == [job.case_id for job in jobs[1:]]


def test_a_run_that_never_ends_is_told_and_the_rest_is_done(
    made: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claims, "_PATIENCE_S", 0.3)
    jobs = jobs_of(made, tmp_path)
    held = Claim(jobs[0].folder)
    assert held.take(wait=False)
    ((case_id, why),) = predict(jobs, [])
    assert case_id == jobs[0].case_id and "another run has held" in why and "remove the file" in why
    held.give_back()
    assert predict(jobs, []) == []


def test_what_breaks_gives_every_case_back(made: Project, tmp_path: Path) -> None:
    def stop() -> None:
        raise KeyboardInterrupt

    jobs = jobs_of(made, tmp_path)
    broken = [jobs[0], Job("stop", stop, tmp_path / "stop"), *jobs[1:]]  # type: ignore[arg-type]
    with pytest.raises(KeyboardInterrupt):
        predict(broken, [])
    assert not list(tmp_path.glob(".*.lock"))
    assert predict(jobs, []) == []


def test_a_folder_name_as_long_as_there_are(tmp_path: Path) -> None:
    claim = Claim(tmp_path / ("ü" * 127))
    assert claim.take(wait=False) and not Claim(tmp_path / ("ü" * 127)).take(wait=False)
    claim.give_back()
    claim.give_back()
    assert not list(tmp_path.iterdir())


def test_three_commands_at_once_on_one_folder(made: Project, tmp_path: Path) -> None:
    words = ["predict", "organs", "-o", str(tmp_path / "out"), "--project", str(made.root)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    runs = [
        subprocess.Popen(
            [sys.executable, "-m", "cli", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
        )
        for _ in range(3)
    ]  # fmt: skip
    ends = [(run.communicate(timeout=120), run.returncode) for run in runs]
    assert [code for _, code in ends] == [0, 0, 0], ends
    ids = sorted(case.id for case in made.pool.cases() if case.split == "pool")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [*ids, "volumes.json"]
    for case_id in ids:
        there = {path.name for path in (tmp_path / "out" / case_id).iterdir()}
        assert there == {"liver.nii.gz", "prediction.json", "spleen.nii.gz"}
