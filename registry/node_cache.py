"""Blobs of a remote store, kept on this machine under their digest: what many jobs on a node read travels to it once."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from registry.errors import RegistryError
from registry.folder import FolderStore

LIMIT_GB = 10.0


class NodeCache:
    """At most `limit_gb` (10^9 bytes) of blobs below `folder`; the least recently used go. Safe between processes.

    A cache never fails its user: a disk that is full or read-only means that blobs come from afar each time.
    """

    def __init__(self, folder: Path, limit_gb: float = LIMIT_GB) -> None:
        self._store, self._limit = FolderStore(folder), limit_gb * 1e9

    def get(self, digest: str) -> bytes | None:
        """The bytes of a blob, checked; None when they are not here or no longer those."""
        try:
            data = self._store.get(digest)
        except RegistryError:
            return None
        self._store.renew(digest)
        return data

    def keep(self, digest: str, data: bytes) -> None:
        """Keep a blob, and let go of others for it."""
        if len(data) > self._limit:
            return
        with suppress(RegistryError, OSError):
            self._make_room(len(data))
            self._store.put(data)

    def _make_room(self, size: int) -> None:
        found = []
        for digest in self._store.digests():
            with suppress(FileNotFoundError):  # another process lets go of it, too
                stat = self._store.path(digest).stat()
                found.append((stat.st_mtime, stat.st_size, digest))
        total = sum(n for _, n, _ in found)
        for _, length, digest in sorted(found):
            if total + size <= self._limit:
                break
            if self._store.discard(digest, 0.0):
                total -= length


def default_folder() -> Path:
    """``$CTUNE_CACHE``, else ``ctune`` in the user's cache folder."""
    if own := os.environ.get("CTUNE_CACHE"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ctune"
