"""A pool on a real cluster of three hosts: a head and two workers, of which one is lost, and a database that goes away.

Run by ``make scale-test``; it takes minutes.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import small_postgres
from small_cluster import Host, cluster, hosts

from ctune.cohort import pool_inputs
from ctune.compositions import register_model
from ctune.config import preset
from ctune.data.importing import import_cases
from ctune.data.layouts import find_cases
from ctune.data.phantom import write_cohort
from ctune.data.splits import Splits
from ctune.executors.local import Local
from ctune.inference.output import Wanted
from ctune.model.base import build_base
from ctune.model.heads import build_head
from ctune.model.network import Network
from ctune.pool_work import Predict, open_torch, predict_on
from ctune.project import Project, create_project, open_project
from ctune.types import Split
from registry import Registry

CASES = 300
CLASSES = ("liver", "spleen")


@pytest.fixture(scope="module")
def four() -> Iterator[list[Host]]:
    """A head, two workers, and a host of the database."""
    with hosts(4) as found:
        yield found


@pytest.fixture(scope="module")
def database(four: list[Host]) -> Iterator[small_postgres.Server]:
    """Where all hosts reach it."""
    with small_postgres.running(four[3].address, four[3].inside) as server:
        yield server


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, database: small_postgres.Server) -> tuple[Project, str]:
    """A project of 300 phantoms with a small network, and the network's digest; the catalog is in PostgreSQL."""
    root = tmp_path_factory.mktemp("scale")
    write_cohort(root / "cohort", CASES, 0)
    size = {"patch_size": (32, 32, 32), "overlap": 0.25}
    config = preset("phantom", classes=CLASSES, device="cpu", inference=size,
                    base={"architecture": "unet_small", "channels": (4, 8)})  # fmt: skip
    project = create_project(root / "project", config)
    (project.root / "registry").mkdir()
    (project.root / "registry" / "registry.toml").write_text(
        f'catalog = "{database.url}"\n', encoding="utf-8"
    )
    found = find_cases(root / "cohort")
    report = import_cases(
        project.pool, found, classes=CLASSES, splits=Splits(rest=Split.POOL), author="phantom"
    )
    assert not report.refused
    base = build_base(config.base, 0)
    network = Network(base, {name: build_head(name, "text", base, 0, config.heads) for name in CLASSES})
    # The database is reached from inside the namespaces alone.
    digest = _on(database, lambda: register_model(project.open_registry(), "organs", network, config, {}))
    return open_project(project.root), digest


def _on(database: small_postgres.Server, do):  # type: ignore[no-untyped-def]
    """Run a function where the database can be reached: in its host's namespace, which a thread enters."""
    import ctypes
    import os

    namespace = os.open(f"/var/run/netns/{database.inside[3]}", os.O_RDONLY)
    found: list[object] = []

    def run() -> None:
        # A thread has a namespace of its own; this one ends in it.
        assert ctypes.CDLL(None, use_errno=True).setns(namespace, 0) == 0
        found.append(do())

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    os.close(namespace)
    assert found, "the thread failed"
    return found[0]


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_a_worker_and_the_database_are_lost_and_every_case_is_done_once(
    made: tuple[Project, str],
    four: list[Host],
    database: small_postgres.Server,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    project, digest = made
    head, first, second, _ = four
    alone, many, scores = tmp_path / "alone", tmp_path / "many", tmp_path / "scores"
    began = time.perf_counter()
    opened = lambda: _on(database, lambda: open_torch(project, digest, "cpu", None, project.config.inference))  # noqa: E731
    work = Predict(opened, project.config, digest, alone, Wanted(probabilities=True))
    inputs = pool_inputs(project, [case.id for case in project.pool.cases()])
    _, refused = predict_on(Local(1, 1), work, inputs)
    assert not refused
    local_seconds = time.perf_counter() - began
    with cluster(head, [first, second], cores=1) as address:
        began = time.perf_counter()
        words = ("--executor", "ray", "--address", address, "--project", project.root, "--json")
        ctune = Path(sys.executable).with_name("ctune")
        run = head.begin(ctune, "predict", "organs", "--probabilities", "-o", many, *words)
        _wait_for(many, CASES // 4, run)
        assert second.kill() > 0, "the second worker was at work"
        _wait_for(many, CASES // 2, run)
        database.stop()
        time.sleep(10)
        database.start()
        out, err = run.communicate(timeout=1200)
        assert run.returncode == 0, err[-3000:]
        assert len(json.loads(out)["volumes_ml"]) == CASES
        seconds = time.perf_counter() - began
        scored = head.run(ctune, "score", many, "-o", scores, *words)
        assert scored.returncode == 0, scored.stderr[-3000:]
    (many / "volumes.json").unlink()
    assert files(many) == files(alone), "byte for byte, and nothing half-written beside it"
    table = json.loads((scores / "scores.json").read_text())
    assert len(table) == CASES == len({row["case_id"] for row in table}), "scored exactly once"
    by_hand = head.run(ctune, "score", alone, "-o", tmp_path / "again", "--project", project.root, "--json")
    assert by_hand.returncode == 0, by_hand.stderr[-3000:]
    assert files(scores / "attention").keys() == files(tmp_path / "again" / "attention").keys()
    assert (scores / "scores.json").read_bytes() == (tmp_path / "again" / "scores.json").read_bytes()
    assert _on(database, lambda: Registry.open(project.root / "registry").verify().clean)
    with capsys.disabled():
        print(f"\n{CASES} cases: {local_seconds:.0f} s by one process, {seconds:.0f} s on two workers of which one was killed "
              "after a quarter, and the database away for ten seconds")  # fmt: skip


def _wait_for(folder: Path, count: int, run) -> None:  # type: ignore[no-untyped-def]
    while len(list(folder.glob("*/prediction.json"))) < count:
        assert run.poll() is None, run.communicate()
        time.sleep(0.2)
