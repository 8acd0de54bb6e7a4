"""Write a cohort of phantoms as a data set: DIR/<case>/ct.nii.gz and DIR/<case>/segmentations/<class>.nii.gz."""

from __future__ import annotations

import shutil
from pathlib import Path
from uuid import uuid4

from ctune.data.files import write_json
from ctune.data.nifti import write_mask, write_volume
from ctune.data.phantom.scan import SIZES, Phantom, Size, make_phantom
from ctune.errors import UsageError
from ctune.types import OnProgress, Progress, silent


def write_cohort(
    directory: Path, cases: int, seed: int, size: Size = "small", on_progress: OnProgress = silent
) -> list[str]:
    """Write `cases` phantoms and return their ids. Cases that are there already stay as they are.

    The same seed and size give the same bytes; case i does not depend on `cases`. Raises UsageError for an unknown size
    and for a folder that holds a cohort of another seed or size.
    """
    if size not in SIZES:
        raise UsageError(f"expected a size of {', '.join(SIZES)}; got {size!r}")
    about = {"seed": seed, "size": size, "version": 1}
    _same_cohort(directory, about)
    ids = []
    for index in range(cases):
        case_id = f"phantom_{index:04d}"
        if not (directory / case_id).exists():
            _write_case(directory, make_phantom(seed, index, size))
        ids.append(case_id)
        on_progress(Progress("phantom", index + 1, cases, case_id))
    return ids


def _same_cohort(directory: Path, about: dict[str, object]) -> None:
    from ctune.data.files import read_json

    path = directory / "phantom.json"
    if path.exists() and (found := read_json(path)) != about:
        raise UsageError(
            f"expected an empty folder or the cohort {about}, found {found} in {directory}; choose another folder"
        )
    write_json(path, about)


def _write_case(directory: Path, phantom: Phantom) -> None:
    # Built under a temporary name and renamed: a cohort never holds half a case.
    building = directory / f".{uuid4().hex[:12]}.tmp"
    try:
        write_volume(building / "ct.nii.gz", phantom.case.volume.astype("int16"), phantom.case.grid)
        for name, mask in phantom.masks.items():
            write_mask(building / "segmentations" / f"{name}.nii.gz", mask, phantom.case.grid)
        write_json(building / "phantom.json", {"phase": phantom.phase})
        building.rename(directory / phantom.case.id)
    finally:
        shutil.rmtree(building, ignore_errors=True)
