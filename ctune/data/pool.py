"""The pool: a project's cases and their annotations, as files that never change once they are there.

    pool/<case>/case.json                    what is known of the CT
    pool/<case>/ct.nii.gz                    the CT's own bytes
    pool/<case>/annotations/<class>/<source>-0001.nii.gz + .json

A case is built under a temporary name and appears in one rename, with its first annotations or not at all. A
later annotation counts from the moment its .json is there, which comes last. Numbers grow within a class,
whatever the source: the highest is the newest. All of these files are read-only and carry a sha256.
"""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

import numpy as np
from filelock import FileLock, Timeout

from ctune.classes import canonical, nearest
from ctune.data.annotations import check_bytes, damage, list_annotations, new_record, now, write_annotation
from ctune.data.files import read_json, sha256_of, sync_folder, write_atomically, write_json
from ctune.data.nifti import check_whole, header_notes, read_case, read_labels
from ctune.errors import PoolError
from ctune.types import Annotation, AnnotationRecord, Case, Grid, Mask, Source, Split

_CASE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_BUILDING = ".{}.building"
_PATIENCE_S = 600.0


@dataclass(frozen=True)
class CaseRecord:
    """What the pool knows of a CT.

    image: its file. sha256: of the file's bytes. grid: shape (X, Y, Z) and affine. notes: oddities of its
    header. added: when, ISO 8601. origin: where it came from, in words.
    """

    id: str
    split: Split
    image: Path
    sha256: str
    grid: Grid
    notes: tuple[str, ...] = ()
    added: str = ""
    origin: Mapping[str, str] = field(default_factory=dict)


def check_case_id(case_id: str) -> str:
    """The id itself. Raises PoolError when it could not be a folder's name everywhere."""
    if not _CASE_ID.fullmatch(case_id):
        raise PoolError(
            "expected a case id of 1 to 128 letters, digits, '.', '_' and '-' that starts with a letter or "
            f"digit, got {case_id!r}; rename the case"
        )
    return case_id


