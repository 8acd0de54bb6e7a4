"""The files of the feature cache: bounded in size, checked when opened, safe between processes and against a kill.

``FOLDER/<base>/<view>.safetensors`` holds the features of one view. When it was used last is its time of modification. Its
metadata carry a checksum of everything else in it, so a bit that flipped on the disk is found.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import time
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from weakref import WeakSet

from filelock import FileLock
from safetensors.torch import save
from torch import Tensor

from ctune.data.files import write_atomically

_CHECK = "crc32"
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_ABANDONED_SECONDS = 3600.0
"""A temporary file of this age belongs to a process that was killed."""

_ALIVE: WeakSet[FeatureFiles] = WeakSet()
"""A run has several caches: of what trains, and of the validation cases. None evicts what another has in use."""


class FeatureFiles:
    """Files of one base in ``root/name``; all below `root` together take at most `limit` bytes, temporary ones included:
    when it is opened, so that a lower bound counts at once, and whenever a file is written.

    A process never evicts what it has in use (``use``, ``keep``), through this object or another alive. Evicting what another has open is harmless: on the
    systems that ctune runs on, its memory map stays whole. pin: False for what is read seldom; it may go.
    """

    def __init__(self, root: Path, name: str, limit: int, *, pin: bool = True) -> None:
        self.root, self.folder, self.limit = root, root / name, limit
        self._used: set[Path] = set()
        self.folder.mkdir(parents=True, exist_ok=True)
        if pin:
            _ALIVE.add(self)
        with FileLock(root / ".lock"):
            self._make_room(0)

    def use(self, path: Path) -> bool:
        """True when `path` is there and whole; then it counts as used now. A damaged file is removed.

        Its bytes are read for that once in the life of this object.
        """
        try:
            if path not in self._used and not is_whole(path):
                path.unlink(missing_ok=True)
                return False
            os.utime(path)
        except FileNotFoundError:
            return False
        self._used.add(path)
        return True

    def keep(self, path: Path, tensors: Mapping[str, Tensor]) -> bool:
        """Write a file; False when there is no room for it beside what this run uses, or on the disk.

        The lock makes the bound hold between processes too; the system releases it when its holder is killed.
        """
        plain = save(dict(tensors), metadata={_CHECK: "0" * 8})
        data = plain.replace(b'"00000000"', f'"{_checksum(plain):08x}"'.encode(), 1)
        with FileLock(self.root / ".lock"):
            if not self._make_room(len(data)):
                return False
            try:
                with write_atomically(path) as temporary:
                    temporary.write_bytes(data)
            except OSError as error:
                # A cache that finds no room makes a run slower, it does not end it.
                if error.errno not in _FULL:
                    raise
                return False
        self._used.add(path)
        return True

    def _make_room(self, size: int) -> bool:
        found = []
        for path in self.root.glob("*/*.safetensors"):
            with contextlib.suppress(FileNotFoundError):  # another process may just have removed it
                found.append((path, path.stat()))
        used = set().union(*(files._used for files in _ALIVE))
        total = sum(stat.st_size for _, stat in found)
        for path, stat in sorted(found, key=lambda item: item[1].st_mtime_ns):
            if total + size <= self.limit:
                break
            written_now = path.name.startswith(".") and time.time() - stat.st_mtime < _ABANDONED_SECONDS
            if path not in used and not written_now:
                path.unlink(missing_ok=True)
                total -= stat.st_size
        return total + size <= self.limit


def is_whole(path: Path) -> bool:
    """True when a file's bytes are those that ``FeatureFiles.keep`` wrote. Raises FileNotFoundError."""
    data = path.read_bytes()
    try:
        length = int.from_bytes(data[:8], "little")
        header: dict[str, Any] = json.loads(data[8 : 8 + length])
        check = header["__metadata__"][_CHECK].encode()
    except (ValueError, KeyError, TypeError, AttributeError):
        return False
    at = data.find(check, 8, 8 + length)
    return len(check) == 8 and f"{_checksum(data, at):08x}".encode() == check


def _checksum(data: bytes, at: int | None = None) -> int:
    """crc32 of a file's bytes with eight zeros where its own checksum stands."""
    begin = data.index(b'"00000000"') + 1 if at is None else at
    crc = zlib.crc32(b"00000000", zlib.crc32(memoryview(data)[:begin]))
    return zlib.crc32(memoryview(data)[begin + 8 :], crc)
