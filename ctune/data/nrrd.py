"""NRRD files, read through pynrrd (extra ``nrrd``): arrays as they are stored, and the affine in NIfTI's world (RAS+).

A header from elsewhere may name any file as the place of its voxels and any size: data lie beside the header under a plain
name, and no more is unpacked than the header promises. Format: https://teem.sourceforge.net/nrrd/format.html.
"""

from __future__ import annotations

import bz2
import gzip
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from ctune.data.files import write_atomically
from ctune.errors import GeometryError, ImageFileError, UsageError
from ctune.types import Affine, Case, Grid, Volume

TO_RAS: Mapping[str, tuple[float, float, float]] = {
    "left-posterior-superior": (-1.0, -1.0, 1.0),
    "lps": (-1.0, -1.0, 1.0),
    "right-anterior-superior": (1.0, 1.0, 1.0),
    "ras": (1.0, 1.0, 1.0),
    "left-anterior-superior": (-1.0, 1.0, 1.0),
    "las": (-1.0, 1.0, 1.0),
}
"""Signs that bring a NRRD space to RAS+."""

_BLOCK = 2**20
_PLANES = 16
_MOST = 32 * 2**30
_BROKEN = (EOFError, OSError, ValueError, LookupError, TypeError, AttributeError, StopIteration, zlib.error)
_TYPES = {"uint8": "unsigned char", "int16": "short", "uint16": "unsigned short", "float32": "float"}


def is_nrrd(path: Path) -> bool:
    """Whether a file says of itself that it is NRRD."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(4) == b"NRRD"


def read_nrrd_case(path: Path, case_id: str) -> Case:
    """Read a CT from .nrrd or .nhdr: float32, HU for CT, voxels in file order.

    Raises ImageFileError (damaged, not three-dimensional, NaN, voxels elsewhere than beside the header), GeometryError
    (no patient space, an affine that is no grid) and UsageError without the extra.
    """
    what = f"case {case_id}"
    array, header = read_nrrd(path, what)
    if array.ndim != 3:
        raise ImageFileError(
            f"{what}: expected a three-dimensional image, got shape {array.shape} in {path}; give one volume"
        )
    volume: Volume = np.asarray(array, dtype=np.float32)
    if not np.isfinite(volume).all():
        raise ImageFileError(
            f"{what}: expected finite intensities, got NaN or infinite voxels in {path}; repair or leave the case out"
        )
    return Case(case_id, volume, grid_of(header, array.shape, path, what))


def read_nrrd(path: Path, what: str) -> tuple[npt.NDArray[Any], dict[str, Any]]:
    """The array in the file's own order of axes, and the header as pynrrd parses it. Raises as ``read_nrrd_case``."""
    nrrd = _import()
    if not path.is_file():
        raise ImageFileError(f"{what}: expected an image, found no file {path}; check the path")
    try:
        with path.open("rb") as file:
            header: dict[str, Any] = nrrd.read_header(file)
            data = _data_file(header, path, what)
            start = 0 if data is not None else file.tell()
            _check_length(header, data or path, start, what)
            file.seek(start)
            return nrrd.read_data(header, file, str(path)), header
    except (*_BROKEN, nrrd.NRRDError) as error:
        line = (str(error).splitlines() or [type(error).__name__])[0][:120]
        raise ImageFileError(
            f"{what}: expected a whole NRRD image in {path}, got one that is cut short or damaged ({line}); copy it again"
        ) from None


def read_header(path: Path, what: str) -> dict[str, Any]:
    """The header alone. Raises ImageFileError for one that does not read."""
    nrrd = _import()
    try:
        with path.open("rb") as file:
            header: dict[str, Any] = nrrd.read_header(file)
            return header
    except (*_BROKEN, nrrd.NRRDError) as error:
        line = (str(error).splitlines() or [type(error).__name__])[0][:120]
        raise ImageFileError(f"{what}: expected a NRRD header in {path}, got {line}; copy it again") from None


def grid_of(header: Mapping[str, Any], shape: tuple[int, ...], path: Path, what: str) -> Grid:
    """The grid of the three spatial axes of a header; `shape` is theirs. Raises GeometryError."""
    space = str(header.get("space", "")).lower()
    if space not in TO_RAS:
        raise GeometryError(
            f"{what}: expected a patient space such as left-posterior-superior, got {space or 'none'!r} in {path}; "
            "save it again with its orientation"
        )
    directions, origin = np.atleast_2d(header.get("space directions", [])), header.get("space origin")
    spatial = [row for row in directions if row.size == 3 and np.isfinite(row).all()]
    if len(spatial) != 3 or origin is None or not np.isfinite(origin).all():
        raise GeometryError(
            f"{what}: expected three directions and an origin, got {len(spatial)} directions and origin {origin} in {path}; "
            "save it again with its position"
        )
    affine: Affine = np.eye(4)
    affine[:3, :3] = np.array(spatial).T
    affine[:3, 3] = origin
    affine[:3] *= np.array(TO_RAS[space])[:, None]
    spacing = np.sqrt((affine[:3, :3] ** 2).sum(axis=0))
    if (spacing <= 0).any() or abs(np.linalg.det(affine[:3, :3] / spacing)) < 1e-3:
        raise GeometryError(
            f"{what}: expected an affine with three independent axes, got spacing {spacing.tolist()} mm in {path}; repair the header"
        )
    return Grid((shape[0], shape[1], shape[2]), affine)


