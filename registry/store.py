"""The store: bytes named after their sha256, written once, read-only, checked whenever they are read.

blobs/sha256/ab/abcd...    a temporary name, fsync, rename: a blob is there whole or not at all
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

from registry.errors import IntegrityError, RegistryError
from registry.records import digest_of


class Store:
    """Blobs below one folder."""

    def __init__(self, root: Path) -> None:
        self.root = root / "blobs" / "sha256"

    def path(self, digest: str) -> Path:
        """Where a blob lies, whether it is there or not."""
        return self.root / digest[:2] / digest

    def put(self, data: bytes) -> str:
        """Keep bytes and return their digest; bytes that are there already are left as they are.

        Raises RegistryError when the disk is full or read-only; nothing half-written stays.
        """
        digest = digest_of(data)
        target = self.path(digest)
        if target.exists():
            # A clean-up measures its grace from here: what was asked for again is not old.
            os.utime(target)
            return digest
        temporary = target.parent / f".{uuid4().hex}.tmp"
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with temporary.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.chmod(0o444)
            temporary.rename(target)
            _sync(target.parent)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            why = {
                errno.ENOSPC: "the disk is full",
                errno.EROFS: "the disk is read-only",
                errno.EACCES: "no permission",
            }
            raise RegistryError(
                f"expected to write {len(data)} bytes below {self.root}, got: "
                f"{why.get(error.errno or 0, error.strerror)}; nothing was registered; make room or access and try again"
            ) from None
        return digest

    def get(self, digest: str) -> bytes:
        """The bytes of a blob. Raises IntegrityError when they are gone or are no longer those."""
        path = self.path(digest)
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            raise IntegrityError(
                f"expected the blob sha256:{digest[:12]} in {path}, found no file; restore it from a backup or a copy"
            ) from None
        if (got := digest_of(data)) != digest:
            raise IntegrityError(
                f"expected the blob sha256:{digest[:12]} in {path}, got {len(data)} bytes of sha256:{got[:12]}; "
                "restore it from a backup or a copy"
            )
        return data

    def __contains__(self, digest: str) -> bool:
        return self.path(digest).exists()

    def digests(self) -> Iterator[str]:
        """Digests of all blobs, in order."""
        for path in sorted(self.root.glob("[0-9a-f][0-9a-f]/[0-9a-f]*")):
            yield path.name

    def leftovers(self, older_than_seconds: float = 3600.0) -> list[Path]:
        """Temporary files that a killed process left; younger ones may belong to a living one."""
        limit = time.time() - older_than_seconds
        return [p for p in self.root.glob("*/.*.tmp") if p.stat().st_mtime < limit]


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
