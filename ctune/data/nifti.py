"""NIfTI files in and out: arrays as they are stored, the affine beside them, and one clear line for every bad file.

Nothing is reoriented here. An image is read on its own grid (X, Y, Z in file order) and written back on the CT's grid and
affine. The affine is the sform where it is set, else the qform (NIfTI-1 standard, "method 3" before "method 2").
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
from nibabel import imageglobals
from nibabel.arrayproxy import ArrayProxy
from nibabel.filebasedimages import ImageFileError as NibabelError
from nibabel.spatialimages import HeaderDataError

from ctune.data.files import write_atomically
from ctune.data.gzipped import DAMAGED, gunzipped, gzipping
from ctune.errors import GeometryError, ImageFileError, LabelError
from ctune.types import UNLABELLED, Affine, Case, Grid, Mask, Probabilities, Volume

_BLOCK = 2**20
_MANY = 2**16
_LFS = b"version https://git-lfs"
_BROKEN = (EOFError, OSError, *DAMAGED, ValueError, NibabelError, HeaderDataError)


def read_case(path: Path, case_id: str) -> Case:
    """Read a CT: float32, HU for CT, voxels in file order.

    Raises ImageFileError (missing, empty, truncated, not NIfTI, not three-dimensional, NaN) and GeometryError (an affine
    that is no grid).
    """
    what = f"case {case_id}"
    image = _open(path, what)
    grid = _grid(image, path, what)
    volume: Volume = np.asarray(_data(image, path, what, np.float32), dtype=np.float32)
    if not np.isfinite(volume).all():
        count = int((~np.isfinite(volume)).sum())
        raise ImageFileError(
            f"{what}: expected finite intensities, got {count} NaN or infinite voxels in {path}; repair or leave the case out"
        )
    return Case(case_id, volume, grid)


def read_grid(path: Path, case_id: str) -> Grid:
    """The grid of an image, from its header alone. Raises as ``read_case`` does."""
    what = f"case {case_id}"
    return _grid(_open(path, what), path, what)


def read_labels(path: Path, grid: Grid, what: str) -> npt.NDArray[np.int32]:
    """A label map (X, Y, Z) int32 on `grid`; `what` names it in messages, e.g. "case 7, liver".

    Float files with integral values are accepted. Raises ImageFileError, LabelError for other values, and GeometryError
    when the file lies on another grid than the CT's.
    """
    return _integers(path, grid, what).astype(np.int32)


def _integers(path: Path, grid: Grid, what: str) -> npt.NDArray[np.integer[Any]]:
    """As ``read_labels``, in the type that the file has where that is integral."""
    image = _open(path, what)
    check_same_grid(_grid(image, path, what), grid, what, path)
    # As stored, not as float32: that would round label ids above 2^24.
    stored = _data(image, path, what)
    if stored.dtype.kind == "f" and not np.array_equal(stored, whole := np.rint(stored)):
        bad = stored[stored != whole].flat[0]
        raise LabelError(
            f"{what}: expected integral labels, got {bad:g} in {path}; export the mask as integers"
        )
    if stored.min() < 0 or stored.max() > np.iinfo(np.int32).max:
        raise LabelError(
            f"{what}: expected labels from 0 upwards, got {stored.min():g} to {stored.max():g} in {path}; export the mask again"
        )
    return stored.astype(np.int32) if stored.dtype.kind not in "iu" else stored


def read_mask(path: Path, grid: Grid, what: str) -> Mask:
    """The mask of one class on `grid`: 0, 1, or UNLABELLED (255) where nobody has judged. Raises as ``read_labels``.

    A file of 0 and 255 alone, as drawing programs write, is not guessed at: it is refused as LabelError when it has no 1.
    """
    labels = _integers(path, grid, what)
    values = label_values(labels)
    if not values <= {0, 1, UNLABELLED} or values == {0, UNLABELLED}:
        raise LabelError(
            f"{what}: expected a mask of 0 and 1 (255 where not judged), got values {sorted(values)[:6]} in {path}; "
            "write one class as 1"
        )
    # As stored: most masks are bytes, and four bytes a voxel of a large CT take half a second to make.
    return labels.astype(np.uint8, copy=False)


def label_values(labels: npt.NDArray[np.integer[Any]]) -> set[int]:
    """The numbers that occur in a label map (X, Y, Z) of numbers from 0 upwards; no sorting, one slice at a time."""
    top, low = int(labels.max()), int(labels.min())
    if top - low <= 1:
        return {low, top}
    if top >= _MANY:
        return set(np.unique(labels).tolist())
    there = np.zeros(top + 1, dtype=bool)
    for z in range(labels.shape[2]):
        there[labels[:, :, z]] = True
    return set(np.flatnonzero(there).tolist())


def check_whole(path: Path, what: str) -> None:
    """Read a file to its end: as many bytes as its header promises must come out, and gzip's checksum must hold.

    Reading the voxels alone stops before the checksum, so that a flipped bit would pass. Memory: one block.
    Raises ImageFileError.
    """
    image = _open(path, what)
    promised = int(image.dataobj.offset) + int(np.prod(image.shape, dtype=object)) * int(
        image.get_data_dtype().itemsize
    )
    try:
        with gunzipped(path) if path.name.lower().endswith(".gz") else path.open("rb") as file:
            came = sum(len(block) for block in iter(lambda: file.read(_BLOCK), b""))
    except _BROKEN as error:
        raise ImageFileError(
            f"{what}: expected a whole image in {path}, got one that is cut short or damaged ({_line(error)}); copy it again"
        ) from None
    if came < promised:
        raise ImageFileError(
            f"{what}: expected {promised} bytes of image in {path}, got {came}; it is cut short, copy it again"
        )


def check_same_grid(got: Grid, expected: Grid, what: str, path: Path) -> None:
    """Raise GeometryError, with both grids in words, unless both put every voxel at the same world position."""
    if not expected.matches(got):
        raise GeometryError(
            f"{what}: expected the CT's grid ({expected.describe()}), got ({got.describe()}) in {path}; "
            "resample the labels onto the CT or correct the header that is wrong"
        )


def write_mask(path: Path, mask: Mask, grid: Grid) -> None:
    """Write a mask (X, Y, Z) uint8 on `grid`; the same mask gives the same bytes."""
    _write(path, np.asarray(mask, dtype=np.uint8), grid)


def write_volume(path: Path, volume: npt.NDArray[Any], grid: Grid) -> None:
    """Write a volume (X, Y, Z) in its own dtype on `grid`; the same volume gives the same bytes."""
    _write(path, volume, grid)


def write_probabilities(path: Path, probabilities: Probabilities, grid: Grid) -> None:
    """Write (K, X, Y, Z) in [0, 1] as (X, Y, Z, K) uint8 in steps of 1/255."""
    # K voxels of the fourth axis at a time: no float copy of the whole.
    stored = np.empty((*probabilities.shape[1:], probabilities.shape[0]), dtype=np.uint8)
    for k, channel in enumerate(probabilities):
        stored[..., k] = np.rint(channel * 255.0)
    _write(path, stored, grid, slope=1.0 / 255.0)


def read_probabilities(path: Path, grid: Grid) -> Probabilities:
    """What ``write_probabilities`` wrote, (K, X, Y, Z) float32."""
    image = _open(path, str(path), dimensions=4)
    check_same_grid(_grid(image, path, str(path)), grid, str(path), path)
    stored = np.asarray(image.dataobj.get_unscaled())
    stored = stored.reshape(*grid.shape, -1)
    return np.ascontiguousarray(np.moveaxis(stored, -1, 0), dtype=np.float32) / np.float32(255.0)


def header_notes(path: Path) -> list[str]:
    """What is odd about a header but no reason to refuse it: qform and sform that disagree, or neither set."""
    image = _open(path, str(path))
    s, q = image.header.get_sform(coded=True), image.header.get_qform(coded=True)
    if s[0] is None and q[0] is None:
        return ["neither sform nor qform is set: orientation is assumed, left and right may be swapped"]
    if s[0] is not None and q[0] is not None:
        shape = tuple(image.shape[:3])
        if not Grid(shape, s[0]).matches(Grid(shape, q[0])):
            return [f"sform and qform disagree; the sform is used ({Grid(shape, s[0]).describe()})"]
    return []


def _open(path: Path, what: str, dimensions: int = 3) -> Any:
    if not path.is_file():
        raise ImageFileError(f"{what}: expected an image, found no file {path}; check the path")
    with path.open("rb") as file:
        head = file.read(len(_LFS))
    if not head:
        raise ImageFileError(f"{what}: expected an image, got an empty file {path}; copy it again")
    if head == _LFS:
        raise ImageFileError(
            f"{what}: expected an image, got a Git LFS pointer in {path}; run `git lfs pull` there"
        )
    try:
        with _quiet_nibabel():
            image: Any = nib.load(path)
    except _BROKEN as error:
        raise ImageFileError(
            f"{what}: expected a NIfTI image in {path}, got a file that is none or is cut short ({_line(error)}); copy it again"
        ) from None
    if not isinstance(image, nib.Nifti1Image | nib.Nifti2Image):
        raise ImageFileError(
            f"{what}: expected a NIfTI image, got {type(image).__name__} in {path}; convert it"
        )
    if image.get_data_dtype().kind not in "iuf":
        raise ImageFileError(
            f"{what}: expected one number a voxel, got {image.get_data_dtype()} in {path}; convert it"
        )
    shape = image.shape[:dimensions] if all(n == 1 for n in image.shape[dimensions:]) else image.shape
    if dimensions == 3 and (len(shape) != 3 or min(shape) < 1):
        raise ImageFileError(
            f"{what}: expected a three-dimensional image, got shape {image.shape} in {path}; give one volume"
        )
    return image


@contextmanager
def _quiet_nibabel() -> Iterator[None]:
    # nibabel tells the terminal what it mends in a header; here a fault is an error or nothing.
    logger = imageglobals.logger
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before


def _grid(image: Any, path: Path, what: str) -> Grid:
    affine: Affine = np.asarray(image.affine, dtype=np.float64)
    grid = Grid(tuple(image.shape[:3]), affine)
    zooms = _stored_spacing(image)
    coded = image.header["sform_code"] > 0
    if not np.isfinite(affine).all() or (not coded and not (np.isfinite(zooms).all() and (zooms > 0).all())):
        raise GeometryError(
            f"{what}: expected a spacing above 0 along every axis, got {zooms.tolist()} mm in {path}; repair the header"
        )
    spacing = np.array(grid.spacing_mm)
    if (spacing <= 0).any() or abs(np.linalg.det(affine[:3, :3] / spacing)) < 1e-3:
        raise GeometryError(
            f"{what}: expected an affine with three independent axes, got spacing {spacing.tolist()} mm and axes {affine[:3, :3].tolist()} in {path}; repair the header"
        )
    return grid


def _stored_spacing(image: Any) -> npt.NDArray[np.float64]:
    # nibabel mends a spacing of zero to 1 while it reads a header: read it once more, as it is stored.
    with image.file_map["image"].get_prepare_fileobj("rb") as file:
        stored = type(image.header).from_fileobj(file, check=False)
    return np.asarray(stored["pixdim"][1:4], dtype=np.float64)


def _data(image: Any, path: Path, what: str, dtype: type | None = None) -> npt.NDArray[Any]:
    """The voxels as floats of `dtype`, or as they are stored (scaled where the header says so)."""
    try:
        # A number too large for `dtype` becomes infinite, which is told where it matters.
        with np.errstate(over="ignore"):
            if path.name.lower().endswith(".gz"):
                data = _unpacked(image, path, dtype)
            else:
                data = (
                    image.get_fdata(dtype=dtype, caching="unchanged") if dtype else np.asarray(image.dataobj)
                )
    except _BROKEN as error:
        raise ImageFileError(
            f"{what}: expected a whole image in {path}, got one that is cut short or damaged ({_line(error)}); copy it again"
        ) from None
    return data.reshape(image.shape[:3])


def _unpacked(image: Any, path: Path, dtype: type | None) -> npt.NDArray[Any]:
    """As ``_data``, of a gzip file that is read to its end: the checksum stands behind the voxels, and nibabel stops before it."""
    stored = image.dataobj
    with gunzipped(path) as file:
        # A second image would hold its voxels in a circle of references, until the next look for garbage.
        proxy = ArrayProxy(file, (stored.shape, stored.dtype, stored.offset, stored.slope, stored.inter))
        data: npt.NDArray[Any] = np.asarray(proxy, dtype)
        while file.read(_BLOCK):
            pass
    return data


def _write(path: Path, data: npt.NDArray[Any], grid: Grid, slope: float | None = None) -> None:
    if data.shape[:3] != grid.shape:
        raise GeometryError(
            f"expected an array of the grid's shape {grid.shape}, got {data.shape} for {path}"
        )
    header = header_bytes(grid, data.dtype, data.shape[3] if data.ndim == 4 else None, slope)
    with write_atomically(path) as temporary, ExitStack() as opened:
        file: Any = opened.enter_context(temporary.open("wb"))
        if path.suffix == ".gz":
            # No time and no name in the gzip header: the same image gives the same bytes.
            file = opened.enter_context(gzipping(file))
        file.write(header)
        file.write(np.asfortranarray(data).tobytes(order="F"))


def header_bytes(
    grid: Grid, dtype: npt.DTypeLike, channels: int | None = None, slope: float | None = None
) -> bytes:
    """What stands in a NIfTI file before the voxels: for an image on `grid`, with a fourth axis of `channels` or without.

    slope: stored value -> value. Voxels follow with X fastest, channels slowest.
    """
    shape = grid.shape if channels is None else (*grid.shape, channels)
    # An array that takes no memory: nibabel reads its shape and type.
    image = nib.Nifti1Image(np.broadcast_to(np.zeros((), dtype=dtype), shape), grid.affine)
    image.header.set_data_dtype(dtype)
    image.header.set_xyzt_units("mm")
    image.set_sform(grid.affine, code="scanner")
    # A qform holds rotations only; for a sheared grid it would tell another geometry than the sform.
    image.set_qform(grid.affine, code="scanner", strip_shears=True)
    if not Grid(grid.shape, image.get_qform()).matches(grid):
        image.header["qform_code"] = 0
    if slope is not None:
        image.header.set_slope_inter(slope, 0.0)
    image.header["vox_offset"] = 352
    return bytes(image.header.binaryblock) + b"\0\0\0\0"


def _line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:120]
