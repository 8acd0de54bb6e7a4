"""A pool at an fsspec URL (s3://, gcs://, sftp://, ...), for machines that share no disk.

The layout is that of a pool in a folder (``data.pool``). What this machine reads is kept in a folder of its own, which may be
deleted at any time: records and masks for good, as they never change, CTs up to a bound.

    URL/<case>/.claim                          who brings the case; two cannot
    URL/<case>/case.json                       comes last: a case without it is not there
    URL/<case>/annotations/<class>/0001.claim  who writes annotation 1 of a class; then mask, then record
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

from ctune.classes import canonical
from ctune.data.annotations import check_mask, new_record, number_of, write_annotation
from ctune.data.files import sha256_of, write_atomically
from ctune.data.pool import CaseRecord, Pool, check_case_id
from ctune.errors import PoolError
from ctune.types import Annotation, AnnotationRecord, Mask, Source, Split

_STALE_S = 3600.0
"""A claim of this age without its case was left by a process that is gone."""


def is_url(place: str) -> bool:
    """True for an fsspec URL, False for a folder."""
    return "://" in place or "::" in place


class SharedPool(Pool):
    """The cases below one URL; safe for many machines at once.

    mirror: the folder of what this machine has read. images_gb: bound on the CTs in it (10^9 bytes); the least recently used
    go. Everything else is as in ``Pool``; PoolError also when the URL cannot be reached.
    """

    def __init__(self, url: str, mirror: Path, images_gb: float = 50.0) -> None:
        mirror.mkdir(parents=True, exist_ok=True)
        super().__init__(mirror)
        self.url, self._limit = url.rstrip("/"), images_gb * 1e9
        with self._talking():
            import fsspec

            self._fs, at = fsspec.core.url_to_fs(self.url)
        self._at = str(at).rstrip("/")

    # Reading --------------------------------------------------------------------------------------------------------

    def case(self, case_id: str) -> CaseRecord:
        self._fetch_records([case_id])
        return super().case(case_id)

    def __contains__(self, case_id: str) -> bool:
        self._fetch_records([case_id])
        return super().__contains__(case_id)

    def image(self, case_id: str) -> Path:
        path = self.case(case_id).image
        if not path.exists():
            self._make_room(path)
            self._fetch(path)
        with suppress(OSError):
            path.touch()
        return path

    def annotations(self, case_id: str, class_name: str | None = None) -> list[AnnotationRecord]:
        self.case(case_id)
        names = self._list(f"{case_id}/annotations/{canonical(class_name) if class_name else ''}".rstrip("/"))
        for name in names:
            if name.endswith(".json") and not (self.root / name).exists():
                self._fetch(self.root / name)
        return super().annotations(case_id, class_name)

    def read(self, record: AnnotationRecord) -> Annotation:
        if not (self.root / record.path).exists():
            self._fetch(self.root / record.path)
        return super().read(record)

    # Writing --------------------------------------------------------------------------------------------------------

    def add_case(
        self,
        case_id: str,
        image: Path,
        split: Split,
        annotations: Mapping[str, Mask] | None = None,
        *,
        source: Source = Source.ORIGINAL,
        author: str = "import",
        origin: Mapping[str, str] | None = None,
        notes: Mapping[str, str] | None = None,
    ) -> CaseRecord:
        self._check_free(check_case_id(case_id))
        self._check_apart(case_id, sha256_of(image) if image.is_file() else "", Split(split))
        claim = f"{case_id}/.claim"
        if not self._claim(claim) and not self._take_over(claim):
            raise PoolError(
                f"expected a new case id, got {case_id!r} while another machine brings it; wait for it, or rename yours"
            )
        try:
            with self._scratch() as scratch:
                Pool(scratch).add_case(
                    case_id,
                    image,
                    split,
                    annotations,
                    source=source,
                    author=author,
                    origin=origin,
                    notes=notes,
                )
                files = [path for path in (scratch / case_id).rglob("*.*") if path.name != ".lock"]
                for path in sorted(files, key=lambda path: path.name == "case.json"):
                    self._send(path, path.relative_to(scratch).as_posix())
        except BaseException:
            with suppress(Exception):
                self._fs.rm(f"{self._at}/{case_id}", recursive=True)
            raise
        return self.case(case_id)

    def annotate(
        self,
        case_id: str,
        class_name: str,
        mask: Mask,
        *,
        source: Source,
        author: str,
        round: int = 0,
        model: str | None = None,
        seconds: float | None = None,
        note: str = "",
    ) -> AnnotationRecord:
        case = self.case(case_id)
        record = new_record(case.id, class_name, source, author, round, model, seconds, note)
        place = f"{case_id}/annotations/{record.class_name}"
        check_mask(
            record, mask, case.grid
        )  # before a number is claimed: what is wrong with a mask leaves no trace
        number = 1 + max((number_of(name) for name in self._list(place)), default=0)
        while not self._claim(f"{place}/{number:04d}.claim"):
            number += 1
        with self._scratch() as scratch:
            written = write_annotation(scratch, record, mask, case.grid, number=number)
            here = scratch / "annotations" / record.class_name / Path(written.path).name
            for file in (here, here.with_name(here.name.removesuffix(".nii.gz") + ".json")):
                self._send(file, f"{place}/{file.name}")
        return written

    # The other side -------------------------------------------------------------------------------------------------

    def _ids(self) -> list[str]:
        with self._talking():
            found = self._fs.ls(self._at, detail=False) if self._fs.exists(self._at) else []
        names = sorted(path.rstrip("/").rpartition("/")[2] for path in found)
        self._fetch_records([name for name in names if not name.startswith(".")])
        return [name for name in names if (self.root / name / "case.json").is_file()]

    def _taken(self) -> list[str]:
        return self._ids()

    def _fetch_records(self, names: list[str]) -> None:
        """Bring the records of cases that are there; those that are not are passed over."""
        wanted = {
            f"{self._at}/{name}/case.json": self.root / name / "case.json"
            for name in names
            if _is_plain(name) and not (self.root / name / "case.json").exists()
        }
        if not wanted:
            return
        with self._talking():
            found: Any = self._fs.cat(list(wanted), on_error="return")
        for remote, data in found.items():
            if isinstance(data, bytes):
                path = wanted[remote if remote in wanted else f"/{remote}"]
                with write_atomically(path) as temporary:
                    temporary.write_bytes(data)
                    temporary.chmod(0o444)
            elif not isinstance(data, FileNotFoundError):
                with self._talking():
                    raise data

    def _fetch(self, path: Path) -> None:
        with self._talking(), write_atomically(path) as temporary:
            self._fs.get_file(f"{self._at}/{path.relative_to(self.root).as_posix()}", str(temporary))

    def _send(self, path: Path, name: str) -> None:
        with self._talking():
            self._fs.put_file(str(path), f"{self._at}/{name}")

    @contextmanager
    def _scratch(self) -> Iterator[Path]:
        folder = self.root / f".{uuid4().hex[:12]}.building"
        folder.mkdir()
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _list(self, name: str) -> list[str]:
        """Names of all files below ``URL/name``, relative to the URL."""
        with self._talking():
            self._fs.invalidate_cache()
            found = self._fs.find(f"{self._at}/{name}")
        start = self._at.lstrip("/") + "/"
        return [path.lstrip("/").removeprefix(start) for path in found]

    def _claim(self, name: str) -> bool:
        """Make a file that is not there; False when it is. Of two machines one gets True."""
        path = f"{self._at}/{name}"
        with self._talking():
            self._fs.makedirs(path.rpartition("/")[0], exist_ok=True)
            try:
                self._fs.pipe_file(path, str(time.time()).encode(), mode="create")
            except FileExistsError:
                return False
        return True

    def _take_over(self, name: str) -> bool:
        """Whether a claim is of a process that is gone; then it is ours."""
        with self._talking():
            try:
                since = float(self._fs.cat_file(f"{self._at}/{name}"))
            except (FileNotFoundError, ValueError):
                since = time.time()
            if time.time() - since < _STALE_S:
                return False
            self._fs.rm(f"{self._at}/{name.partition('/')[0]}", recursive=True)
        return self._claim(name)

    def _make_room(self, path: Path) -> None:
        with self._talking():
            size = int(self._fs.size(f"{self._at}/{path.relative_to(self.root).as_posix()}") or 0)
        found = []
        for kept in self.root.glob("*/ct.nii*"):
            with suppress(FileNotFoundError):
                stat = kept.stat()
                found.append((stat.st_mtime, stat.st_size, kept))
        total = sum(length for _, length, _ in found)
        for _, length, kept in sorted(found):
            if total + size <= self._limit:
                break
            kept.unlink(missing_ok=True)
            total -= length

    @contextmanager
    def _talking(self) -> Iterator[None]:
        """Turn whatever a file system's library raises into a PoolError: each has errors of its own."""
        try:
            yield
        except (PoolError, FileExistsError):
            raise
        except Exception as error:
            text = " ".join(str(error).split()) or type(error).__name__
            raise PoolError(
                f"expected to reach the pool at {self.url}, got: {text[:300]}; check the URL, the access and the network, "
                "and run the same again"
            ) from error


def _is_plain(name: str) -> bool:
    return bool(name) and "/" not in name and not name.startswith(".")
