"""Archives are unpacked within limits that hold for what they promise, for what comes, and for their list itself."""

from __future__ import annotations

import struct
import zipfile
from pathlib import Path

import pytest

from ctune.data.zipped import Limits, _unpack, unpacked
from ctune.errors import ImageFileError


def archive(path: Path, entries: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as made:
        for name, data in entries.items():
            made.writestr(name, data)
    return path


def test_names_of_entries_are_not_used(tmp_path: Path) -> None:
    path = archive(
        tmp_path / "a.zip", {"../../evil": b"1", "/etc/passwd": b"22", "a/": b"", "a/b/../c": b"333"}
    )
    with unpacked(path, "case a") as folder:
        assert {p.name: p.read_bytes() for p in folder.iterdir()} == {
            "000000": b"1", "000001": b"22", "000002": b"333",
        }  # fmt: skip
    assert not folder.exists() and not (tmp_path.parent / "evil").exists()


def test_too_many_entries_and_too_many_bytes(tmp_path: Path) -> None:
    path = archive(tmp_path / "a.zip", {str(k): b"x" * 1000 for k in range(5)})
    with (
        pytest.raises(
            ImageFileError, match=r"case a: expected at most 4 files .* got 5 files and 5000 bytes"
        ),
        unpacked(path, "case a", Limits(entries=4)),
    ):
        pass
    with (
        pytest.raises(ImageFileError, match=r"and 4999 bytes in .*a\.zip, got 5 files and 5000 bytes"),
        unpacked(path, "case a", Limits(bytes=4999)),
    ):
        pass
    with unpacked(path, "case a", Limits(entries=5, bytes=5000)) as folder:
        assert len(list(folder.iterdir())) == 5


def test_a_list_that_promises_less_than_comes(tmp_path: Path) -> None:
    """A hundred kilobytes that call themselves ten."""
    path = archive(tmp_path / "a.zip", {"a": b"\0" * 100_000})
    told = bytearray(path.read_bytes())
    for mark, place in ((b"PK\x01\x02", 24), (b"PK\x03\x04", 22)):
        at = told.index(mark) + place
        told[at : at + 4] = struct.pack("<L", 10)
    path.write_bytes(told)
    with (
        pytest.raises(ImageFileError, match=r"case a: expected"),
        unpacked(path, "case a", Limits(bytes=1000)),
    ):
        pass


def test_no_more_is_written_than_there_is_room_for(tmp_path: Path) -> None:
    path = archive(tmp_path / "a.zip", {"a": b"\0" * 100_000})
    with zipfile.ZipFile(path) as opened:
        assert _unpack(opened, opened.infolist()[0], tmp_path / "out", left=500) == 501
    assert (tmp_path / "out").stat().st_size == 501


def test_a_list_that_would_fill_the_memory_is_not_read(tmp_path: Path) -> None:
    path = archive(tmp_path / "a.zip", {f"{k:0500d}": b"" for k in range(40)})
    with (
        pytest.raises(
            ImageFileError, match=r"expected at most 10 files in .*a\.zip, got a list of \d+ bytes"
        ),
        unpacked(path, "case a", Limits(entries=10)),
    ):
        pass


@pytest.mark.parametrize("damage", ["cut", "flipped", "none"])
def test_damaged_archives(tmp_path: Path, damage: str) -> None:
    path = archive(tmp_path / "a.zip", {"a": bytes(range(256)) * 50})
    stored = bytearray(path.read_bytes())
    if damage == "cut":
        stored = stored[: len(stored) // 2]
    elif damage == "flipped":
        stored[60] ^= 0xFF
    else:
        stored = bytearray(b"PK\x03\x04 and nothing else")
    path.write_bytes(stored)
    with (
        pytest.raises(
            ImageFileError, match=r"case a: expected a zip archive in .*a\.zip, got one that is damaged"
        ),
        unpacked(path, "case a"),
    ):
        pass
