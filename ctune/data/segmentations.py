"""Segmentations of any kind read on a CT's grid: folders of masks, label maps with their tables, segments with names."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ctune.data.dicom_seg import read_dicom_seg
from ctune.data.dicom_series import is_dicom
from ctune.data.files import read_json
from ctune.data.itksnap import is_descriptions, read_descriptions
from ctune.data.kinds import NIFTI_NAME, Kind, kind_of, named_nifti, stem_of
from ctune.data.labels import Labels, read_table, split_ignore
from ctune.data.nifti import check_whole, label_values, read_grid, read_labels, read_mask
from ctune.data.nrrd import grid_of, read_nrrd
from ctune.data.placing import place
from ctune.data.seg_nrrd import read_seg_nrrd
from ctune.errors import LabelError
from ctune.types import UNLABELLED, Grid, Mask

Rename = Callable[[str], str]
_NOT_MASKS = ("ct", "mri", "image", "probabilities", "inconsistency")


def read_any(
    path: Path, grid: Grid, *, labels: Labels | None, rename: Rename, what: str
) -> Iterator[tuple[str, Mask]]:
    """(class, mask (X, Y, Z) uint8 on `grid`), one after the other; raises as ``exchange.read_segmentation``."""
    if not path.is_dir():
        yield from _distinct(_of_file(path, grid, labels, rename, what), path, what)
        return
    whole = whole_file(path, what)
    if whole is not None:
        yield from _distinct(_of_file(whole, grid, labels, rename, what), whole, what)
        return
    files = mask_files(path)
    if not files:
        raise LabelError(
            f"{what}: expected masks CLASS.nii.gz or {', '.join(WHOLE)} in {path}, found none of them"
        )
    named = ((rename(stem_of(file)), file) for file in files)
    yield from _distinct(((name, _mask(file, grid, f"{what}, {name}")) for name, file in named), path, what)


def whole_file(folder: Path, what: str) -> Path | None:
    """The one file in a folder that holds all its classes, None without. Raises LabelError when there are several."""
    found = [p for p in sorted(folder.iterdir()) if p.is_file() and not p.name.startswith(".")]
    found = [p for p in found if p.name in WHOLE or p.name.lower().endswith((".seg.nrrd", ".dcm"))]
    found = [p for p in found if not is_dicom(p) or kind_of(p) is Kind.DICOM_SEG]
    if len(found) > 1:
        raise LabelError(
            f"{what}: expected one segmentation in {folder}, found {', '.join(p.name for p in found)}; keep one of them"
        )
    return found[0] if found else None


WHOLE = ("labels.seg.nrrd", "labels.nii.gz", "labels.nii", "labels.nrrd", "labels.dcm")
"""Files that hold a whole segmentation; in a folder they come before masks of single classes."""


def mask_files(folder: Path) -> list[Path]:
    """The masks of single classes in a folder, or in its folder ``segmentations``."""
    inner = folder / "segmentations"
    found = sorted((inner if inner.is_dir() else folder).iterdir())
    images = [p for p in found if NIFTI_NAME.search(p.name) and not p.name.startswith(".")]
    return [p for p in images if stem_of(p) not in _NOT_MASKS]


def table_of(path: Path) -> Labels | None:
    """The names of a label map's numbers in a table beside it: labels.json, labels.txt or labels.label, None without."""
    stem = stem_of(path)
    for suffix in (".txt", ".label"):
        if is_descriptions(table := path.with_name(stem + suffix)):
            return read_descriptions(table)
    table = path.with_name(f"{stem}.json")
    return read_table(table) if table.is_file() else None


def forget_names(path: Path) -> None:
    """Remove the tables of names beside a label map that is about to be written anew; what is none is left alone.

    They would name its numbers until its own table is there, and one of another format for good. A map without names is
    refused, one with wrong names has its classes swapped.
    """
    stem = stem_of(path)
    for suffix, is_table in ((".txt", is_descriptions), (".label", is_descriptions), (".json", _is_names)):
        if is_table(table := path.with_name(stem + suffix)):
            table.unlink()


def _is_names(path: Path) -> bool:
    """Whether a file holds a table of names as it is written beside a label map, and nothing else."""
    try:
        document = read_json(path)
    except (OSError, ValueError):
        return False
    return isinstance(document, dict) and document.keys() == {"labels"}


