"""Work over a pool by several processes: the same bytes as alone, whatever is tried, killed or missing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
from small_network import network, project
from typer.testing import CliRunner

from cli.main import app
from ctune.cohort import evaluate_cases, pool_inputs, predict_cases
from ctune.compositions import register_model
from ctune.errors import DataError
from ctune.executors.local import Local
from ctune.inference.inputs import Input
from ctune.inference.output import Wanted
from ctune.pool_work import (
    CacheFeatures,
    Evaluate,
    OneAtATime,
    Predict,
    cache_on,
    evaluate_on,
    open_network,
    open_torch,
    predict_on,
)
from ctune.project import Project
from ctune.round import resume, simulate_expert, start
from ctune.types import Split

runner = CliRunner()
Made = tuple[Project, Path, str]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    found, truth = project(tmp_path_factory.mktemp("project"), pool=3)
    return found, truth, register_model(found.open_registry(), "organs", network(), found.config, {})


def work(made: Made, folder: Path) -> Predict:
    found, _, digest = made
    opened = partial(open_torch, found, digest, "cpu", None, found.config.inference)
    return Predict(opened, found.config, digest, folder, Wanted(probabilities=True), ("x",))


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*.*"))}


def test_processes_predict_the_bytes_of_one_and_again_nothing(made: Made, tmp_path: Path) -> None:
    found, _, digest = made
    inputs = pool_inputs(found, [case.id for case in found.pool.cases(Split.POOL)])
    predict_cases(found, network(), digest, [i.case_id for i in inputs], tmp_path / "one", views=("x",))
    ids, refused = predict_on(Local(2, 1), work(made, tmp_path / "two"), inputs)
    assert (ids, refused) == (["case_0", "case_1", "case_2"], [])
    assert files(tmp_path / "two") == files(tmp_path / "one")
    stamps = {p: p.stat().st_mtime_ns for p in (tmp_path / "two").rglob("*.*")}
    predict_on(Local(1, 1), work(made, tmp_path / "two"), inputs)
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "two").rglob("*.*")} == stamps


def broken() -> None:
    raise DataError("case_9: expected a CT, got noise; export it again")


def test_a_ct_that_does_not_read_is_reported_and_the_others_are_there(made: Made, tmp_path: Path) -> None:
    inputs = [*pool_inputs(made[0], ["case_0"]), Input("case_9", broken)]  # type: ignore[arg-type]
    ids, refused = predict_on(Local(), work(made, tmp_path), inputs)
    assert ids == ["case_0"]
    assert refused == [("case_9", "case_9: expected a CT, got noise; export it again")]


def test_scores_are_those_of_one_process_in_its_order(made: Made, tmp_path: Path) -> None:
    found, _, digest = made
    alone = evaluate_cases(found, network(), tmp_path / "one", split=Split.POOL)
    scores = Evaluate(partial(open_network, found, digest, "cpu"), found)
    assert evaluate_on(Local(), scores, tmp_path / "two", Split.POOL) == alone
    assert (tmp_path / "two" / "scores.json").read_bytes() == (tmp_path / "one" / "scores.json").read_bytes()


def test_no_mean_over_fewer_cases_than_there_are(made: Made, tmp_path: Path) -> None:
    found, _, digest = made
    case = found.pool.case("case_1")
    case.image.chmod(0o644)
    kept = case.image.read_bytes()
    case.image.write_bytes(b"damaged")
    try:
        with pytest.raises(DataError, match="case_1: case case_1: expected the CT that was imported"):
            evaluate_on(
                Local(), Evaluate(partial(open_network, found, digest, "cpu"), found), tmp_path, Split.POOL
            )
    finally:
        case.image.write_bytes(kept)
    assert not (tmp_path / "scores.json").exists()


def test_a_shared_network_runs_for_one_thread_at_a_time() -> None:
    import threading

    import torch

    class Watched:
        classes, device, at_once, most = ("liver",), torch.device("cpu"), 0, 0

        def logits(self, windows: torch.Tensor):  # type: ignore[no-untyped-def]
            self.at_once += 1
            self.most = max(self.most, self.at_once)
            threading.Event().wait(0.01)
            yield windows
            self.at_once -= 1

    watched = Watched()
    shared = OneAtATime(watched)
    threads = [threading.Thread(target=lambda: list(shared.logits(torch.zeros(1)))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert watched.most == 1


def test_the_commands_take_workers(made: Made, tmp_path: Path) -> None:
    found, root = made[0], str(made[0].root)
    answer = runner.invoke(
        app, ["predict", "organs", "-o", str(tmp_path), "--cores", "1", "--project", root, "--json"]
    )  # fmt: skip
    assert answer.exit_code == 0, answer.output
    assert sorted(json.loads(answer.stdout)["volumes_ml"]) == ["case_0", "case_1", "case_2"]
    scored = runner.invoke(app, ["evaluate", "organs", "--cores", "1", "--project", root, "--json"])
    alone = runner.invoke(app, ["evaluate", "organs", "--project", root, "--json"])
    assert json.loads(scored.stdout)["classes"] == json.loads(alone.stdout)["classes"]
    wrong = runner.invoke(app, ["predict", "organs", "--executor", "slurm", "--project", root])
    assert (wrong.exit_code, wrong.stderr) == (
        2, "error: expected one of local, ray for --executor, got 'slurm'\n",
    )  # fmt: skip
    assert found.pool.cases()


def test_ray_that_is_not_there_is_one_line(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["predict", "organs", "-o", str(tmp_path), "--project", str(made[0].root), "--executor", "ray"]
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "ray", None)
        missing = runner.invoke(app, words)
    assert (missing.exit_code, missing.stderr) == (
        2, "error: expected Ray for --executor ray, it is not installed; run `pip install ctune[ray]`\n",
    )  # fmt: skip
    pytest.importorskip("ray", reason="needs the extra ray")
    wrong = runner.invoke(app, [*words, "--address", "127.0.0.1:1"])
    assert wrong.exit_code == 1 and wrong.stderr.count("\n") == 1
    assert (
        "error: expected a Ray cluster at '127.0.0.1:1', got none: [Errno 111] Connection refused; start one"
        in wrong.stderr
    )
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_leaves_finished_cases_and_no_process(made: Made, tmp_path: Path) -> None:
    command = [
        str(Path(sys.executable).with_name("ctune")),
        "predict",
        "organs",
        "--workers",
        "2",
        "--cores",
        "1",
    ]
    run = subprocess.Popen(
        [*command, "-o", str(tmp_path), "--project", str(made[0].root)], start_new_session=True, stderr=subprocess.PIPE, text=True
    )  # fmt: skip
    while not list(tmp_path.iterdir()):
        assert run.poll() is None, run.communicate()
        time.sleep(0.01)
    os.killpg(run.pid, signal.SIGINT)  # as a terminal does it
    _, said = run.communicate(timeout=120)
    assert run.returncode in (0, 130) and "Traceback" not in said
    until = time.monotonic() + 60
    with pytest.raises(ProcessLookupError):
        while time.monotonic() < until:  # what python itself started for its locks goes a moment later
            os.killpg(run.pid, 0)
            time.sleep(0.05)
    for folder in tmp_path.glob("case_*"):
        masks = {path.name for path in folder.glob("*.nii.gz") if not path.name.startswith(".")}
        assert (folder / "prediction.json").exists() <= (masks == {"liver.nii.gz", "spleen.nii.gz"})


def test_a_round_by_an_executor_selects_and_tunes_as_one_alone(made: Made, tmp_path: Path) -> None:
    import shutil

    found, truth, digest = made
    heads = []
    for name, executor in (("one", None), ("two", Local())):
        shutil.copytree(found.root, tmp_path / name)
        here = Project(tmp_path / name, found.config)
        state = start(here, name="organs", model=digest, classes=["aorta"], truth=truth, executor=executor)
        assert state.next_arrow is None
        registry = here.open_registry()
        head = registry.record_of(registry.record_of(str(state.model_out)).heads["aorta"])  # type: ignore[union-attr]
        table = (here.root / "rounds" / "001" / "selection.csv").read_text()
        heads.append((head.fingerprint, table))  # type: ignore[union-attr]
    assert heads[0] == heads[1]


def test_features_that_workers_keep_are_those_that_a_tuning_reads(made: Made, tmp_path: Path) -> None:
    import shutil

    found, truth, digest = made
    shutil.copytree(found.root, tmp_path / "p")
    here = Project(tmp_path / "p", found.config)
    state = start(here, name="organs", model=digest, classes=["aorta"])
    simulate_expert(here, truth, expert="ann")
    opened = partial(open_network, here, digest, "cpu")
    assert cache_on(Local(), CacheFeatures(opened, here, ("aorta",), state.seed)) == []
    kept = {p: p.stat().st_ino for p in here.cache.rglob("features/*/*.safetensors")}
    assert kept
    resume(here)
    assert {p: p.stat().st_ino for p in here.cache.rglob("features/*/*.safetensors")} == kept
