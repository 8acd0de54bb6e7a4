"""From what a user names (files, folders, archives, DICOM series) to cases with ids."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ctune.data.dicom_series import find_series, is_dicom, read_series
from ctune.data.exchange import Series, read_ct, stem_of
from ctune.data.zipped import is_zip
from ctune.errors import UsageError
from ctune.types import Case

_RESERVED = ("", ".", "..", "volumes.json")
_SUFFIXES = (".nii", ".nii.gz", ".nrrd", ".nhdr", ".zip")


@dataclass(frozen=True, eq=False)
class Input:
    """One CT: its id, what reads it, and its DICOM series where it is one."""

    case_id: str
    load: Callable[[], Case]
    series: Series | None = None


def find_inputs(paths: Sequence[Path]) -> list[Input]:
    """The CTs that `paths` mean, in that order; ids are the names of files, or of folders.

    A file is a NIfTI or NRRD image, or a zip archive of one DICOM series. A folder holds such files or one or more DICOM
    series; or folders of cases, each with ``ct.nii.gz`` (or .nii, .nrrd) or a DICOM series. Raises UsageError when a path holds no CT, two CTs get the same id, or an id
    could not be a folder beside the others.
    """
    found = [one for path in paths for one in _of_path(path)]
    for one in found:
        if one.case_id in _RESERVED:
            raise UsageError(
                f"expected a CT whose name could be that of its folder of results, got {one.case_id!r}; rename the file"
            )
    doubled = [case_id for case_id, count in Counter(one.case_id for one in found).items() if count > 1]
    if doubled:
        raise UsageError(
            f"expected CT files of different names, got {sorted(doubled)[0]!r} more than once; predict them into different folders"
        )
    return found


def _of_path(path: Path) -> list[Input]:
    if not path.is_dir():
        return [_image(path, stem_of(path))]
    here = _of_folder(path)
    if not here:
        inner = sorted(p for p in path.iterdir() if p.is_dir() and not p.name.startswith("."))
        here = [one for folder in inner for one in _of_case(folder)]
    if not here:
        raise UsageError(
            f"expected CTs in {path}, found none; a folder holds NIfTI or NRRD images, zipped or plain DICOM series, or "
            "folders of cases with ct.nii.gz or a DICOM series"
        )
    return here


def _of_folder(folder: Path) -> list[Input]:
    images = sorted(p for p in folder.iterdir() if _is_image(p))
    return [_image(p, stem_of(p)) for p in images] or _series(folder)


def _of_case(folder: Path) -> list[Input]:
    """A folder of one case: only its CT counts, masks lie beside it."""
    for suffix in _SUFFIXES:
        if (folder / f"ct{suffix}").is_file():
            return [_image(folder / f"ct{suffix}", folder.name)]
    return _series(folder)


def _series(folder: Path) -> list[Input]:
    # Looked at one by one: libraries for DICOM are an extra, needed only where a file says that it is DICOM.
    if not any(is_dicom(path) for path in folder.iterdir()):
        return []
    found, name = find_series(folder), folder.resolve().name
    ids = [name] if len(found) == 1 else [f"{name}_{number + 1}" for number in range(len(found))]
    return [Input(i, partial(read_series, files, i), files) for i, files in zip(ids, found, strict=True)]


def _image(path: Path, case_id: str) -> Input:
    return Input(case_id, partial(read_ct, path, case_id), path if is_zip(path) else None)


def _is_image(path: Path) -> bool:
    name = path.name.lower()
    return path.is_file() and name.endswith(_SUFFIXES) and not name.startswith(".") and ".seg." not in name