def write_nrrd(
    path: Path, layers: Sequence[npt.NDArray[Any]], grid: Grid, fields: Mapping[str, str] | None = None
) -> None:
    """Write arrays (X, Y, Z) of one dtype on `grid`, several as layers of a list axis; `fields` are key/value pairs.

    Numbers are written so that they are read back exactly: pynrrd's own writer keeps 17 decimals, which rounds small
    ones, and the time of day. The same input gives the same bytes. Memory: a few planes beside the layers.
    """
    for layer in layers:
        if layer.shape != grid.shape:
            raise GeometryError(
                f"expected an array of the grid's shape {grid.shape}, got {layer.shape} for {path}"
            )
    affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ grid.affine
    lists, dtype = [len(layers)] if len(layers) > 1 else [], layers[0].dtype
    lines = [
        "NRRD0004",
        "# Complete NRRD file format specification at:",
        "# http://teem.sourceforge.net/nrrd/format.html",
        f"type: {_TYPES[dtype.name]}",
        f"dimension: {3 + len(lists)}",
        "space: left-posterior-superior",
        "sizes: " + " ".join(map(str, [*lists, *grid.shape])),
        "space directions: " + " ".join(["none"] * len(lists) + [_vector(affine[:3, i]) for i in range(3)]),
        "kinds: " + " ".join(["list"] * len(lists) + ["domain"] * 3),
        *(["endian: little"] if dtype.itemsize > 1 else []),
        "encoding: gzip",
        "space origin: " + _vector(affine[:3, 3]),
        *(f"{key}:={value}" for key, value in (fields or {}).items()),
    ]
    with write_atomically(path) as temporary, temporary.open("wb") as file:
        file.write(("\n".join(lines) + "\n\n").encode("ascii"))
        with gzip.GzipFile(filename="", mode="wb", fileobj=file, mtime=0, compresslevel=3) as packed:
            for z in range(0, grid.shape[2], _PLANES):
                packed.write(_planes([layer[:, :, z : z + _PLANES] for layer in layers]).tobytes(order="F"))


def _planes(parts: Sequence[npt.NDArray[Any]]) -> npt.NDArray[Any]:
    """Parts of layers as they are stored: little-endian, the list axis fastest where there is one."""
    dtype = parts[0].dtype.newbyteorder("<")
    if len(parts) == 1:
        return parts[0].astype(dtype, copy=False)
    out = np.empty((len(parts), *parts[0].shape), dtype=dtype, order="F")
    for k, part in enumerate(parts):
        out[k] = part
    return out


def _vector(values: npt.NDArray[np.float64]) -> str:
    return "(" + ",".join(repr(float(v) + 0.0) for v in values) + ")"


def _data_file(header: Mapping[str, Any], path: Path, what: str) -> Path | None:
    """The file of voxels that a detached header names, None for voxels in the file itself."""
    found = header.get("data file", header.get("datafile"))
    if found is None:
        return None
    name = str(found)
    if Path(name).name != name or "%" in name or name.startswith("LIST"):
        raise ImageFileError(
            f"{what}: expected voxels in one file beside the header, got {name!r} in {path}; save it as one .nrrd file"
        )
    return path.parent / name


def _check_length(header: Mapping[str, Any], data: Path, start: int, what: str) -> None:
    """Read packed voxels to their end without keeping them: no more than promised may come, and the checksum must hold.

    pynrrd itself says when less comes. Raises ImageFileError for more than any CT takes.
    """
    # Eight bytes a voxel are the most that a NRRD number takes.
    promised = 8 * int(np.prod(np.asarray(header["sizes"], dtype=object)))
    if promised > _MOST:
        raise ImageFileError(
            f"{what}: expected at most {_MOST} bytes of image, got a header that promises up to {promised}; give one CT"
        )
    openers: dict[str, Callable[..., Any]] = {
        "gzip": gzip.open,
        "gz": gzip.open,
        "bzip2": bz2.open,
        "bz2": bz2.open,
    }
    opener = openers.get(str(header["encoding"]).lower())
    if opener is None:
        return
    with data.open("rb") as file:
        file.seek(start)
        with opener(file, "rb") as packed:
            came = _count(packed, promised)
    if came > promised:
        raise ValueError(f"{promised} bytes promised at most, more came")


def _count(packed: BinaryIO, most: int) -> int:
    """How many bytes come, read to the end or to one more than `most`."""
    came = 0
    while came <= most and (block := packed.read(min(_BLOCK, most - came + 1))):
        came += len(block)
    return came


def _import() -> Any:
    try:
        import nrrd
    except ImportError:
        raise UsageError(
            "expected the extra 'nrrd' for NRRD files, found no pynrrd; run `pip install 'ctune[nrrd]'` or convert to NIfTI"
        ) from None
    return nrrd
