from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import numpy as np
import pytest

from ctune.data.nifti import write_volume
from ctune.data.shared_pool import SharedPool, is_url
from ctune.errors import LabelError, PoolError
from ctune.types import Grid, Source, Split

GRID = Grid((6, 5, 4), np.diag([1.0, 1.0, 2.0, 1.0]))


@pytest.fixture
def url() -> str:
    return f"memory://{uuid4().hex}"


@pytest.fixture
def ct(tmp_path: Path) -> Path:
    return _ct(tmp_path / "ct.nii.gz", 0)


def _ct(path: Path, seed: int) -> Path:
    write_volume(path, np.random.default_rng(seed).integers(-100, 100, GRID.shape).astype(np.int16), GRID)
    return path


def _box(at: int = 1) -> np.ndarray:
    mask = np.zeros(GRID.shape, np.uint8)
    mask[at : at + 2, 1:3, 1:3] = 1
    return mask


def test_what_one_machine_writes_another_reads(url: str, ct: Path, tmp_path: Path) -> None:
    here, there = SharedPool(url, tmp_path / "a"), SharedPool(url, tmp_path / "b")
    here.add_case("case-1", ct, Split.POOL, {"liver": _box()}, author="import")
    assert [case.id for case in there.cases()] == ["case-1"]
    assert np.array_equal(there.load("case-1").volume, here.load("case-1").volume)
    made = there.annotate("case-1", "liver", _box(2), source=Source.REVISED, author="ann", round=1)
    assert made.path.endswith("revised-0002.nii.gz")
    first, second = here.annotations("case-1", "liver")
    assert (first.source, second.source) == (Source.ORIGINAL, Source.REVISED)
    assert np.array_equal(here.read(second).mask, _box(2))
    assert np.array_equal(there.read(first).mask, _box())


def test_two_machines_that_annotate_at_once_keep_both(url: str, ct: Path, tmp_path: Path) -> None:
    here, there = SharedPool(url, tmp_path / "a"), SharedPool(url, tmp_path / "b")
    here.add_case("case-1", ct, Split.POOL)
    listed = there._list
    # The other looks before we write, and claims afterwards.
    seen = listed("case-1/annotations/liver")
    here.annotate("case-1", "liver", _box(1), source=Source.REVISED, author="ann")
    there._list = lambda name: seen  # type: ignore[method-assign]
    there.annotate("case-1", "liver", _box(2), source=Source.REVISED, author="ben")
    there._list = listed  # type: ignore[method-assign]
    assert [record.author for record in there.annotations("case-1")] == ["ann", "ben"]


def test_a_case_is_there_whole_or_not_at_all(url: str, ct: Path, tmp_path: Path) -> None:
    pool = SharedPool(url, tmp_path / "a")
    sent = pool._send

    def fails(path: Path, name: str) -> None:
        if name.endswith("case.json"):
            raise KeyboardInterrupt
        sent(path, name)

    pool._send = fails  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        pool.add_case("case-1", ct, Split.POOL)
    other = SharedPool(url, tmp_path / "b")
    assert other.cases() == []
    other.add_case("case-1", ct, Split.POOL)
    assert [case.id for case in pool.cases()] == ["case-1"]


def test_a_claim_of_a_process_that_is_gone_does_not_block(url: str, ct: Path, tmp_path: Path) -> None:
    pool = SharedPool(url, tmp_path / "a")
    assert pool._claim("case-1/.claim")
    with pytest.raises(PoolError, match="'case-1' while another machine brings it"):
        pool.add_case("case-1", ct, Split.POOL)
    pool._fs.pipe_file(f"{pool._at}/case-1/.claim", b"1000.0")
    pool.add_case("case-1", ct, Split.POOL)
    assert "case-1" in pool


def test_the_rules_of_a_pool_hold(url: str, ct: Path, tmp_path: Path) -> None:
    pool = SharedPool(url, tmp_path / "a")
    pool.add_case("case-1", ct, Split.POOL)
    with pytest.raises(PoolError, match="expected a new case id, got 'CASE-1'"):
        pool.add_case("CASE-1", _ct(tmp_path / "other.nii.gz", 1), Split.POOL)
    with pytest.raises(PoolError, match="expected a CT that is in no other split"):
        SharedPool(url, tmp_path / "b").add_case("case-2", ct, Split.TEST)
    with pytest.raises(PoolError, match="expected a case of the pool, got 'case-3'"):
        pool.load("case-3")
    with pytest.raises(LabelError, match="expected 0, 1 and 255 in a mask"):
        pool.annotate("case-1", "liver", _box() * 7, source=Source.REVISED, author="ann")
    assert pool._list("case-1/annotations") == [], "what was refused left no trace"


def test_changed_bytes_are_found(url: str, ct: Path, tmp_path: Path) -> None:
    pool = SharedPool(url, tmp_path / "a")
    pool.add_case("case-1", ct, Split.POOL)
    pool._fs.pipe_file(f"{pool._at}/case-1/ct.nii.gz", b"other bytes")
    with pytest.raises(PoolError, match="expected the CT that was imported"):
        SharedPool(url, tmp_path / "b").load("case-1")


def test_cts_on_this_machine_are_bounded(url: str, tmp_path: Path) -> None:
    pool = SharedPool(url, tmp_path / "a")
    for n in range(3):
        pool.add_case(f"case-{n}", _ct(tmp_path / f"{n}.nii.gz", n), Split.POOL)
    size = (tmp_path / "0.nii.gz").stat().st_size
    small = SharedPool(url, tmp_path / "b", images_gb=2.5 * size / 1e9)
    for n in (0, 1, 0, 2):
        small.load(f"case-{n}")
    assert sorted(p.parent.name for p in (tmp_path / "b").glob("*/ct.nii.gz")) == ["case-0", "case-2"]


def test_a_url_that_cannot_be_reached(tmp_path: Path) -> None:
    with pytest.raises(
        PoolError, match=r"expected to reach the pool at nosuch://bucket/pool, got: .*check the URL"
    ):
        SharedPool("nosuch://bucket/pool", tmp_path)
    assert is_url("s3://bucket/pool") and not is_url("/data/pool") and not is_url("pool")


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A bucket of a real S3 server on loopback."""
    pytest.importorskip("s3fs", reason="needs the extra s3")
    server = pytest.importorskip("moto.server", reason="needs moto[server]")
    s3 = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    s3.start()
    host, port = s3.get_host_and_port()
    for name, value in (
        ("AWS_ACCESS_KEY_ID", "test"),
        ("AWS_SECRET_ACCESS_KEY", "test"),
        ("AWS_ENDPOINT_URL", f"http://{host}:{port}"),
        ("AWS_DEFAULT_REGION", "us-east-1"),
    ):
        monkeypatch.setenv(name, value)
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()
    s3fs.S3FileSystem().mkdir("cts")
    yield "s3://cts/group/pool"
    s3fs.S3FileSystem.clear_instance_cache()
    s3.stop()


def test_on_a_real_object_store(bucket: str, ct: Path, tmp_path: Path) -> None:
    test_what_one_machine_writes_another_reads(bucket, ct, tmp_path)
    test_two_machines_that_annotate_at_once_keep_both(bucket.replace("pool", "other"), ct, tmp_path / "2")
    third = SharedPool(bucket, tmp_path / "c")
    assert third._claim("case-9/.claim") and not SharedPool(bucket, tmp_path / "d")._claim("case-9/.claim")
