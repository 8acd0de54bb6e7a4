from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sleepy_work import Sleepy

from ctune.errors import ExecutorError, UsageError
from ctune.executors.local import Local
from ctune.executors.ray_cluster import RayCluster
from ctune.executors.work import Done, Executor, run_all, stream
from ctune.types import Progress


@pytest.fixture(scope="module")
def cluster() -> Iterator[Executor]:
    """A real cluster of this machine alone."""
    ray = pytest.importorskip("ray", reason="needs the extra ray")
    here = str(Path(__file__).parent)
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [here, os.environ.get("PYTHONPATH")]))
    ray.init(num_cpus=2, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
    yield RayCluster("local")
    ray.shutdown()


@pytest.fixture(params=["threads", "processes", "ray"])
def executor(request: pytest.FixtureRequest) -> Executor:
    if request.param == "ray":
        found: Executor = request.getfixturevalue("cluster")
        return found
    return Local(1 if request.param == "threads" else 2)


def test_every_item_is_answered_once(executor: Executor) -> None:
    done = list(stream(executor, Sleepy(), range(50)))
    assert sorted(one.item for one in done) == list(range(50))
    assert all(one.error is None and one.attempts == 1 for one in done)


def test_work_is_spread_over_processes() -> None:
    done = list(stream(Local(2), Sleepy(0.02), range(20)))
    assert len({one.value for one in done}) == 2
    assert os.getpid() not in {one.value for one in done}


def test_an_item_that_fails_three_times_is_reported_and_the_rest_goes_on(executor: Executor) -> None:
    seen: list[Progress] = []
    failed = run_all(
        executor, Sleepy(bad=(3,)), range(8), total=8, stage="predict", name=str, on_progress=seen.append
    )
    assert failed == [("3", "ValueError: item 3 is bad")]
    assert [step.done for step in seen] == list(range(1, 9))


def test_an_item_that_fails_once_is_done_the_second_time(executor: Executor, tmp_path: object) -> None:
    done = list(stream(executor, Sleepy(once=(2,), folder=str(tmp_path)), range(5)))
    assert {one.item: one.attempts for one in done} == {0: 1, 1: 1, 2: 2, 3: 1, 4: 1}
    assert all(one.error is None for one in done)


def test_a_killed_worker_loses_its_item_three_times_and_nothing_else(executor: Executor) -> None:
    if isinstance(executor, Local) and executor.workers == 1:
        pytest.skip("threads die with their process")
    overlap = 1 if isinstance(executor, RayCluster) else 2
    done = {one.item: one for one in stream(executor, Sleepy(deadly=(4,), overlap=overlap), range(12))}
    assert sorted(done) == list(range(12))
    assert [item for item, one in done.items() if one.error] == [4]
    assert "its worker" in str(done[4].error)


def test_a_worker_that_cannot_open_ends_it_all_and_says_why(executor: Executor) -> None:
    if isinstance(executor, Local) and executor.workers == 1:
        with pytest.raises(ValueError, match=r"no weights here"):  # in this process, as it is
            list(stream(executor, Sleepy(unready=True), range(5)))
        return
    with pytest.raises(ExecutorError, match=r"expected a worker to be ready for cases, it failed to start"):
        list(stream(executor, Sleepy(unready=True), range(5)))


@given(
    items=st.integers(0, 40),
    overlap=st.integers(1, 4),
    bad=st.sets(st.integers(0, 40)),
    attempts=st.integers(1, 4),
)
@settings(max_examples=30, deadline=None)
def test_whatever_fails_the_source_is_read_no_faster_than_there_is_room(
    items: int, overlap: int, bad: set[int], attempts: int
) -> None:
    read = 0

    def source() -> Iterator[int]:
        nonlocal read
        for item in range(items):
            read += 1
            yield item

    ended: list[Done[int]] = []
    for one in stream(Local(1), Sleepy(bad=tuple(bad), overlap=overlap), source(), attempts=attempts):
        ended.append(one)
        # Under way, waiting for a second try, and the one that is handed out next.
        assert read <= len(ended) + overlap + len(bad) + 1
    assert sorted(one.item for one in ended) == list(range(items))
    assert {one.item: one.attempts for one in ended} == {n: attempts if n in bad else 1 for n in range(items)}


def test_a_cluster_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    ray = pytest.importorskip("ray", reason="needs the extra ray")
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    with pytest.raises(ExecutorError, match=r"expected a Ray cluster at '127\.0\.0\.1:1', got none"):
        list(stream(RayCluster("127.0.0.1:1"), Sleepy(), range(2)))


def test_without_ray_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with pytest.raises(
        UsageError, match=r"expected Ray for --executor ray, it is not installed; run `pip install"
    ):
        list(stream(RayCluster(), Sleepy(), range(2)))