class Pool:
    """The cases under one folder; safe for several processes at once."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._holders: dict[str, list[str]] = {}
        """{sha256 of a CT: the cases that have it}, of the cases looked at so far."""
        self._looked_at: set[str] = set()

    @classmethod
    def create(cls, root: Path) -> Pool:
        """An empty pool; an existing one is opened."""
        root.mkdir(parents=True, exist_ok=True)
        return cls(root)

    @classmethod
    def open(cls, root: Path) -> Pool:
        """An existing pool. Raises PoolError when there is none."""
        if not root.is_dir():
            raise PoolError(f"expected a pool in {root}, found no such folder; run `ctune init` first")
        return cls(root)

    def cases(self, split: Split | None = None) -> list[CaseRecord]:
        """All cases (of one split), by id."""
        found = (self.case(name) for name in self._ids())
        return [case for case in found if split is None or case.split == split]

    def case(self, case_id: str) -> CaseRecord:
        """What is known of one case. Raises PoolError for an id that is not here, or a damaged record."""
        if case_id not in self:
            hint = nearest(case_id, self._ids())
            advice = f"did you mean {hint!r}?" if hint else "import it first"
            raise PoolError(f"expected a case of the pool, got {case_id!r}; {advice}")
        path = self.root / case_id / "case.json"
        with damage(path):
            about = read_json(path)
            grid = Grid(tuple(about["shape"]), about["affine"])
            split, image, notes = Split(about["split"]), path.parent / about["image"], tuple(about["notes"])
            # Pools of before there were seals have none.
            if about.get("seal", "") not in ("", _seal(case_id, split, about["sha256"])):
                raise PoolError(
                    f"case {case_id}: expected the split and the CT that it was imported with, for good, got another in "
                    f"{path} (split {split}); put the record back as it was"
                )
            return CaseRecord(
                about["id"], split, image, about["sha256"], grid, notes, about["added"], about["origin"]
            )

    def __contains__(self, case_id: str) -> bool:
        return bool(_CASE_ID.fullmatch(case_id)) and (self.root / case_id / "case.json").is_file()

    def grid(self, case_id: str) -> Grid:
        """The CT's grid."""
        return self.case(case_id).grid

    def load(self, case_id: str) -> Case:
        """The CT itself. Raises PoolError when its bytes are no longer those that were imported."""
        record, path = self.case(case_id), self.image(case_id)
        check_bytes(path, record.sha256, f"case {case_id}: expected the CT that was imported")
        return read_case(path, case_id)

    def image(self, case_id: str) -> Path:
        """The file of the CT on this machine, as it was imported. Raises PoolError for an unknown case."""
        return self.case(case_id).image

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
        """Copy a CT into the pool with its first `annotations` {class: mask on the CT's grid}: all of it, or
        nothing.

        `annotations` is read one class at a time, so a mapping that loads masks on demand needs memory for
        one. `origin` says where the CT came from, `notes` {class: text} where a mask did. Raises PoolError
        when the id is taken (also in other letters' case) or the same CT is in another split, what ``read_case`` raises, and what reading a mask
        raises: then the pool is as it was.
        """
        check_case_id(case_id)
        digest = sha256_of(image) if image.is_file() else ""
        check_whole(image, f"case {case_id}")
        grid = read_case(image, case_id).grid
        with self._locked():
            self._check_free(case_id)
            self._check_apart(case_id, digest, Split(split))
            building = self.root / _BUILDING.format(uuid4().hex[:12])
            try:
                (building / "annotations").mkdir(parents=True)
                name = "ct.nii.gz" if image.name.lower().endswith(".gz") else "ct.nii"
                _copy(image, building / name, digest, case_id)
                for class_name, mask in (annotations or {}).items():
                    record = new_record(
                        case_id, class_name, source, author, note=(notes or {}).get(class_name, "")
                    )
                    write_annotation(building, record, mask, grid)
                about = {
                    "format": 1, "id": case_id, "split": Split(split).value, "image": name, "sha256": digest,
                    "shape": grid.shape, "affine": grid.affine.tolist(), "notes": header_notes(image),
                    "added": now(), "origin": dict(origin or {}), "seal": _seal(case_id, Split(split), digest),
                }  # fmt: skip
                write_json(building / "case.json", about, read_only=True)
                sync_folder(building)
                building.rename(self.root / case_id)
                sync_folder(self.root)
            finally:
                shutil.rmtree(building, ignore_errors=True)
        return self.case(case_id)

    def annotations(self, case_id: str, class_name: str | None = None) -> list[AnnotationRecord]:
        """Records of a case's annotations (of one class), by class, and within a class the oldest first.

        Raises PoolError for an unknown case or a damaged record.
        """
        folder = self.case(case_id).image.parent / "annotations"
        return list_annotations(folder, canonical(class_name) if class_name else "*")

    def read(self, record: AnnotationRecord) -> Annotation:
        """An annotation with its mask. Raises PoolError when its bytes changed since it was written."""
        path = self.root / record.path
        what = f"case {record.case_id}, {record.class_name}"
        check_bytes(path, record.sha256, f"{what}: expected the {record.source} annotation as it was written")
        # Not read_mask: what it doubts in other people's files, such as 0 and 255 alone, is meant here.
        return Annotation(record, read_labels(path, self.grid(record.case_id), what).astype(np.uint8))

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
        """Add an annotation (X, Y, Z) uint8 of 0, 1 or UNLABELLED; those that are there stay as they are.

        `model` is the digest of a predicting model, `seconds` what an expert spent.
        Raises PoolError for an unknown case, GeometryError for a mask of another shape, LabelError for other
        values.
        """
        case = self.case(case_id)
        folder = case.image.parent
        with _lock(folder):
            record = new_record(case.id, class_name, source, author, round, model, seconds, note)
            return write_annotation(folder, record, mask, case.grid)

    def _ids(self) -> list[str]:
        return sorted(p.parent.name for p in self.root.glob("[!.]*/case.json"))

    def _taken(self) -> list[str]:
        return [p.name for p in self.root.iterdir() if not p.name.startswith(".")]

    def _check_free(self, case_id: str) -> None:
        taken = {name.lower(): name for name in self._taken()}
        if case_id.lower() in taken:
            raise PoolError(
                f"expected a new case id, got {case_id!r} while the pool has {taken[case_id.lower()]!r}; "
                "rename the new case"
            )

    def _check_apart(self, case_id: str, digest: str, split: Split) -> None:
        """The same CT under two ids must not train under one and be measured on under the other."""
        for name in {*self._taken()} - self._looked_at:
            # A record that does not read is no reason to refuse another case: it complains when it is used.
            with suppress(PoolError):
                self._holders.setdefault(self.case(name).sha256, []).append(name)
                self._looked_at.add(name)
        for other in self._holders.get(digest, ()):
            if self.case(other).split != split:
                raise PoolError(
                    f"case {case_id}: expected a CT that is in no other split, got that of {other}, which is in the split "
                    f"{self.case(other).split} for good; leave it out, or give it the same split"
                )

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with _lock(self.root):
            # Who holds the lock is the only one who builds: anything half-built was left by a process that is
            # gone.
            for leftover in self.root.glob(_BUILDING.format("*")):
                shutil.rmtree(leftover, ignore_errors=True)
            yield


def _seal(case_id: str, split: Split, sha256: str) -> str:
    """What makes an edited split or CT seen: a case that moved from validation to training would flatter every number."""
    return hashlib.sha256(f"{case_id}\n{split.value}\n{sha256}".encode()).hexdigest()


def _copy(image: Path, target: Path, digest: str, case_id: str) -> None:
    with write_atomically(target) as temporary:
        shutil.copyfile(image, temporary)
        temporary.chmod(0o444)
        if sha256_of(temporary) != digest:
            raise PoolError(
                f"case {case_id}: expected {image} to stay as it was, it changed while it was copied; import "
                "it again"
            )


@contextmanager
def _lock(folder: Path) -> Iterator[None]:
    try:
        with FileLock(folder / ".lock", timeout=_PATIENCE_S):
            yield
    except Timeout:
        raise PoolError(
            f"expected {folder} to be free, another process has held it for {_PATIENCE_S:.0f} s; try again"
        ) from None