def _of_file(
    path: Path, grid: Grid, labels: Labels | None, rename: Rename, what: str
) -> Iterator[tuple[str, Mask]]:
    kind = kind_of(path)
    if kind is Kind.DICOM_SEG:
        yield from _placed(*read_dicom_seg(path, what), grid, rename, what, path)
    elif kind is Kind.NRRD and (found := read_seg_nrrd(path, what)) is not None:
        yield from _placed(*found, grid, rename, what, path)
    elif kind in (Kind.NRRD, Kind.NIFTI):
        yield from _split(read_numbers(path, grid, what), labels, rename, what, path)
    else:
        raise LabelError(
            f"{what}: expected a segmentation, got {kind} in {path}; give a label map, a .seg.nrrd or a DICOM segmentation"
        )


def read_numbers(path: Path, grid: Grid, what: str) -> npt.NDArray[np.int32]:
    """A label map (X, Y, Z) int32 on `grid` from NIfTI or NRRD, read to its end. Raises as ``nifti.read_labels``."""
    if kind_of(path) is Kind.NRRD:
        array, header = read_nrrd(path, what)
        if array.ndim != 3 or array.dtype.kind not in "iu" or array.min(initial=0) < 0:
            raise LabelError(
                f"{what}: expected a label map of whole numbers from 0 upwards, got {array.dtype} of shape {array.shape} in "
                f"{path}; save it as a label map"
            )
        got = grid_of(header, array.shape, path, what)
        return place(array, got, grid, what, path).astype(np.int32)
    with named_nifti(path) as image:
        check_whole(image, what)
        got = read_grid(image, what)
        return np.asarray(place(read_labels(image, got, what), got, grid, what, path), dtype=np.int32)


def members(
    stored: npt.NDArray[Any], numbers: Collection[int], present: set[int], unjudged: Collection[int] = ()
) -> Mask:
    """1 where a label map (X, Y, Z) holds one of `numbers`, 255 where one of `unjudged`, uint8.

    `present` are the numbers that it holds at all. One comparison a number, of those that are there: np.isin takes several
    times as long for the usual one or two.
    """
    mask = np.zeros_like(stored, dtype=np.uint8)
    for number in present.intersection(numbers):
        mask |= stored == number
    for number in present.intersection(unjudged):
        mask[stored == number] = UNLABELLED
    return mask


def _mask(path: Path, grid: Grid, what: str) -> Mask:
    got = read_grid(path, what)
    return np.asarray(place(read_mask(path, got, what), got, grid, what, path), dtype=np.uint8)


def _placed(
    got: Grid, segments: Iterator[tuple[str, Mask]], grid: Grid, rename: Rename, what: str, path: Path
) -> Iterator[tuple[str, Mask]]:
    for name, mask in segments:
        own = rename(name)
        # A single voxel is how 3D Slicer writes a segmentation in which nothing was drawn.
        empty = got.shape == (1, 1, 1) != grid.shape
        yield (
            own,
            (
                np.zeros(grid.shape, np.uint8)
                if empty
                else place(mask, got, grid, f"{what}, {own}", path, box=True)
            ),
        )


def _split(
    stored: npt.NDArray[Any], labels: Labels | None, rename: Rename, what: str, path: Path
) -> Iterator[tuple[str, Mask]]:
    table = labels or table_of(path)
    classes, unjudged = split_ignore(table or {})
    present = label_values(stored) - {0}
    named = {number for numbers in classes.values() for number in numbers}
    unknown = sorted(present - named - set(unjudged))
    if table is None or unknown:
        raise LabelError(
            f"{what}: expected names for the numbers {unknown[:8] or 'of the map'} in {path}, found none; "
            "put ITK-SNAP's label descriptions beside it, or give --labels 1=liver,2=spleen"
        )
    for name, numbers in classes.items():
        yield rename(name), members(stored, numbers, present, unjudged)


def _distinct(found: Iterator[tuple[str, Mask]], path: Path, what: str) -> Iterator[tuple[str, Mask]]:
    seen = set()
    for name, mask in found:
        if name in seen:
            raise LabelError(
                f"{what}: expected every class once, got {name} twice in {path}; rename one of them"
            )
        seen.add(name)
        yield name, mask
