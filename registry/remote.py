"""A store on any fsspec URL: s3://, gcs://, abfs://, sftp://, memory:// and what else is installed."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

from registry.errors import RegistryError
from registry.node_cache import NodeCache
from registry.store import CHUNK, Store, missing


class RemoteStore(Store):
    """Blobs below one fsspec URL; a blob gets its name only when all its bytes are there.

    cache: what ``get`` reads is kept there; checks always read what lies at the URL.
    """

    def __init__(self, url: str, cache: NodeCache | None = None) -> None:
        self._cache = cache
        self.where = url.rstrip("/")
        self.fs, root = open_url(self.where)
        self.root, self.incoming = f"{root}/blobs/sha256", f"{root}/blobs/incoming"
        self._refs = f"{root}/refs"

    def get(self, digest: str) -> bytes:
        if self._cache is None:
            return super().get(digest)
        if (kept := self._cache.get(digest)) is not None:
            return kept
        data = super().get(digest)
        self._cache.keep(digest, data)
        return data

    def path(self, digest: str) -> str:
        """Where a blob lies on the file system, whether it is there or not."""
        return f"{self.root}/{digest[:2]}/{digest}"

    def write(self, digest: str, chunks: Iterable[bytes]) -> None:
        write_whole(self.fs, self.path(digest), self.incoming, chunks, self.where)

    def read(self, digest: str) -> Iterator[bytes]:
        with talking(self.where):
            try:
                with self.fs.open(self.path(digest), "rb") as file:
                    while chunk := file.read(CHUNK):
                        yield chunk
            except FileNotFoundError:
                raise missing(digest, self.where) from None

    def __contains__(self, digest: str) -> bool:
        with talking(self.where):
            return bool(self.fs.exists(self.path(digest)))

    def renew(self, digest: str) -> bool:
        # Object stores cannot touch: a blob that a clean-up could soon take for old is written again instead.
        if digest not in self:
            return False
        with suppress(Exception):
            self.fs.touch(self.path(digest), truncate=False)
        return not self.is_old(digest, 3600.0)

    def holds(self, digest: str) -> bool:
        # Reading it back would cost more than sending it; what cannot be trusted to keep bytes is checked on reading.
        return self.renew(digest)

    def digests(self) -> Iterator[str]:
        with talking(self.where):
            found = self.fs.find(self.root) if self.fs.exists(self.root) else []
        yield from sorted(name for path in found if len(name := path.rpartition("/")[2]) == 64)

    def size(self, digest: str) -> int:
        with talking(self.where):
            try:
                return int(self.fs.size(self.path(digest)))
            except FileNotFoundError:
                raise missing(digest, self.where) from None

    def is_old(self, digest: str, seconds: float) -> bool:
        return digest in self and self._age(self.path(digest)) >= seconds

    def discard(self, digest: str, seconds: float) -> bool:
        if not self.is_old(digest, seconds):
            return False
        with talking(self.where):
            self.fs.rm_file(self.path(digest))
        return True

    def leftovers(self, seconds: float) -> list[str]:
        with talking(self.where):
            found = self.fs.find(self.incoming) if self.fs.exists(self.incoming) else []
        return [path for path in found if self._age(path) >= seconds]

    def sweep(self, seconds: float) -> int:
        found = self.leftovers(seconds)
        with talking(self.where):
            for path in found:
                self.fs.rm_file(path)
        return len(found)

    def write_ref(self, name: str, data: bytes) -> None:
        write_whole(self.fs, f"{self._refs}/{name}", self.incoming, [data], self.where)

    def read_ref(self, name: str) -> bytes | None:
        with talking(self.where):
            path = f"{self._refs}/{name}"
            return bytes(self.fs.cat_file(path)) if self.fs.exists(path) else None

    def refs(self) -> list[str]:
        with talking(self.where):
            found = self.fs.find(self._refs) if self.fs.exists(self._refs) else []
        start = f"{self._refs.rstrip('/')}/"
        return sorted(path[path.index(start) + len(start) :] for path in found if start in path)

    def _age(self, path: str) -> float:
        """Seconds since a file was written; 0 where the file system cannot tell, so that nothing is ever too old."""
        with talking(self.where):
            try:
                written = self.fs.modified(path)
            except (NotImplementedError, FileNotFoundError):
                return 0.0
        if not isinstance(written, datetime):
            return 0.0
        return time.time() - (written if written.tzinfo else written.replace(tzinfo=UTC)).timestamp()


def open_url(url: str) -> tuple[Any, str]:
    """The file system of an fsspec URL and the path on it. Raises RegistryError when it cannot be reached."""
    import fsspec

    with talking(url):
        fs, path = fsspec.core.url_to_fs(url)
    return fs, str(path).rstrip("/")


def write_whole(fs: Any, path: str, incoming: str, chunks: Iterable[bytes], where: str) -> None:
    """Write a file under a temporary name and move it: it is there whole or not at all."""
    temporary = f"{incoming}/{uuid4().hex}.tmp"
    with talking(where):
        try:
            for folder in (incoming, path.rpartition("/")[0]):
                fs.makedirs(folder, exist_ok=True)
            with fs.open(temporary, "wb") as file:
                for chunk in chunks:
                    file.write(chunk)
            fs.mv(temporary, path)
        except BaseException:
            with suppress(Exception):
                fs.rm_file(temporary)
            raise


@contextmanager
def talking(where: str) -> Iterator[None]:
    """Turn whatever a file system's library raises into a RegistryError: each has errors of its own."""
    try:
        yield
    except (RegistryError, GeneratorExit, NotImplementedError):
        raise
    except Exception as error:
        text = " ".join(str(error).split()) or type(error).__name__
        raise RegistryError(
            f"expected to reach {where}, got: {text[:300]}; nothing half-written was left; check the URL, the access "
            "and the room there, and run the same again"
        ) from error
