"""From the bytes of a stranger to a CT on disk, within limits: nothing is unpacked further than its header may promise.

A gzip file of a few kilobytes can hold terabytes, and a header of 348 bytes can promise as much: the header is read first, from
the first bytes that come out, and then no more than it promises within the limits.
"""

from __future__ import annotations

import gzip
import io
import math
import re
import shutil
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO

import nibabel as nib
from nibabel.spatialimages import HeaderDataError

from ctune.config import Preprocessing
from ctune.data.dicom_series import is_deflated, is_dicom, read_file, read_series
from ctune.data.exchange import Limits as ArchiveLimits
from ctune.data.exchange import read_ct, series_files
from ctune.data.nifti import read_case
from ctune.data.zipped import unpacked
from ctune.errors import ImageFileError
from ctune.serve.faults import Refused
from ctune.types import Case

_GZIP = b"\x1f\x8b"
_ZIP = b"PK"
_NRRD = b"NRRD"
_HEADER = 540
_NRRD_HEADER = 2**16
_MOST_EXTENSION = 2**20
_SLACK = 2**16
_BLOCK = 2**20
_BROKEN = (
    EOFError, OSError, zlib.error, gzip.BadGzipFile, ValueError, KeyError, OverflowError, HeaderDataError,
)  # fmt: skip


@dataclass(frozen=True)
class Limits:
    """What one request may bring. voxels: of the CT, and of the network's grid that it is brought to."""

    upload_bytes: int = 2**30
    voxels: int = 400_000_000
    axis: int = 4096

    @property
    def archive(self) -> ArchiveLimits:
        """Of a zipped series: a slice a file, at most eight bytes a voxel."""
        return ArchiveLimits(entries=2 * self.axis, bytes=8 * self.voxels)


@dataclass(frozen=True, eq=False)
class Taken:
    """A CT on disk. load: reads it. series: the folder of its DICOM slices, if that is what came."""

    load: Callable[[], Case]
    series: Path | None = None


@contextmanager
def taken(upload: BinaryIO, folder: Path, limits: Limits, check: Callable[[], None]) -> Iterator[Taken]:
    """The CT of `upload`, by its bytes: NIfTI, NRRD or a zipped DICOM series, unpacked below `folder`.

    Raises as ``take_nifti`` does, and UsageError when a series is none or an extra is missing.
    """
    if _begins(upload, _ZIP):
        path = _copied(upload, folder / "ct.zip")
        with unpacked(path, "the upload", limits.archive) as slices:
            # Before any of them is looked into: what is deflated cannot be, without unpacking it whole.
            _check_packing(slices)
            with series_files(slices, "the upload") as files:
                _check_series(files, limits)
                yield Taken(partial(read_series, files, "upload"), files[0].parent)
    elif _begins(upload, _NRRD):
        _check_nrrd(upload.read(_NRRD_HEADER), limits)
        yield Taken(partial(read_ct, _copied(upload, folder / "ct.nrrd"), "upload"))
    else:
        yield Taken(partial(read_case, take_nifti(upload, folder, limits, check), "upload"))


def take_nifti(upload: BinaryIO, folder: Path, limits: Limits, check: Callable[[], None]) -> Path:
    """Write the NIfTI image of `upload` (plain or gzip) unpacked to `folder` and return where.

    check: called between blocks; raises to stop. Raises ImageFileError for what is no three-dimensional NIfTI image or is cut
    short, Refused (413) for more than the limits.
    """
    plain = gzip.GzipFile(fileobj=upload) if _begins(upload, _GZIP) else upload
    try:
        head = plain.read(_HEADER)
        promised = _promised(head, limits)
        path = folder / "ct.nii"
        with path.open("wb") as file:
            file.write(head[:promised])
            left = promised - len(head)
            while left > 0:
                check()
                block = plain.read(min(_BLOCK, left))
                if not block:
                    raise ImageFileError(
                        f"expected {promised} bytes of image, got {promised - left}; the file is cut short, send it again"
                    )
                file.write(block)
                left -= len(block)
        # To the end: only there gzip's checksum stands.
        if len(plain.read(_SLACK)) >= _SLACK:
            raise ImageFileError(
                f"expected {promised} bytes of image, got more; send one image as it was written"
            )
    except _BROKEN as error:
        raise ImageFileError(
            f"expected a NIfTI image, got one that is none, cut short or damaged ({type(error).__name__}); send it again"
        ) from None
    return path


