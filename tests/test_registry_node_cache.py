from __future__ import annotations

from pathlib import Path
from uuid import uuid4

import pytest

from registry import Registry
from registry.errors import IntegrityError
from registry.node_cache import NodeCache, default_folder
from registry.places import read_places
from registry.records import digest_of
from registry.remote import RemoteStore

BLOB = b"weights of a head"


@pytest.fixture
def url() -> str:
    return f"memory://{uuid4().hex}"


def test_a_blob_travels_once(url: str, tmp_path: Path) -> None:
    store = RemoteStore(url, NodeCache(tmp_path))
    digest = store.put(BLOB)
    assert store.get(digest) == BLOB
    store.fs.rm_file(store.path(digest))
    assert store.get(digest) == BLOB, "the second time it came from the cache"
    assert RemoteStore(url, NodeCache(tmp_path)).get(digest) == BLOB, (
        "also for another process of this machine"
    )


def test_without_a_cache_every_reading_goes_there(url: str) -> None:
    store = RemoteStore(url)
    digest = store.put(BLOB)
    store.fs.rm_file(store.path(digest))
    with pytest.raises(IntegrityError, match="found none"):
        store.get(digest)


def test_a_cached_blob_that_is_damaged_is_fetched_anew(url: str, tmp_path: Path) -> None:
    store = RemoteStore(url, NodeCache(tmp_path))
    digest = store.put(BLOB)
    store.get(digest)
    (kept,) = (path for path in tmp_path.rglob("*") if path.name == digest)
    kept.chmod(0o644)
    kept.write_bytes(b"other bytes")
    assert store.get(digest) == BLOB
    assert kept.read_bytes() == BLOB, "and healed"


def test_a_check_reads_what_lies_at_the_url(url: str, tmp_path: Path) -> None:
    store = RemoteStore(url, NodeCache(tmp_path))
    digest = store.put(BLOB)
    store.get(digest)
    store.fs.pipe_file(store.path(digest), b"rot")
    with pytest.raises(IntegrityError, match=f"expected the blob sha256:{digest[:12]}"):
        store.check(digest)


def test_the_least_recently_used_go(tmp_path: Path) -> None:
    cache = NodeCache(tmp_path, limit_gb=3e-9 * len(BLOB))
    blobs = [BLOB[:-1] + bytes([n]) for n in range(4)]
    for at, blob in enumerate(blobs[:3]):
        cache.keep(digest_of(blob), blob)
        _used_at(tmp_path, blob, 1000.0 + at)
    assert cache.get(digest_of(blobs[0])) == blobs[0]
    cache.keep(digest_of(blobs[3]), blobs[3])
    assert [cache.get(digest_of(blob)) is not None for blob in blobs] == [True, False, True, True]
    cache.keep(digest_of(b"x" * 100), b"x" * 100)
    assert cache.get(digest_of(b"x" * 100)) is None, "what is larger than the bound is not kept"


def test_a_cache_that_cannot_be_written_is_no_error(url: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    store = RemoteStore(url, NodeCache(tmp_path / "file" / "cache"))
    assert store.get(store.put(BLOB)) == BLOB


def test_registry_toml_says_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    scratch = tmp_path / "scratch"
    (tmp_path / "registry").mkdir()
    (tmp_path / "registry" / "registry.toml").write_text(f'blobs = "{url}"\ncache = "{scratch}"\n')
    registry = Registry.open(tmp_path / "registry")
    digest = registry.put(BLOB)
    registry.get(digest)
    assert any(path.name == digest for path in scratch.rglob("*"))
    monkeypatch.setenv("CTUNE_CACHE", str(tmp_path / "here"))
    assert default_folder() == tmp_path / "here"
    (tmp_path / "registry" / "registry.toml").write_text('cache = ""\n')
    assert read_places(tmp_path / "registry").node_cache() is None


def _used_at(folder: Path, blob: bytes, seconds: float) -> None:
    import os

    (path,) = (found for found in folder.rglob("*") if found.name == digest_of(blob))
    os.utime(path, (seconds, seconds))
