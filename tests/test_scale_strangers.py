"""A cluster in which not every machine is as it should be: another ctune, none at all, no room, a stop by Ctrl-C.

Run by ``make scale-test``.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from small_cluster import PORT, Host, cluster, hosts, start_ray

ROOT = Path(__file__).resolve().parents[1]
DRIVE = """
import json, sys, warnings
from ctune.executors.ray_cluster import RayCluster
from ctune.executors.work import stream
from sleepy_work import Sleepy
address, items, seconds, cores, workers = sys.argv[1], *map(float, sys.argv[2:])
executor = RayCluster(address, cores=int(cores), workers=int(workers) or None)
with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    try:
        done, error = [], None
        for one in stream(executor, Sleepy(seconds), range(int(items))):
            done.append(one.item)
            print(one.item, file=sys.stderr, flush=True)
    except Exception as raised:
        error = f"{type(raised).__name__}: {raised}"
print(json.dumps({"done": sorted(done), "error": error, "said": [str(w.message) for w in said if "worker" in str(w.message)]}))
"""
ELSEWHERE = ("env", "-C", "/tmp")
"""Ray's workers look for modules where the driver was started, and here that is a ctune."""


@pytest.fixture(scope="module")
def three() -> Iterator[list[Host]]:
    with hosts(3) as found:
        yield found


@pytest.fixture(scope="module")
def address(three: list[Host]) -> Iterator[str]:
    """Of a cluster with one worker; a stranger may join."""
    with cluster(three[0], [three[1]], cores=1) as found:
        yield found


def drive(head: Host, *words: object) -> dict[str, object]:
    run = head.run(*ELSEWHERE, sys.executable, "-c", DRIVE, *words)
    assert run.returncode == 0, run.stderr[-3000:]
    found: dict[str, object] = json.loads(run.stdout.splitlines()[-1])
    return found


def join(host: Host, folder: Path) -> None:
    """A machine whose ctune is that of a folder."""
    start_ray(host, f"--address={host.address.rpartition('.')[0]}.1:{PORT}", cores=1, PYTHONPATH=str(folder))


def test_a_machine_with_another_ctune_is_left_out(three: list[Host], address: str, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "ctune", tmp_path / "ctune", ignore=shutil.ignore_patterns("__pycache__"))
    with (tmp_path / "ctune" / "losses.py").open("a", encoding="utf-8") as file:
        file.write("# not quite the same\n")
    join(three[2], tmp_path)
    try:
        found = drive(three[0], address, 40, 0.2, 1, 0)
    finally:
        three[2].kill()
    assert found["done"] == list(range(40)) and found["error"] is None
    (said,) = found["said"]  # type: ignore[misc]
    assert (
        said.startswith("a worker is not used: expected ctune 0.1.0 (") and "install the same there" in said
    )


def test_where_no_machine_has_ctune_it_ends(three: list[Host], tmp_path: Path) -> None:
    (tmp_path / "ctune").mkdir()
    (tmp_path / "ctune" / "__init__.py").write_text("raise ImportError('no ctune on this machine')\n")
    three[0].kill()
    three[1].kill()
    with cluster(three[0], [], cores=1) as address:
        join(three[2], tmp_path)
        found = drive(three[0], address, 5, 0.0, 1, 0)
        three[2].kill()
    assert found["done"] == []
    assert str(found["error"]).startswith("ExecutorError: expected a worker to start, it ended: ")
    assert "no ctune on this machine" in str(found["error"])


def test_ctrl_c_ends_the_work_and_frees_the_workers(three: list[Host], tmp_path: Path) -> None:
    with cluster(three[0], [three[1]], cores=2) as address:
        run = three[0].begin(*ELSEWHERE, sys.executable, "-c", DRIVE, address, 1000, 0.2, 1, 0)
        assert run.stderr is not None
        for _ in range(4):
            run.stderr.readline()
        os.kill(run.pid, signal.SIGINT)
        run.communicate(timeout=60)
        assert run.returncode != 0
        until = time.monotonic() + 60
        while busy(three[1]) and time.monotonic() < until:
            time.sleep(0.2)
        assert not busy(three[1]), "actors are gone"
        assert drive(three[0], address, 4, 0.0, 1, 0)["done"] == [0, 1, 2, 3], "the next has room"


def busy(host: Host) -> bool:
    titles = [
        Path(f"/proc/{pid}/cmdline").read_bytes() for pid in host.pids() if Path(f"/proc/{pid}").exists()
    ]
    return any(b"ray::" in title and b"_Actor" in title for title in titles)