def check_reach(case: Case, settings: Preprocessing, limits: Limits) -> None:
    """Refuse (413) a CT whose volume in millimetres would be too many voxels on the network's grid."""
    if settings.spacing_mm == "native":
        return
    sizes = zip(case.grid.shape, case.grid.spacing_mm, sorted(settings.spacing_mm)[:1] * 3, strict=True)
    voxels = math.prod(max(1.0, n * mm / step) for n, mm, step in sizes)
    if not voxels <= limits.voxels:
        raise Refused(
            413,
            f"expected a CT of at most {limits.voxels} voxels of {min(settings.spacing_mm):g} mm, got one of "
            f"{voxels:.3g} with a spacing of {', '.join(f'{mm:.4g}' for mm in case.grid.spacing_mm)} mm; correct its header",
        )


def check_shape(shape: tuple[int, ...], limits: Limits) -> None:
    """Raise ImageFileError unless `shape` is one volume, Refused (413) when it is too large."""
    if len(shape) < 3 or any(n != 1 for n in shape[3:]) or min(shape) < 1:
        raise ImageFileError(f"expected a three-dimensional image, got shape {shape}; send one volume")
    voxels = math.prod(shape[:3])
    if voxels > limits.voxels or max(shape) > limits.axis:
        raise Refused(
            413,
            f"expected at most {limits.voxels} voxels and {limits.axis} along an axis, got shape {shape}; crop or resample it",
        )


def _copied(upload: BinaryIO, path: Path) -> Path:
    upload.seek(0)
    with path.open("wb") as file:
        shutil.copyfileobj(upload, file, _BLOCK)
    return path


def _check_nrrd(head: bytes, limits: Limits) -> None:
    """Refuse a header that promises too much, or that points to another file."""
    lines = head.split(b"\n\n", 1)[0].split(b"\r\n\r\n", 1)[0].decode("latin-1")
    if re.search(r"^data ?file\s*:", lines, re.IGNORECASE | re.MULTILINE):
        raise ImageFileError(
            "expected one NRRD file, got a header that names another; save header and data together"
        )
    sizes = re.search(r"^sizes\s*:\s*([0-9 ]+)$", lines.replace("\r", ""), re.IGNORECASE | re.MULTILINE)
    check_shape(tuple(int(n) for n in sizes[1].split()) if sizes else (), limits)


def _check_packing(folder: Path) -> None:
    """Refuse deflated data sets: their headers are packed with the pixels, and a few kilobytes of them can hold gigabytes."""
    for path in sorted(folder.iterdir()):
        if is_dicom(path) and is_deflated(path):
            raise ImageFileError(
                "expected DICOM slices whose headers are not compressed, got one in the transfer syntax Deflated Explicit VR; "
                "export the series in another, such as Explicit VR Little Endian"
            )


def _check_series(files: Sequence[Path], limits: Limits) -> None:
    """Compressed slices unpack to what their headers say: count that first."""
    voxels = 0
    for path in files:
        about = read_file(path, specific_tags=["Rows", "Columns", "NumberOfFrames"], stop_before_pixels=True)
        try:
            sides = [int(about.get(name) or 1) for name in ("Rows", "Columns", "NumberOfFrames")]
        except (TypeError, ValueError, AttributeError):
            raise ImageFileError(
                "expected slices that tell their size, got one that does not; export them again"
            ) from None
        voxels += math.prod(sides)
        check_shape((*sides[:2], max(1, voxels // max(1, math.prod(sides[:2])))), limits)


def _begins(upload: BinaryIO, magic: bytes) -> bool:
    upload.seek(0)
    found = upload.read(len(magic)) == magic
    upload.seek(0)
    return found


def _promised(head: bytes, limits: Limits) -> int:
    """Bytes of the whole unpacked file, by its header."""
    kind = next(
        (k for k in (nib.Nifti1Header, nib.Nifti2Header) if k.may_contain_header(head)),
        None,
    )
    if kind is None:
        raise ImageFileError("expected a NIfTI image (.nii or .nii.gz), got something else; convert it")
    header = kind.from_fileobj(io.BytesIO(head), check=False)
    if bytes(header["magic"])[:3].rstrip(b"\0") not in (b"n+1", b"n+2"):
        raise ImageFileError(
            "expected header and image in one file, got a header alone; send a .nii or .nii.gz"
        )
    shape = tuple(int(n) for n in header["dim"][1 : 1 + min(7, max(0, int(header["dim"][0])))])
    check_shape(shape, limits)
    offset = float(header["vox_offset"])
    if not len(head[:348]) <= offset <= _MOST_EXTENSION:
        raise ImageFileError(
            f"expected the image to begin within {_MOST_EXTENSION} bytes, got {offset:g}; write the file again"
        )
    dtype = header.get_data_dtype()
    if dtype.kind not in "iuf":
        raise ImageFileError(f"expected one number a voxel, got {dtype}; convert it")
    return int(offset) + math.prod(shape) * int(dtype.itemsize)
