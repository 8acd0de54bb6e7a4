"""The files of one case's annotations: a mask and a record beside it, written once.

The mask comes first, its record last: an annotation counts from the moment its record is there. Whoever
writes holds the case's lock, so a mask without a record, or a temporary file, was left by a process that is
gone.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from ctune.classes import canonical
from ctune.data.files import read_json, sha256_of, write_json
from ctune.data.nifti import write_mask
from ctune.errors import GeometryError, LabelError, PoolError, UsageError
from ctune.types import UNLABELLED, AnnotationRecord, Grid, Mask, Source

_NUMBERED = re.compile(r"(?:[a-z]+-)?(\d{4,})\.(?:nii\.gz|json|claim)")


def new_record(
    case_id: str,
    class_name: str,
    source: Source,
    author: str,
    round: int = 0,
    model: str | None = None,
    seconds: float | None = None,
    note: str = "",
) -> AnnotationRecord:
    """All that is known of an annotation but where its mask is and which bytes. Raises UsageError without an
    author."""
    name = canonical(class_name)
    if not author.strip():
        raise UsageError(
            f"case {case_id}, {name}: expected the name of an author, got {author!r}; say who drew the mask"
        )
    return AnnotationRecord(case_id, name, Source(source), author, now(), round, "", "", model, seconds, note)


def write_annotation(
    folder: Path, record: AnnotationRecord, mask: Mask, grid: Grid, *, number: int | None = None
) -> AnnotationRecord:
    """Write a mask and its record into a case's folder; the record with the mask's path and digest comes
    back.

    The caller holds the folder's lock. number: within the class; None takes the next one there. Raises GeometryError for a mask of another shape, LabelError for other
    values than 0, 1 and UNLABELLED.
    """
    check_mask(record, mask, grid)
    place = folder / "annotations" / record.class_name
    place.mkdir(parents=True, exist_ok=True)
    _sweep(place)
    if number is None:
        number = 1 + max((number_of(path.name) for path in place.iterdir()), default=0)
    path = place / f"{record.source}-{number:04d}.nii.gz"
    write_mask(path, mask.astype(np.uint8, copy=False), grid)
    path.chmod(0o444)
    whole = replace(
        record, sha256=sha256_of(path), path=f"{record.case_id}/annotations/{record.class_name}/{path.name}"
    )
    write_json(_record_of(path), asdict(whole), read_only=True)
    return whole


def list_annotations(folder: Path, class_name: str = "*") -> list[AnnotationRecord]:
    """The records in a case's folder of annotations, by class, and within a class the oldest first.

    Raises PoolError for a damaged one.
    """
    paths = [p for p in folder.glob(f"{class_name}/*.json") if number_of(p.name)]
    return [_read_record(p) for p in sorted(paths, key=lambda p: (p.parent.name, number_of(p.name)))]


def check_bytes(path: Path, sha256: str, expected: str) -> None:
    """Raise PoolError unless the file's bytes have this digest; `expected` begins the message."""
    found = sha256_of(path) if path.is_file() else "no file"
    if found != sha256:
        raise PoolError(
            f"{expected} (sha256 {sha256[:12]}), got {found[:12]} in {path}; restore the file from a backup"
        )


@contextmanager
def damage(path: Path) -> Iterator[None]:
    """Turn whatever goes wrong while a record is read into a PoolError that names it."""
    try:
        yield
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise PoolError(
            f"expected a whole record in {path}, got one that does not read "
            f"({type(error).__name__}: {error}); restore the file from a backup"
        ) from None


def now() -> str:
    """The time as it stands in records: ISO 8601, UTC."""
    return datetime.now(UTC).isoformat(timespec="microseconds")


def check_mask(record: AnnotationRecord, mask: Mask, grid: Grid) -> None:
    """Raise GeometryError for a mask of another shape than the CT's, LabelError for other values than 0, 1, UNLABELLED."""
    what = f"case {record.case_id}, {record.class_name}"
    if mask.shape != grid.shape:
        raise GeometryError(
            f"{what}: expected a mask of the CT's shape {grid.shape}, got {mask.shape}; resample it onto the "
            "CT"
        )
    known = (mask == 0) | (mask == 1) | (mask == UNLABELLED)
    if not known.all():
        others = np.unique(mask[~known])[:6].tolist()
        raise LabelError(
            f"{what}: expected 0, 1 and {UNLABELLED} in a mask, got {others}; write the class as 1"
        )


def _sweep(place: Path) -> None:
    for path in list(place.iterdir()):
        unfinished = path.name.endswith(".nii.gz") and not _record_of(path).exists()
        if unfinished or path.name.startswith("."):
            path.unlink()


def _record_of(mask: Path) -> Path:
    return mask.with_name(mask.name.removesuffix(".nii.gz") + ".json")


def number_of(name: str) -> int:
    """The number in the name of an annotation's file; 0 for any other name."""
    match = _NUMBERED.fullmatch(name.rpartition("/")[2])
    return int(match[1]) if match else 0


def _read_record(path: Path) -> AnnotationRecord:
    with damage(path):
        about: dict[str, Any] = read_json(path)
        return AnnotationRecord(**{**about, "source": Source(about["source"])})
