"""Cases of a data set in other programs' formats: CTs that become NIfTI on the way into the pool, files of named segments."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ctune.data.dicom_seg import segment_names
from ctune.data.dicom_series import find_series, is_dicom
from ctune.data.exchange import read_ct
from ctune.data.found import FoundCase
from ctune.data.kinds import Kind, kind_of
from ctune.data.labels import TOTALSEGMENTATOR, Labels, split_ignore
from ctune.data.nifti import write_volume
from ctune.data.nrrd import is_nrrd
from ctune.data.seg_nrrd import names_in
from ctune.data.segmentations import table_of
from ctune.data.zipped import is_zip
from ctune.errors import DataError, LabelError, UsageError
from ctune.types import Volume

NAMELESS = "expected names for the numbers in"
"""How the error begins that a label map without a table raises."""


def is_foreign_ct(path: Path) -> bool:
    """Whether a path is a CT that is no NIfTI file: NRRD, an archive, or a folder of DICOM slices."""
    return is_nrrd(path) or is_zip(path) or holds_series(path)


def holds_series(folder: Path) -> bool:
    """Whether DICOM slices of a CT lie directly in a folder."""
    # Looked at one by one: libraries for DICOM are an extra, needed only where a file says that it is DICOM.
    return folder.is_dir() and any(is_dicom(path) for path in folder.iterdir()) and bool(find_series(folder))


@contextmanager
def as_nifti(case: FoundCase) -> Iterator[FoundCase]:
    """The case with its CT as a NIfTI file, which is gone when the block ends; `taken_from` says where the CT came from.

    The same CT gives the same bytes: numbers are stored as int16 where that loses nothing. Raises what ``read_ct`` raises,
    a fault of this one case as DataError.
    """
    if case.image is None or not is_foreign_ct(case.image):
        yield case
        return
    with tempfile.TemporaryDirectory(prefix="ctune-ct-") as folder:
        try:
            ct = read_ct(case.image, case.id)
        except UsageError as error:
            raise DataError(str(error)) from None
        path = Path(folder) / "ct.nii.gz"
        write_volume(path, _stored(ct.volume), ct.grid)
        yield replace(case, image=path, taken_from=case.image)


def labels_in(path: Path, wished: Labels | None, own: Labels | None, what: str) -> dict[str, Any]:
    """The fields of a FoundCase that say what is in a file of labels: segments with names, or numbers and their table.

    `wished` is a person's table, `own` that of the data set; without either, the table beside the file is taken. `what` is
    what messages call it. Raises LabelError when nothing names the numbers, ImageFileError and DataError for a header or a
    table that does not read, OSError.
    """
    if path.is_file() and (names := _segments(path, what)):
        return {"segmentation": path, "segments": names}
    if wished is None and own is None:
        own = table_of(path)
    if wished is None and own is None:
        raise LabelError(f"{what}: {NAMELESS} {path}, got none; give --labels, such as 1=spleen,63=postcava")
    classes, ignored = split_ignore(wished or own or {})
    # Whoever names some numbers wants just those; a data set's own table is held to be whole.
    complete = wished is None or wished is TOTALSEGMENTATOR
    return {"label_map": path, "labels": classes, "complete": complete, "ignore": ignored}


def _segments(path: Path, what: str) -> tuple[str, ...]:
    if is_nrrd(path):
        return names_in(path, what)
    if is_dicom(path) and kind_of(path) is Kind.DICOM_SEG:
        return segment_names(path, what)
    return ()


def _stored(volume: Volume) -> npt.NDArray[Any]:
    if volume.min() >= -(2**15) and volume.max() < 2**15 and np.array_equal(volume, np.rint(volume)):
        return volume.astype(np.int16)
    return volume
