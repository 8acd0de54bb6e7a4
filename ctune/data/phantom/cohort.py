"""Write a cohort of phantoms in TotalSegmentator's layout: DIR/<case>/ct.nii.gz and segmentations/<class>.nii.gz."""

from __future__ import annotations

import shutil
from pathlib import Path
from uuid import uuid4

from ctune.data.files import read_json, sync_folder, write_json
from ctune.data.nifti import write_mask, write_volume
from ctune.data.phantom.scan import SIZES, Phantom, make_phantom
from ctune.errors import UsageError
from ctune.types import OnProgress, Progress, silent

VERSION = 2
"""Of the phantoms themselves: it changes when the same seed gives other bytes than before."""

ABOUT = "phantom.json"
"""Of a cohort: seed, size and version. Of a case: the contrast phase and what is absent.

Not ``dataset.json``, which would make the folder a Decathlon data set.
"""


def write_cohort(
    directory: Path, cases: int, seed: int, size: str = "small", on_progress: OnProgress = silent
) -> list[str]:
    """Write `cases` phantoms and return their ids. Cases that are there already stay as they are.

    The same seed and size give the same bytes; case i does not depend on `cases`. The CT is int16 HU, each mask uint8;
    the mask of an organ that the patient lacks is written and empty: it was looked for. Raises UsageError for an
    unknown size, for fewer than one case, and for a folder that holds a cohort of another seed, size or version.
    """
    if size not in SIZES:
        raise UsageError(f"expected a size of {', '.join(SIZES)}; got {size!r}")
    if cases < 1 or seed < 0:
        raise UsageError(
            f"expected at least one case and a seed of 0 or more; got {cases} cases, seed {seed}"
        )
    _same_cohort(directory, {"seed": seed, "size": size, "version": VERSION})
    ids = []
    for index in range(cases):
        case_id = f"phantom_{index:04d}"
        if not (directory / case_id).exists():
            _write_case(directory, make_phantom(seed, index, size))
        ids.append(case_id)
        on_progress(Progress("phantom", index + 1, cases, case_id))
    return ids


def _same_cohort(directory: Path, about: dict[str, object]) -> None:
    path = directory / ABOUT
    if not path.exists():
        write_json(path, about)
    elif (found := read_json(path)) != about:
        raise UsageError(
            f"expected an empty folder or the cohort {about} in {directory}, found {found}; choose another folder"
        )


def _write_case(directory: Path, phantom: Phantom) -> None:
    # Built under a temporary name and renamed: a cohort never holds half a case.
    building = directory / f".{uuid4().hex[:12]}.tmp"
    absent = []
    try:
        write_volume(building / "ct.nii.gz", phantom.case.volume.astype("int16"), phantom.case.grid)
        for name, mask in phantom.masks.items():
            write_mask(building / "segmentations" / f"{name}.nii.gz", mask, phantom.case.grid)
            absent += [] if mask.any() else [name]
        write_json(building / ABOUT, {"phase": phantom.phase, "absent": absent})
        building.rename(directory / phantom.case.id)
        sync_folder(directory)
    finally:
        shutil.rmtree(building, ignore_errors=True)
