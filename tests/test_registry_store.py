"""Blobs: whole or not at all, in a folder and at a URL; damage is seen, full and read-only disks are told."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from registry.errors import IntegrityError, RegistryError
from registry.folder import FolderStore
from registry.mirror import open_store
from registry.records import digest_of
from registry.store import Store

DATA = b"a head of the aorta" * 100


class FullFileSystem(MemoryFileSystem):  # type: ignore[misc]
    """Memory with room for `room` bytes, then ENOSPC, at the flush as on real disks."""

    protocol = "full"
    store: dict[str, Any] = {}  # noqa: RUF012  # a file system of its own, not the one of memory://
    pseudo_dirs = [""]  # noqa: RUF012
    room = 500

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **kwargs: Any) -> None:
        self._take(len(value))
        super().pipe_file(path, value, mode=mode, **kwargs)

    def _open(self, path: str, mode: str = "rb", **kwargs: Any) -> Any:
        file = super()._open(path, mode, **kwargs)
        if "w" in mode:
            write = file.write
            file.write = lambda data: (self._take(len(data)), write(data))[1]
        return file

    def _take(self, size: int) -> None:
        if size > type(self).room:
            raise OSError(errno.ENOSPC, "No space left on device")


fsspec.register_implementation("full", FullFileSystem, clobber=True)


@pytest.fixture(params=["folder", "local", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """The same bytes in a folder, in a folder by way of fsspec, and in memory."""
    where = {"folder": str(tmp_path), "local": f"local://{tmp_path}", "memory": f"memory://{uuid4().hex}"}
    return open_store(where[request.param])


def test_bytes_come_back(store: Store) -> None:
    digest = store.put(DATA)
    assert digest == digest_of(DATA) and store.get(digest) == DATA
    assert digest in store and "0" * 64 not in store
    assert store.size(digest) == len(DATA) and list(store.digests()) == [digest]
    assert store.put(DATA) == digest and list(store.digests()) == [digest] and store.leftovers(0.0) == []


def test_an_empty_store_lists_nothing(store: Store) -> None:
    assert list(store.digests()) == [] and store.leftovers(0.0) == [] and store.refs() == []
    assert store.read_ref("abdomen/1.json") is None


def test_a_missing_blob_is_told(store: Store) -> None:
    with pytest.raises(
        IntegrityError, match=r"expected the blob sha256:000000000000 in .*, found none; restore it"
    ):
        store.get("0" * 64)
    with pytest.raises(IntegrityError, match="found none"):
        store.size("0" * 64)


def test_chunks_of_another_blob_leave_nothing(store: Store) -> None:
    with pytest.raises(
        IntegrityError, match=r"expected the blob sha256:000000000000 in there, got 4 bytes of sha256:"
    ):
        store.put_checked("0" * 64, [b"ab", b"cd"], "there")
    assert list(store.digests()) == [] and store.leftovers(0.0) == []


def test_a_source_that_breaks_off_leaves_nothing(store: Store) -> None:
    def broken() -> Iterator[bytes]:
        yield b"half"
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.put_checked(digest_of(b"half"), broken(), "there")
    assert list(store.digests()) == [] and store.leftovers(0.0) == []


def test_refs_are_files_that_may_be_replaced(store: Store) -> None:
    store.write_ref("abdomen/2.json", b"one")
    store.write_ref("abdomen/2.json", b"two")
    store.write_ref("chest/1.json", b"x")
    assert store.read_ref("abdomen/2.json") == b"two" and store.refs() == ["abdomen/2.json", "chest/1.json"]


def test_only_what_is_old_is_discarded(store: Store) -> None:
    digest = store.put(DATA)
    assert not store.discard(digest, 3600.0) and digest in store
    assert store.discard(digest, 0.0) and digest not in store and store.leftovers(0.0) == []
    assert not store.discard(digest, 0.0)


def test_putting_again_makes_young(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    digest = store.put(DATA)
    os.utime(store.path(digest), (1, 1))
    assert store.is_old(digest, 3600.0)
    store.put(DATA)
    assert not store.is_old(digest, 3600.0)


def test_what_is_asked_for_while_it_is_discarded_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = FolderStore(tmp_path)
    digest = store.put(DATA)
    os.utime(store.path(digest), (1, 1))
    rename = Path.rename

    def put_just_before(self: Path, target: Path) -> Path:
        if self == store.path(digest):
            os.utime(self)
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", put_just_before)
    assert not store.discard(digest, 3600.0)
    assert store.get(digest) == DATA


@pytest.mark.parametrize("damage", ["flip", "truncate", "empty", "longer"])
def test_damage_is_seen_and_putting_again_heals(tmp_path: Path, damage: str) -> None:
    store = FolderStore(tmp_path)
    digest = store.put(DATA)
    path = store.path(digest)
    flipped = bytes([DATA[0] ^ 1]) + DATA[1:]
    bad = {"flip": flipped, "truncate": DATA[:-7], "empty": b"", "longer": DATA + b"x"}[damage]
    path.chmod(0o644)
    path.write_bytes(bad)
    with pytest.raises(
        IntegrityError, match=f"got {len(bad)} bytes of sha256:{digest_of(bad)[:12]}; restore it"
    ):
        store.get(digest)
    store.put(DATA)
    assert store.get(digest) == DATA and path.stat().st_mode & 0o777 == 0o444


def test_any_flipped_bit_is_seen(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    digest = store.put(b"0123456789")
    path = store.path(digest)
    path.chmod(0o644)
    for bit in range(80):
        data = bytearray(b"0123456789")
        data[bit // 8] ^= 1 << bit % 8
        path.write_bytes(data)
        with pytest.raises(IntegrityError):
            store.check(digest)


def test_blobs_are_read_only(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    assert store.path(store.put(DATA)).stat().st_mode & 0o222 == 0


def test_a_full_file_system_is_told_and_leaves_nothing() -> None:
    FullFileSystem.store.clear()
    store = open_store("full://models")
    small = store.put(b"small")
    with pytest.raises(
        RegistryError, match=r"expected to reach full://models, got: .*No space left on device; nothing half"
    ):
        store.put(DATA)
    assert list(store.digests()) == [small] and store.leftovers(0.0) == []
    assert store.get(small) == b"small"


def test_a_url_nobody_knows_is_told() -> None:
    with pytest.raises(RegistryError, match=r"expected to reach nosuch://x, got: Protocol not known: nosuch"):
        open_store("nosuch://x")


def test_leftovers_of_killed_processes_are_swept_when_old(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    store.put(DATA)
    left = store.incoming / "0123.tmp"
    left.write_bytes(b"half")
    assert store.sweep(3600.0) == 0 and left.exists()
    os.utime(left, (time.time() - 4000,) * 2)
    assert store.sweep(3600.0) == 1 and not left.exists()
