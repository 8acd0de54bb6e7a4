"""A store in a local folder, durable: what a call has returned survives a power cut."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

from registry.errors import IntegrityError, RegistryError
from registry.store import CHUNK, Store, missing

_WHY = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the quota is used up",
    errno.EROFS: "the disk is read-only",
    errno.EACCES: "no permission",
    errno.EPERM: "no permission",
}


class FolderStore(Store):
    """Blobs below one folder; made on the first write."""

    def __init__(self, root: Path) -> None:
        self.root = root / "blobs" / "sha256"
        self.incoming = root / "blobs" / "incoming"
        self._refs = root / "refs"
        self.where = str(root)

    def path(self, digest: str) -> Path:
        """Where a blob lies, whether it is there or not."""
        return self.root / digest[:2] / digest

    def write(self, digest: str, chunks: Iterable[bytes]) -> None:
        self._write(self.path(digest), chunks)

    def _write(self, target: Path, chunks: Iterable[bytes]) -> None:
        temporary = self.incoming / f"{uuid4().hex}.tmp"
        with writing(self.where):
            try:
                self._prepare(target.parent)
                with temporary.open("xb") as file:
                    for chunk in chunks:
                        file.write(chunk)
                    file.flush()
                    os.fchmod(file.fileno(), 0o444)
                    os.fsync(file.fileno())
                temporary.rename(target)
                sync(target.parent)
            except BaseException:
                with suppress(OSError):
                    temporary.unlink(missing_ok=True)
                raise

    def _prepare(self, folder: Path) -> None:
        if not self.incoming.is_dir():
            _make(self.root)
            # All at once, and one flush: later a blob in a folder of its own would cost one flush more.
            for number in range(256):
                (self.root / f"{number:02x}").mkdir(exist_ok=True)
            sync(self.root)
            _make(self.incoming)
        _make(folder)

    def read(self, digest: str) -> Iterator[bytes]:
        try:
            with self.path(digest).open("rb", buffering=0) as file:
                while chunk := file.read(CHUNK):
                    yield chunk
        except FileNotFoundError:
            raise missing(digest, self.where) from None
        except OSError as error:  # a failing disk, or no permission
            raise IntegrityError(
                f"expected to read the blob sha256:{digest[:12]} in {self.where}, got: {error.strerror}; "
                "check the disk and the permissions"
            ) from None

    def __contains__(self, digest: str) -> bool:
        return self.path(digest).exists()

    def renew(self, digest: str) -> bool:
        try:
            os.utime(self.path(digest))
        except FileNotFoundError:
            return False
        except OSError:  # read-only: then nothing collects garbage there either
            return self.path(digest).exists()
        return True

    def digests(self) -> Iterator[str]:
        for path in sorted(self.root.glob("[0-9a-f][0-9a-f]/[0-9a-f]*")):
            if len(path.name) == 64:
                yield path.name

    def size(self, digest: str) -> int:
        try:
            return self.path(digest).stat().st_size
        except FileNotFoundError:
            raise missing(digest, self.where) from None

    def is_old(self, digest: str, seconds: float) -> bool:
        try:
            return _is_old(self.path(digest), seconds)
        except FileNotFoundError:
            return False

    def discard(self, digest: str, seconds: float) -> bool:
        target, aside = self.path(digest), self.incoming / f"{uuid4().hex}.tmp"
        if not self.is_old(digest, seconds):
            return False
        with writing(self.where):
            self._prepare(target.parent)
            target.rename(aside)
            # Somebody may have asked to keep it between the look and the rename; whoever asks now finds none and
            # writes it anew.
            if not _is_old(aside, seconds):
                aside.rename(target)
                return False
            aside.unlink()
        return True

    def leftovers(self, seconds: float) -> list[str]:
        found = []
        for path in sorted(self.incoming.glob("*.tmp")):
            with suppress(FileNotFoundError):
                if _is_old(path, seconds):
                    found.append(str(path))
        return found

    def sweep(self, seconds: float) -> int:
        found = self.leftovers(seconds)
        with writing(self.where):
            for path in found:
                Path(path).unlink(missing_ok=True)
        return len(found)

    def write_ref(self, name: str, data: bytes) -> None:
        self._write(self._refs / name, [data])

    def read_ref(self, name: str) -> bytes | None:
        try:
            return (self._refs / name).read_bytes()
        except FileNotFoundError:
            return None

    def refs(self) -> list[str]:
        return sorted(p.relative_to(self._refs).as_posix() for p in self._refs.rglob("*.json"))


@contextmanager
def writing(where: str) -> Iterator[None]:
    """Turn what the disk refuses into a RegistryError that says why."""
    try:
        yield
    except OSError as error:
        why = _WHY.get(error.errno or 0, error.strerror or str(error))
        raise RegistryError(
            f"expected to write below {where}, got: {why}; nothing half-written was left; make room or access and "
            "run the same again"
        ) from None


def sync(folder: Path) -> None:
    """Make a rename inside `folder` survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _make(folder: Path) -> None:
    """Make a folder and those above it, so that they survive a power cut."""
    if not folder.is_dir():
        _make(folder.parent)
        folder.mkdir(exist_ok=True)
        sync(folder.parent)


def _is_old(path: Path, seconds: float) -> bool:
    return time.time() - path.stat().st_mtime >= seconds
