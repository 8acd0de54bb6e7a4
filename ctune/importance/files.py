"""Crops from the files of predictions, one class in memory at a time: nothing is predicted a second time."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError as NibabelError
from nibabel.spatialimages import HeaderDataError
from nibabel.wrapstruct import WrapStructError

from ctune.data.files import read_json
from ctune.data.gzipped import DAMAGED, gunzipped
from ctune.data.nifti import check_same_grid
from ctune.errors import DataError, ImageFileError
from ctune.importance.crops import Crop, Levels, crop, side_mm
from ctune.types import Grid

_BLOCK = 2**24


def read_crops(
    folders: Sequence[Path], grid: Grid, names: Sequence[str], floor: int, clear: bool
) -> list[Crop]:
    """The classes of one case as one model predicted it, or as several did, from folders that prediction left.

    Memory: a volume of bytes for each file, and the crops. Raises DataError for a folder that holds no finished prediction,
    none with probabilities, or not all classes; GeometryError when it is on another grid; ImageFileError when it is damaged.
    """
    abouts = [_about(folder, names) for folder in folders]
    order = list(abouts[0]["classes"])
    if any(list(about["classes"]) != order for about in abouts):
        raise DataError(
            f"expected the same classes in {' and '.join(str(f) for f in folders)}, got others; predict with --classes"
        )
    files = [channels(folder / "probabilities.nii.gz", grid) for folder in folders]
    spreads = [
        channels(folder / "inconsistency.nii.gz", grid)
        for folder, about in zip(folders, abouts, strict=True)
        if about.get("inconsistency")
    ]
    network_mm = max(side_mm(about.get("network_spacing_mm")) for about in abouts)
    found = {}
    for name in order:
        members, spread = [next(file) for file in files], [next(file) for file in spreads]
        if name in names:
            largest = np.maximum.reduce(spread) if len(spread) > 1 else next(iter(spread), None)
            found[name] = crop(name, members, largest, floor, clear, network_mm)
        if len(found) == len(names):
            break
    return [found[name] for name in names]


def channels(path: Path, grid: Grid) -> Iterator[Levels]:
    """One class after the other, (X, Y, Z) uint8 in steps of 1/255, X fastest; each is gone when the next is asked for."""
    if not path.is_file():
        raise ImageFileError(f"expected values of a prediction, found no file {path}; predict the case again")
    try:
        image = nib.Nifti1Image.from_filename(path)
        if image.get_data_dtype() != np.uint8:
            raise ImageFileError(
                f"expected bytes in steps of 1/255 in {path}, got {image.get_data_dtype()}; let `ctune predict` write it"
            )
        check_same_grid(Grid(image.shape[:3], np.asarray(image.affine)), grid, str(path), path)
        yield from _volumes(path, image, grid)
    except (EOFError, OSError, *DAMAGED, NibabelError, HeaderDataError, WrapStructError) as error:
        raise ImageFileError(
            f"expected a whole file {path}, got one that is cut short or damaged ({error}); predict the case again"
        ) from None


def _volumes(path: Path, image: nib.Nifti1Image, grid: Grid) -> Iterator[Levels]:
    buffer = np.empty(grid.shape[::-1], dtype=np.uint8)
    plain = memoryview(buffer.reshape(-1))  # type: ignore[arg-type]
    with gunzipped(path) as file:
        file.read(int(image.dataobj.offset))
        for _ in range(image.shape[3] if len(image.shape) > 3 else 1):
            filled = 0
            while filled < len(plain):
                count = file.readinto(plain[filled : filled + _BLOCK])
                if not count:
                    raise EOFError("it ends too early")
                filled += count
            yield buffer.T


def record_of(folder: Path) -> dict[str, Any]:
    """What ``prediction.json`` says of a finished prediction. Raises DataError where there is none, or a damaged one."""
    path = folder / "prediction.json"
    try:
        about: dict[str, Any] = read_json(path)
        if lacking := {"classes", "model", "volumes_ml"} - set(about):
            raise KeyError(*sorted(lacking))
        return about
    except FileNotFoundError:
        raise DataError(
            f"expected a finished prediction in {folder}, found no prediction.json; predict the case again"
        ) from None
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"expected a whole {path}, got one that is cut short or damaged ({type(error).__name__}: {error}); "
            "remove it and predict the case again"
        ) from None


def stamp_of(folder: Path, files: bool) -> list[Any]:
    """What tells one prediction of a case from another: the digest of its record; with `files` also size and time of change
    of the files behind it, in nanoseconds, None for one that is not there."""
    digest = hashlib.sha256((folder / "prediction.json").read_bytes()).hexdigest()
    out: list[Any] = [digest]
    for name in ("probabilities.nii.gz", "inconsistency.nii.gz") if files else ():
        there = (folder / name).is_file()
        about = (folder / name).stat() if there else None
        out.append([about.st_size, about.st_mtime_ns] if about else None)
    return out


def _about(folder: Path, names: Sequence[str]) -> dict[str, Any]:
    about = record_of(folder)
    if not about.get("probabilities", True):
        raise DataError(
            f"expected a prediction with probabilities in {folder}, got masks alone; predict the case again with "
            "--probabilities or --flips"
        )
    if lacking := [name for name in names if name not in about["classes"]]:
        raise DataError(
            f"expected a prediction of {', '.join(lacking)} in {folder}, got {', '.join(about['classes'])}; predict again"
        )
    return about
