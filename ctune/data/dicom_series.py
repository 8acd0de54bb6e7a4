"""CT series in DICOM, read through pydicom and highdicom (extra ``dicom``): slices in order, HU, on the scanner's own grid.

highdicom sorts slices by position and refuses series that are no regular volume; this file finds series and turns DICOM's
patient axes (left, posterior, superior) into those of NIfTI (right, anterior, superior).
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from ctune.errors import GeometryError, ImageFileError, UsageError
from ctune.types import Case, Grid

_T = TypeVar("_T")
TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
"""DICOM's patient space (left, posterior, superior) to NIfTI's."""
_MAY_BE_EMPTY = (
    "PatientID", "PatientName", "PatientBirthDate", "PatientSex", "StudyID", "StudyDate", "StudyTime", "AccessionNumber",
)  # fmt: skip
"""Attributes of patient and study that a file has to have, with or without a value (PS3.3, type 2)."""
_ABOUT = ["SeriesInstanceUID", "Modality", "SeriesNumber"]
_DEFLATED = "1.2.840.10008.1.2.1.99"
"""The one transfer syntax that packs the whole data set, not the pixels alone (PS3.5, A.5)."""
_MOST_INFLATED = 2**31
"""Bytes that such a data set may unpack to; a CT of a thousand frames in one file has a quarter of it."""
_BLOCK = 2**20


def is_dicom(path: Path) -> bool:
    """Whether a file says of itself that it is DICOM (part 10); names tell nothing."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        file.seek(128)
        return file.read(4) == b"DICM"


def is_deflated(path: Path) -> bool:
    """Whether the data set of a DICOM file is packed as a whole: of it nothing can be read before all is unpacked.

    Raises ImageFileError for a file that cannot be read, UsageError without the extra.
    """
    return _told(path, lambda pydicom: _packed_from(pydicom, path) is not None)


def read_file(path: Path, **how: Any) -> Any:
    """``pydicom.dcmread(path, **how)``, after a look at what it would unpack.

    Raises ImageFileError for a file that cannot be read, and for one of a few kilobytes that unpacks to gigabytes.
    """
    return _told(path, lambda pydicom: _read(pydicom, path, **how))


def _read(pydicom: Any, path: Path, **how: Any) -> Any:
    start = _packed_from(pydicom, path)
    if start is not None and _inflates_beyond(path, start, _MOST_INFLATED):
        raise ValueError(f"it unpacks to more than {_MOST_INFLATED} bytes")
    return pydicom.dcmread(path, **how)


def _told(path: Path, how: Callable[[Any], _T]) -> _T:
    pydicom = import_pydicom()
    try:
        return how(pydicom)
    except Exception as error:
        raise ImageFileError(
            f"expected a DICOM file in {path}, got one that cannot be read ({_line(error)}); export the series again"
        ) from None


def _packed_from(pydicom: Any, path: Path) -> int | None:
    """Where the deflated data set of a file begins, None for one that is not deflated."""
    meta = pydicom.filereader.read_file_meta_info(path)
    if meta.get("TransferSyntaxUID") != _DEFLATED:
        return None
    implicit, _ = meta.original_encoding
    with path.open("rb") as file:
        file.seek(132)
        # Once more and to the same end: what the head says of its own length need not be true.
        pydicom.filereader.read_dataset(file, implicit, True, stop_when=lambda tag, *_: tag >> 16 != 2)
        return file.tell()


def _inflates_beyond(path: Path, start: int, most: int) -> bool:
    came, inflate = 0, zlib.decompressobj(-zlib.MAX_WBITS)
    with path.open("rb") as file:
        file.seek(start)
        while came <= most and not inflate.eof:
            packed = inflate.unconsumed_tail or file.read(_BLOCK)
            block = inflate.decompress(packed, _BLOCK)
            if not packed and not block:
                break
            came += len(block)
    return came > most


def find_series(folder: Path) -> list[list[Path]]:
    """The image series directly in `folder`, each as its files, in the order of their series numbers.

    What holds no slices of an image (segmentations, reports) is left out. Raises UsageError without the extra,
    ImageFileError for a file that cannot be read.
    """
    import_pydicom()
    series: dict[tuple[int, str], list[Path]] = {}
    for path in sorted(folder.iterdir()):
        if is_dicom(path):
            head = read_file(path, specific_tags=_ABOUT, stop_before_pixels=True)
            if head.get("Modality") in ("CT", "MR", "PT"):
                key = (int(head.get("SeriesNumber") or 0), str(head.get("SeriesInstanceUID", "")))
                series.setdefault(key, []).append(path)
    return [series[key] for key in sorted(series)]


