"""The pool: a project's cases and their annotations, as files that never change once they are there.

    pool/<case>/case.json                                what is known of the CT; written last: without it there is no case
    pool/<case>/ct.nii.gz                                the CT's own bytes
    pool/<case>/annotations/<class>/<source>-0001.nii.gz + .json

An annotation is written once. Another one of the same class and source gets the next number.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

from filelock import FileLock

from ctune.classes import canonical, nearest
from ctune.data.files import read_json, sha256_of, write_json
from ctune.data.nifti import header_notes, read_case, read_mask, write_mask
from ctune.errors import PoolError
from ctune.types import Annotation, AnnotationRecord, Case, Grid, Mask, Source, Split

_CASE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


@dataclass(frozen=True)
class CaseRecord:
    """What the pool knows of a CT. image: its file. notes: oddities of its header."""

    id: str
    split: Split
    image: Path
    sha256: str
    grid: Grid
    notes: tuple[str, ...] = ()


def check_case_id(case_id: str) -> str:
    """The id itself. Raises PoolError when it could not be a folder's name everywhere."""
    if not _CASE_ID.fullmatch(case_id):
        raise PoolError(
            f"expected a case id of 1 to 128 letters, digits, '.', '_' and '-' that starts with a letter or digit, "
            f"got {case_id!r}; rename the case"
        )
    return case_id


class Pool:
    """The cases under one folder."""

    def __init__(self, root: Path) -> None:
        self.root = root

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

    # Cases --------------------------------------------------------------------------------------------------------

    def cases(self, split: Split | None = None) -> list[CaseRecord]:
        """All cases (of one split), by id."""
        found = (self.case(path.parent.name) for path in sorted(self.root.glob("[!.]*/case.json")))
        return [case for case in found if split is None or case.split == split]

    def case(self, case_id: str) -> CaseRecord:
        """What is known of one case. Raises PoolError for an id that is not here."""
        path = self.root / check_case_id(case_id) / "case.json"
        if not path.exists():
            hint = nearest(case_id, (p.parent.name for p in self.root.glob("[!.]*/case.json")))
            raise PoolError(f"expected a case of the pool, got {case_id!r}; " + (f"did you mean {hint!r}?" if hint else "import it first"))
        about = read_json(path)
        grid = Grid(tuple(about["shape"]), about["affine"])
        return CaseRecord(about["id"], Split(about["split"]), path.parent / about["image"], about["sha256"], grid, tuple(about["notes"]))

    def __contains__(self, case_id: str) -> bool:
        return (self.root / case_id / "case.json").exists()

    def grid(self, case_id: str) -> Grid:
        """The CT's grid."""
        return self.case(case_id).grid

    def load(self, case_id: str) -> Case:
        """The CT itself. Raises PoolError when its bytes are no longer those that were imported."""
        record = self.case(case_id)
        if not record.image.exists():
            raise PoolError(f"case {case_id}: expected its CT in {record.image}, found no file; restore it from where it was imported")
        return read_case(record.image, case_id)

    def add_case(
        self,
        case_id: str,
        image: Path,
        split: Split,
        annotations: Mapping[str, Mask] | None = None,
        *,
        source: Source = Source.ORIGINAL,
        author: str = "import",
    ) -> CaseRecord:
        """Copy a CT into the pool with its first `annotations` {class: mask on the CT's grid}: all of it, or nothing.

        Raises PoolError when the id is taken (also in other letters' case) and whatever ``read_case`` raises.
        """
        check_case_id(case_id)
        case = read_case(image, case_id)
        with self._locked():
            taken = {p.name.lower(): p.name for p in self.root.iterdir() if not p.name.startswith(".")}
            if case_id.lower() in taken:
                raise PoolError(f"expected a new case id, got {case_id!r} while the pool has {taken[case_id.lower()]!r}; rename the new case")
            building = self.root / f".{uuid4().hex[:12]}.tmp"
            try:
                (building / "annotations").mkdir(parents=True)
                name = "ct.nii.gz" if image.name.endswith(".gz") else "ct.nii"
                shutil.copyfile(image, building / name)
                (building / name).chmod(0o444)
                for class_name, mask in (annotations or {}).items():
                    _write_annotation(building, case, class_name, mask, source, author, 0)
                about = {
                    "id": case_id,
                    "split": Split(split).value,
                    "image": name,
                    "sha256": sha256_of(building / name),
                    "shape": case.grid.shape,
                    "affine": case.grid.affine.tolist(),
                    "notes": header_notes(image),
                }
                write_json(building / "case.json", about)
                building.rename(self.root / case_id)
            finally:
                shutil.rmtree(building, ignore_errors=True)
        return self.case(case_id)

    # Annotations --------------------------------------------------------------------------------------------------

    def annotations(self, case_id: str, class_name: str | None = None) -> list[AnnotationRecord]:
        """Records of a case's annotations (of one class), oldest first."""
        folder = self.root / check_case_id(case_id) / "annotations"
        wanted = canonical(class_name) if class_name else "*"
        records = [_record(read_json(path)) for path in folder.glob(f"{wanted}/*.json") if not path.name.startswith(".")]
        return sorted(records, key=lambda r: (r.created, r.round, r.path))

    def read(self, record: AnnotationRecord) -> Annotation:
        """An annotation with its mask. Raises PoolError when its bytes changed since it was written."""
        path = self.root / record.path
        what = f"case {record.case_id}, {record.class_name}"
        if not path.exists() or (found := sha256_of(path)) != record.sha256:
            got = found[:12] if path.exists() else "no file"
            raise PoolError(f"{what}: expected the annotation {record.sha256[:12]} in {path}, got {got}; restore the file from a backup")
        return Annotation(record, read_mask(path, self.grid(record.case_id), what))

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

        Raises PoolError for an unknown case and GeometryError for a mask of another shape.
        """
        case = self.case(case_id)
        folder = self.root / case.id
        with FileLock(folder / ".lock"):
            return _write_annotation(
                folder, Case(case.id, mask, case.grid), class_name, mask, source, author, round, model, seconds, note
            )

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with FileLock(self.root / ".lock"):
            yield


def _write_annotation(
    folder: Path,
    case: Case,
    class_name: str,
    mask: Mask,
    source: Source,
    author: str,
    round: int,
    model: str | None = None,
    seconds: float | None = None,
    note: str = "",
) -> AnnotationRecord:
    name, source = canonical(class_name), Source(source)
    place = folder / "annotations" / name
    place.mkdir(parents=True, exist_ok=True)
    number = 1 + max((int(p.name.split("-")[1].split(".")[0]) for p in place.glob(f"{source}-*.nii.gz")), default=0)
    path = place / f"{source}-{number:04d}.nii.gz"
    write_mask(path, mask, case.grid)
    path.chmod(0o444)
    record = AnnotationRecord(
        case_id=case.id,
        class_name=name,
        source=source,
        author=author,
        created=datetime.now(UTC).isoformat(timespec="microseconds"),
        round=round,
        sha256=sha256_of(path),
        path=str(Path(case.id) / path.relative_to(folder)),
        model=model,
        seconds=seconds,
        note=note,
    )
    about = path.with_name(path.name.removesuffix(".nii.gz") + ".json")
    # The record comes last: a mask without one is an unfinished write and is not listed.
    write_json(about, asdict(record))
    about.chmod(0o444)
    return record


def _record(about: dict[str, Any]) -> AnnotationRecord:
    return AnnotationRecord(**{**about, "source": Source(about["source"])})
