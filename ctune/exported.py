"""Cases on their way to an expert's own program and back: what was handed out is kept beside it, so that only edits count.

    OUT/CASE/ct.nii.gz            the CT's own bytes
    OUT/CASE/labels.nii.gz + labels.txt    for ITK-SNAP, or labels.seg.nrrd for 3D Slicer
    OUT/CASE/exported.json        which classes with which numbers; it comes last
    OUT/CASE/.exported/<class>.nii.gz      the masks as they were, with what nobody has judged and what overlaps

A label map can hold neither 255 nor overlaps. What comes back is therefore laid over the masks as they were: a voxel that
the expert did not touch stays what it was.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ValidationError

from ctune.data.exchange import Format, read_segmentation, write_segmentation
from ctune.data.files import write_json
from ctune.data.nifti import read_mask, write_mask
from ctune.data.pool import CaseRecord
from ctune.errors import DataError, LabelError, PoolError
from ctune.types import UNLABELLED, Grid, Mask

MANIFEST = "exported.json"
_KEPT = ".exported"


def is_exported(folder: Path) -> bool:
    """Whether a folder is a case that ``export_case`` wrote."""
    return (folder / MANIFEST).is_file()


def export_case(
    folder: Path, record: CaseRecord, image: Path, masks: Mapping[str, Mask], format: Format
) -> None:
    """Write one case, its CT being the file `image`; `masks` {class: (X, Y, Z) uint8} in the order that decides overlaps of a label map.

    An earlier export is left as it is, for an expert may have drawn in it. Raises PoolError when there is one.
    """
    if is_exported(folder):
        raise PoolError(
            f"case {record.id}: expected a new folder, got {folder}, which holds an export that may have been edited; "
            "take it in with `ctune revise`, or choose another --out"
        )
    shutil.rmtree(folder, ignore_errors=True)
    for name, mask in masks.items():
        write_mask(folder / _KEPT / f"{name}.nii.gz", mask, record.grid)
    shutil.copyfile(image, folder / image.name)
    written = write_segmentation(folder / format.file_name, masks, record.grid, format)
    about = {"case": record.id, "format": str(format), "classes": list(masks), "ct": record.sha256}
    write_json(folder / MANIFEST, {**about, "lost": dict(written.lost), "unjudged": dict(written.unjudged)})


def read_exported(
    folder: Path, case_id: str, grid: Grid, aliases: Mapping[str, str] | None = None
) -> tuple[dict[str, Mask], list[str]]:
    """What an expert changed in an exported case: {class: whole mask on `grid`}, and the classes left as they were.

    Raises DataError for another case's folder or a damaged manifest, LabelError when a class that was handed out is gone,
    and what ``read_segmentation`` raises.
    """
    about = _manifest(folder / MANIFEST, case_id)
    if about.case != case_id:
        raise DataError(
            f"case {case_id}: expected its own export, got that of {about.case} in {folder}; rename the folder"
        )
    before = {
        name: read_mask(folder / _KEPT / f"{name}.nii.gz", grid, f"case {case_id}, {name}, as exported")
        for name in about.classes
    }
    after = read_segmentation(folder, grid, aliases=aliases, what=f"case {case_id}")
    gone = [name for name, mask in before.items() if name not in after and (mask == 1).any()]
    if gone:
        raise LabelError(
            f"case {case_id}: expected the class {gone[0]}, which was exported, found it no more in {folder}; keep it, empty "
            "where the organ is absent"
        )
    seen, changed = _as_seen(before, about.format), {}
    for name, mask in after.items():
        old = seen.get(name, np.zeros(grid.shape, dtype=bool))
        base = before.get(name, np.zeros(grid.shape, np.uint8))
        touched = np.where(mask == UNLABELLED, base != UNLABELLED, (mask == 1) != old)
        if touched.any():
            changed[name] = np.where(touched, mask, base).astype(np.uint8)
    return changed, [name for name in after if name not in changed]


class _Manifest(BaseModel):
    """What stands in a manifest, as far as it is needed to take a case back."""

    case: str
    format: Format
    classes: list[str]


def _manifest(path: Path, case_id: str) -> _Manifest:
    try:
        return _Manifest.model_validate_json(path.read_bytes())
    except ValidationError as error:
        fault = error.errors()[0]
        where = ".".join(map(str, fault["loc"]))
        raise DataError(
            f"case {case_id}: expected what stood in {path} when it was exported, got a damaged file "
            f"({where}{': ' if where else ''}{fault['msg']}); put it back as it was, or export the case anew and draw there"
        ) from None


def _as_seen(
    masks: Mapping[str, Mask], format: Format
) -> dict[str, np.ndarray[tuple[int, ...], np.dtype[np.bool_]]]:
    """{class: where the export showed it}: in a label map the earlier class keeps a voxel."""
    seen = {name: mask == 1 for name, mask in masks.items()}
    if format is Format.ITK_SNAP and seen:
        taken = np.zeros_like(next(iter(seen.values())))
        for name, one in seen.items():
            seen[name] = one & ~taken
            taken |= one
    return seen