def read_series(files: Sequence[Path], case_id: str) -> Case:
    """Read a series as one volume: float32, HU for CT, axes column, row, slice.

    Raises ImageFileError for files that cannot be read or decoded, GeometryError for slices that are no regular volume
    (one is missing, spacing varies, the gantry is tilted).
    """
    pydicom, where = import_pydicom(), files[0].parent
    try:
        slices = [_read(pydicom, path) for path in files]
        for one in slices:
            # Some anonymisers empty it in the data set and leave it in the file's head.
            one.SOPClassUID = one.get("SOPClassUID") or one.file_meta.MediaStorageSOPClassUID
    except Exception as error:
        raise ImageFileError(
            f"case {case_id}: expected DICOM slices in {where}, got one that cannot be read ({_line(error)}); export the series again"
        ) from None
    volume = _volume(slices, case_id, where)
    del slices
    # Columns fastest, as they are in the files and as NIfTI has them: no copy.
    array = np.asarray(volume.array, dtype=np.float32).transpose(2, 1, 0)
    # Slices, rows, columns in LPS -> columns, rows, slices in RAS.
    affine = TO_RAS @ np.asarray(volume.affine, dtype=np.float64)[:, [2, 1, 0, 3]]
    if not np.isfinite(array).all():
        raise ImageFileError(
            f"case {case_id}: expected finite intensities in {where}, got NaN; export the series again"
        )
    return Case(case_id, array, Grid(array.shape, affine))


def series_headers(files: Sequence[Path], what: str) -> list[Any]:
    """The data sets of a series without their pixels, for what refers to them. Raises ImageFileError."""
    pydicom = import_pydicom()
    try:
        heads = [_read(pydicom, path, stop_before_pixels=True) for path in files]
        for one in heads:
            _complete(one)
    except Exception as error:
        raise ImageFileError(
            f"{what}: expected DICOM slices in {files[0].parent}, got one that cannot be read ({_line(error)}); export the series again"
        ) from None
    return heads


def _complete(head: Any) -> None:
    """Mend what anonymisers leave: emptied identifiers stand in the file's head, and what may be empty must still be there."""
    head.SOPClassUID = head.get("SOPClassUID") or head.file_meta.MediaStorageSOPClassUID
    head.SOPInstanceUID = head.get("SOPInstanceUID") or head.file_meta.MediaStorageSOPInstanceUID
    for keyword in _MAY_BE_EMPTY:
        if keyword not in head:
            setattr(head, keyword, "")
    if str(head.PatientSex) not in ("M", "F", "O"):
        head.PatientSex = ""
    if "SpecificCharacterSet" in head and not head.SpecificCharacterSet:
        del head.SpecificCharacterSet


def _volume(slices: list[Any], case_id: str, where: Path) -> Any:
    import highdicom

    if len(slices) < 2:
        raise GeometryError(
            f"case {case_id}: expected a series of two slices or more in {where}, got {len(slices)}; export the whole series"
        )
    try:
        return highdicom.get_volume_from_series(slices, dtype=np.float32)
    except (ValueError, RuntimeError, KeyError, AttributeError, NotImplementedError) as error:
        kind = (
            ImageFileError
            if "decod" in str(error).lower() or "decompress" in str(error).lower()
            else GeometryError
        )
        raise kind(
            f"case {case_id}: expected a series that is one regular volume in {where}, got {len(slices)} slices that are "
            f"not ({_line(error)}); export the whole series, resampled where the gantry was tilted"
        ) from None


def import_pydicom() -> Any:
    """pydicom, with highdicom beside it. Raises UsageError without the extra."""
    try:
        import highdicom  # noqa: F401
        import pydicom
    except ImportError:
        raise UsageError(
            "expected the extra 'dicom' for DICOM series, found neither pydicom nor highdicom; "
            "run `pip install 'ctune[dicom]'` or convert the series to NIfTI"
        ) from None
    return pydicom


def _line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:160]
