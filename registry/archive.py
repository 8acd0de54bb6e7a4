"""One file with a model and all that it needs, to carry on a disk: a plain tar.

manifest.json          what is inside
sha256/<digest>        each record and each blob
Nothing else may be in it: no folders, links, devices or other paths; its bytes are the same for the same model.
"""

from __future__ import annotations

import io
import os
import re
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO
from uuid import uuid4

from registry.errors import ArchiveError
from registry.folder import sync, writing
from registry.parcel import LONGEST_RECORD, Moved, pack, read_manifest, take_in
from registry.store import CHUNK

if TYPE_CHECKING:
    from registry.registry import Registry

MANIFEST = "manifest.json"
_ENTRY = re.compile(r"sha256/[0-9a-f]{64}")


def export(registry: Registry, reference: str, target: Path) -> Moved:
    """Write the model that `reference` means with all it needs into one file, whole or not at all.

    An existing file is replaced. Raises RegistryError when it cannot be written, IntegrityError when a blob is damaged.
    """
    manifest, blobs = pack(registry, reference)
    temporary = target.with_name(f".{target.name}.{uuid4().hex}.tmp")
    with writing(str(target.parent)):
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("xb") as file:
                _write(registry, manifest.encode(), [c.digest for c in manifest.records], blobs, file)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(target)
            sync(target.parent)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    size = sum(registry.store.size(blob) for blob in blobs)
    return Moved(manifest.name, manifest.version, manifest.model, len(manifest.records), len(blobs), size)


def import_archive(registry: Registry, source: Path, *, rename: str | None = None, actor: str) -> Moved:
    """Take in the model of an archive; what is here already is not written again.

    Raises ArchiveError, before anything is written, for a file that holds what no archive may.
    """
    try:
        with tarfile.open(source, "r:") as archive:
            entries = _entries(archive, source)
            first = entries.get(MANIFEST)
            if first is None or first.size > LONGEST_RECORD:
                raise ArchiveError(
                    f"expected {MANIFEST} in {source}, found none that can be read; export it again"
                )
            manifest = read_manifest(b"".join(_chunks(archive, first)), str(source))

            def fetch(digest: str) -> Iterator[bytes]:
                entry = entries.get(f"sha256/{digest}")
                if entry is None:
                    raise ArchiveError(
                        f"expected sha256:{digest[:12]} in {source}, its manifest lists it but it is not there; export it "
                        "again"
                    )
                return _chunks(archive, entry)

            return take_in(registry, manifest, fetch, origin=str(source), actor=actor, rename=rename)
    except (tarfile.TarError, EOFError, OverflowError, UnicodeError) as error:
        raise ArchiveError(
            f"expected an archive written by `ctune registry export`, got {source}, which cannot be read: {error}; copy "
            "it again"
        ) from None
    except OSError as error:
        raise ArchiveError(f"expected to read the archive {source}, got: {error.strerror or error}") from None


def _write(
    registry: Registry, manifest: bytes, records: list[str], blobs: tuple[str, ...], file: BinaryIO
) -> None:
    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as archive:
        archive.addfile(_header(MANIFEST, len(manifest)), io.BytesIO(manifest))
        for digest in records:
            row = registry.catalog.record(digest)
            assert row is not None
            archive.addfile(_header(f"sha256/{digest}", len(row.body)), io.BytesIO(row.body))
        for digest in blobs:
            size = registry.store.size(digest)
            chunks = registry.store.chunks(digest)
            archive.addfile(_header(f"sha256/{digest}", size), _Chunks(chunks))
            # The digest shows at the end of the chunks: read to it, so that a damaged blob is never exported.
            next(chunks, None)


def _header(name: str, size: int) -> tarfile.TarInfo:
    header = tarfile.TarInfo(name)
    header.size, header.mode = size, 0o444
    return header


def _entries(archive: tarfile.TarFile, source: Path) -> dict[str, tarfile.TarInfo]:
    """All entries by name. Raises ArchiveError for anything but plain files of the two kinds."""
    found: dict[str, tarfile.TarInfo] = {}
    for entry in archive:
        plain = entry.type in (tarfile.REGTYPE, tarfile.AREGTYPE) and not entry.sparse and entry.size >= 0
        if not plain or not (entry.name == MANIFEST or _ENTRY.fullmatch(entry.name)) or entry.name in found:
            what = (
                "a link"
                if entry.issym() or entry.islnk()
                else "no plain file"
                if not plain
                else "not one of ours"
            )
            what = "there twice" if entry.name in found else what
            raise ArchiveError(
                f"expected only {MANIFEST} and sha256/<digest> in {source}, got {entry.name[:80]!a}, which is {what}; "
                "nothing was taken in: do not trust where it came from"
            )
        found[entry.name] = entry
    return found


def _chunks(archive: tarfile.TarFile, entry: tarfile.TarInfo) -> Iterator[bytes]:
    file = archive.extractfile(entry)
    assert file is not None
    while chunk := file.read(CHUNK):
        yield chunk


class _Chunks:
    """Chunks as a file, for tarfile; the errors of the chunks come through."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks, self._left = chunks, b""

    def read(self, size: int = CHUNK, /) -> bytes:
        """`size` bytes, fewer only at the end."""
        parts, wanted = [], size
        while wanted:
            if not self._left:
                self._left = next(self._chunks, b"")
                if not self._left:
                    break
            parts.append(self._left[:wanted])
            self._left = self._left[wanted:]
            wanted -= len(parts[-1])
        return b"".join(parts)
