"""Archives from elsewhere: unpacked under names of our own, within limits that hold before anything is believed.

An archive may promise little and unpack to much, hold a million entries, or name files outside its folder. Entries and
their promised size are counted first, the bytes that really come are counted again, and names are never used.
"""

from __future__ import annotations

import struct
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ctune.errors import ImageFileError

_BLOCK = 2**20
_ENTRY_BYTES = 1024
"""More than one entry of an archive's list takes: its fixed part is 46 bytes, the rest is its name."""


@dataclass(frozen=True)
class Limits:
    """entries: how many an archive may have. bytes: how many it may unpack to, all entries together."""

    entries: int = 10_000
    bytes: int = 8 * 2**30


def is_zip(path: Path) -> bool:
    """Whether a file says of itself that it is a zip archive."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(4) in (b"PK\x03\x04", b"PK\x05\x06")


@contextmanager
def unpacked(path: Path, what: str, limits: Limits | None = None) -> Iterator[Path]:
    """A temporary folder with the entries of an archive as 000000, 000001, ..., gone when the block ends.

    Folders and nested archives are not opened. Raises ImageFileError for an archive that is damaged, encrypted, or
    over its limits.
    """
    bounds = limits or Limits()
    with tempfile.TemporaryDirectory(prefix="ctune-zip-") as name:
        try:
            _check_list(path, what, bounds)
            with zipfile.ZipFile(path) as archive:
                entries = [info for info in archive.infolist() if not info.is_dir()]
                _check_promised(entries, path, what, bounds)
                left = bounds.bytes
                for number, info in enumerate(entries):
                    left -= _unpack(archive, info, Path(name) / f"{number:06d}", left)
                    if left < 0:
                        raise ImageFileError(
                            f"{what}: expected at most {bounds.bytes} bytes in {path}, got more than its list promises; "
                            "pack the series again"
                        )
        except (
            zipfile.BadZipFile,
            EOFError,
            OSError,
            zlib.error,
            NotImplementedError,
            RuntimeError,
            struct.error,
        ) as error:
            line = (str(error).splitlines() or [type(error).__name__])[0][:120]
            raise ImageFileError(
                f"{what}: expected a zip archive in {path}, got one that is damaged or encrypted ({line}); pack the series again"
            ) from None
        yield Path(name)


def _unpack(archive: zipfile.ZipFile, info: zipfile.ZipInfo, target: Path, left: int) -> int:
    """Write one entry; returns its bytes, or `left` and one when it has more."""
    came = 0
    with archive.open(info) as packed, target.open("wb") as file:
        while came <= left and (block := packed.read(min(_BLOCK, left - came + 1))):
            file.write(block)
            came += len(block)
    return came


def _check_promised(entries: list[zipfile.ZipInfo], path: Path, what: str, bounds: Limits) -> None:
    promised = sum(info.file_size for info in entries)
    if len(entries) > bounds.entries or promised > bounds.bytes:
        raise ImageFileError(
            f"{what}: expected at most {bounds.entries} files and {bounds.bytes} bytes in {path}, got {len(entries)} files and "
            f"{promised} bytes; send one series"
        )


def _check_list(path: Path, what: str, bounds: Limits) -> None:
    """Refuse an archive whose list of entries alone would fill the memory, before zipfile reads it."""
    size = path.stat().st_size
    with path.open("rb") as file:
        file.seek(max(0, size - 2**16 - 64))
        tail = file.read()
        at = tail.rfind(b"PK\x05\x06")
        if at < 0:
            raise zipfile.BadZipFile("no end of an archive's list")
        (listed,) = struct.unpack("<L", tail[at + 12 : at + 16])
        if tail[max(0, at - 20) : at].startswith(b"PK\x06\x07"):
            (place,) = struct.unpack("<Q", tail[at - 12 : at - 4])
            file.seek(place)
            record = file.read(56)
            listed = max(listed if listed != 2**32 - 1 else 0, struct.unpack("<Q", record[40:48])[0])
    if listed > bounds.entries * _ENTRY_BYTES:
        raise ImageFileError(
            f"{what}: expected at most {bounds.entries} files in {path}, got a list of {listed} bytes; send one series"
        )
