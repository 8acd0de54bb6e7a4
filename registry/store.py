"""The store: bytes named after their sha256, written once, never changed, checked whenever they are read.

blobs/sha256/ab/abcd...    a blob is there whole or not at all: temporary name, fsync, rename
blobs/incoming/            temporary names; what lies there for long was left by a killed process
refs/NAME/3.json           only where registries push to: what the third version of a name is made of

``Store`` says what a store does; ``registry.folder`` does it in a local folder, ``registry.remote`` on any fsspec URL.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator

from registry.errors import IntegrityError
from registry.records import digest_of

CHUNK = 1 << 20
"""Bytes held in memory at a time while a blob is copied or checked."""


class Store(ABC):
    """Blobs by digest. Every error is a RegistryError that says what was expected, what came and what to do."""

    where: str
    """Folder or URL, for messages."""

    # What a kind of store does -------------------------------------------------------------------------------------

    @abstractmethod
    def write(self, digest: str, chunks: Iterable[bytes]) -> None:
        """Write a blob whole or not at all; `chunks` may raise, then nothing stays."""

    @abstractmethod
    def read(self, digest: str) -> Iterator[bytes]:
        """The bytes of a blob as they are, in chunks. Raises IntegrityError when there is none."""

    @abstractmethod
    def __contains__(self, digest: str) -> bool: ...

    @abstractmethod
    def renew(self, digest: str) -> bool:
        """Make a blob count as young again; False when it is not there."""

    @abstractmethod
    def digests(self) -> Iterator[str]:
        """Digests of all blobs, in order."""

    @abstractmethod
    def size(self, digest: str) -> int:
        """Bytes of a blob."""

    @abstractmethod
    def is_old(self, digest: str, seconds: float) -> bool:
        """True when nobody asked to keep the blob within the last `seconds`."""

    @abstractmethod
    def discard(self, digest: str, seconds: float) -> bool:
        """Delete a blob, unless somebody asked to keep it within the last `seconds`; True when it is gone."""

    @abstractmethod
    def leftovers(self, seconds: float) -> list[str]:
        """Temporary files older than `seconds`; younger ones may belong to a living process."""

    @abstractmethod
    def sweep(self, seconds: float) -> int:
        """Delete those temporary files; returns how many."""

    @abstractmethod
    def write_ref(self, name: str, data: bytes) -> None:
        """Write a small file beside the blobs, ``refs/NAME``, whole or not at all; one that is there is replaced."""

    @abstractmethod
    def read_ref(self, name: str) -> bytes | None:
        """The bytes of ``refs/NAME``, or None."""

    @abstractmethod
    def refs(self) -> list[str]:
        """The names of all these files."""

    # What all stores share -----------------------------------------------------------------------------------------

    def put(self, data: bytes) -> str:
        """Keep bytes and return their digest; bytes that are there and whole are left as they are.

        Raises RegistryError when the disk is full or read-only; nothing half-written stays.
        """
        digest = digest_of(data)
        if not self.holds(digest):
            self.write(digest, [data])
        return digest

    def put_checked(self, digest: str, chunks: Iterable[bytes], where: str) -> bool:
        """Keep a blob that comes in chunks from `where`; False when it was there already.

        Raises IntegrityError when the chunks are not the bytes of `digest`; then nothing stays.
        """
        if self.holds(digest):
            return False
        self.write(digest, checked(digest, chunks, where))
        return True

    def holds(self, digest: str) -> bool:
        """True when a blob is here and whole; a damaged one counts as absent, so that writing it again heals it."""
        if not self.renew(digest):
            return False
        try:
            self.check(digest)
        except IntegrityError:
            return False
        return True

    def chunks(self, digest: str) -> Iterator[bytes]:
        """The bytes of a blob in chunks. Raises IntegrityError, after the last one, when they were not those."""
        return checked(digest, self.read(digest), self.where)

    def get(self, digest: str) -> bytes:
        """The bytes of a blob. Raises IntegrityError when they are gone or are no longer those."""
        return b"".join(self.chunks(digest))

    def check(self, digest: str) -> None:
        """Hash a blob again without holding it in memory. Raises IntegrityError."""
        for _ in self.chunks(digest):
            pass


def checked(digest: str, chunks: Iterable[bytes], where: str) -> Iterator[bytes]:
    """Pass chunks through and hash them on the way. Raises IntegrityError when the end shows another digest."""
    hashed, size = hashlib.sha256(), 0
    for chunk in chunks:
        hashed.update(chunk)
        size += len(chunk)
        yield chunk
    if (got := hashed.hexdigest()) != digest:
        raise IntegrityError(
            f"expected the blob sha256:{digest[:12]} in {where}, got {size} bytes of sha256:{got[:12]}; "
            "restore it from a backup or a copy (`ctune registry pull` or `import` bring it back)"
        )


def missing(digest: str, where: str) -> IntegrityError:
    """The error for a blob that is gone."""
    return IntegrityError(
        f"expected the blob sha256:{digest[:12]} in {where}, found none; restore it from a backup or a copy "
        "(`ctune registry pull` or `import` bring it back)"
    )
