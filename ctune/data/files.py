"""Writing files so that they are there whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4


@contextmanager
def write_atomically(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success its bytes reach the disk and it takes the place of
    `path`.

    The temporary name keeps the suffixes (``.nii.gz``). On an error it is removed and `path` stays as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{uuid4().hex[:12]}.tmp-{path.name}")
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
        sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, value: Any, read_only: bool = False, indent: int = 2) -> None:
    """Write `value` as JSON with sorted keys, a line a value, atomically. Raises ValueError for NaN."""
    with write_atomically(path) as temporary:
        text = json.dumps(value, indent=indent, sort_keys=True, allow_nan=False, default=_plain) + "\n"
        temporary.write_text(text, encoding="utf-8")
        if read_only:
            temporary.chmod(0o444)


def read_json(path: Path) -> Any:
    """The value that ``write_json`` wrote."""
    return json.loads(path.read_text(encoding="utf-8"))


def sha256_of(path: Path) -> str:
    """sha256 (hex) of a file's bytes, read in blocks."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _plain(value: Any) -> Any:
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"cannot write {type(value).__name__} as JSON")


def sync_folder(folder: Path) -> None:
    """Bring a folder's entries to the disk: after a rename in it, the rename itself."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
