"""What a file is, by its bytes and not by its name."""

from __future__ import annotations

import gzip
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path

from ctune.data.dicom_seg import SEGMENTATION
from ctune.data.dicom_series import is_dicom, read_file
from ctune.data.nrrd import is_nrrd
from ctune.data.zipped import is_zip
from ctune.errors import ImageFileError

NIFTI_NAME = re.compile(r"\.nii(\.gz)?$", re.IGNORECASE)
_SUFFIXES = re.compile(r"(\.nii(\.gz)?|(\.seg)?\.nrrd|\.nhdr|\.zip|\.dcm)$", re.IGNORECASE)
_GZIP = b"\x1f\x8b"
# The size of a NIfTI-1 or NIfTI-2 header, in either order of bytes.
_NIFTI = (b"\x5c\x01\0\0", b"\0\0\x01\x5c", b"\x1c\x02\0\0", b"\0\0\x02\x1c")


class Kind(StrEnum):
    """What a path holds."""

    NIFTI = "nifti"
    NRRD = "nrrd"
    DICOM = "dicom"
    DICOM_SEG = "dicom-seg"
    ZIP = "zip"
    FOLDER = "folder"


def kind_of(path: Path) -> Kind:
    """What `path` holds, by its first bytes. Raises ImageFileError for what ctune does not read."""
    if path.is_dir():
        return Kind.FOLDER
    if is_zip(path):
        return Kind.ZIP
    if is_nrrd(path):
        return Kind.NRRD
    if is_dicom(path):
        head = read_file(path, specific_tags=["SOPClassUID"], stop_before_pixels=True)
        found = str(head.get("SOPClassUID") or head.file_meta.get("MediaStorageSOPClassUID", ""))
        return Kind.DICOM_SEG if found == SEGMENTATION else Kind.DICOM
    # A name that says NIfTI is believed: what is wrong with the file is told where it is read.
    if NIFTI_NAME.search(path.name) or (path.is_file() and _is_nifti(path)):
        return Kind.NIFTI
    if not path.is_file():
        raise ImageFileError(f"expected an image, found no file {path}; check the path")
    raise ImageFileError(
        f"expected NIfTI, NRRD, DICOM or a zip archive of DICOM slices, got none of them in {path}; convert it"
    )


def stem_of(path: Path) -> str:
    """The name of a file or folder without what tells its format.

    >>> stem_of(Path("liver 7.seg.nrrd"))
    'liver 7'
    """
    return _SUFFIXES.sub("", path.absolute().name)


@contextmanager
def named_nifti(path: Path) -> Iterator[Path]:
    """`path`, or a link to it with a suffix that nibabel knows: an upload may have any name."""
    if NIFTI_NAME.search(path.name):
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="ctune-nifti-") as folder:
        link = Path(folder) / f"{path.name}{'.nii.gz' if _head(path)[:2] == _GZIP else '.nii'}"
        link.symlink_to(path.absolute())
        yield link


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(4)


def _is_nifti(path: Path) -> bool:
    head = _head(path)
    if head[:2] == _GZIP:
        try:
            with gzip.open(path) as file:
                head = file.read(4)
        except (OSError, EOFError):
            return False
    return head in _NIFTI
