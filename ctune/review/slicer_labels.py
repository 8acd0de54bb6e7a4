"""Labels as 3D Slicer sends and wants them: by name, since numbers shift.

Slicer exports a label map with the numbers 1, 2, ... in the order of the segments that it saves, while the table beside it
counts all segments, those it leaves out too. And it reads a label map by giving its numbers, in order, to the names that it
was told: so a map goes out with the classes alone that it holds, numbered without a gap.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ctune.classes import canonical
from ctune.data.exchange import Format, Kind, kind_of, read_segmentation, write_segmentation
from ctune.data.kinds import named_nifti
from ctune.data.nifti import read_grid, write_mask
from ctune.data.nrrd import read_header, write_nrrd
from ctune.data.segmentations import members, read_numbers
from ctune.errors import LabelError
from ctune.types import Grid, Mask

SUFFIXES = (".seg.nrrd", ".nrrd", ".nii.gz", ".nii")
_MOST_LAYERS = 16
"""A file may promise this many voxels for each voxel of the CT: a label map has one, segments that overlap have layers."""


def suffix_of(name: str, default: str = ".nii.gz") -> str:
    """The suffix of a label's file, or `default` for any other."""
    return next((s for s in SUFFIXES if name.lower().endswith(s)), default)


def write_labels(masks: Mapping[str, Mask], grid: Grid, suffix: str) -> tuple[bytes, dict[str, int]]:
    """The bytes of a file, and {class: its number there}; the first class has a voxel that two claim."""
    stored = np.zeros(grid.shape, np.uint8, order="F")
    names = {name: mask == 1 for name, mask in masks.items()}
    for number, here in reversed(list(enumerate(names.values(), 1))):
        stored[here] = number
    numbers, gapless = dict[str, int](), np.zeros_like(stored)
    for number, name in enumerate(names, 1):
        if (stored == number).any():
            numbers[name] = len(numbers) + 1
            gapless[stored == number] = numbers[name]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"labels{suffix}"
        if suffix == ".seg.nrrd":
            write_segmentation(path, masks, grid, Format.SEG_NRRD)
            numbers = {name: k for k, name in enumerate(masks, 1)}
        elif suffix == ".nrrd":
            write_nrrd(path, [gapless], grid)
        else:
            write_mask(path, gapless, grid)
        return path.read_bytes(), numbers


def read_sent(
    path: Path, table: Sequence[Any], grid: Grid, aliases: Mapping[str, str], what: str
) -> dict[str, Mask]:
    """{class: (X, Y, Z) uint8} of a file that Slicer saved; `table` is its ``label_info``: [{"name", "idx"}, ...].

    Raises LabelError for a label map without names, or with more numbers than names.
    """
    _check_promise(path, grid, what)
    if kind_of(path) is Kind.NRRD and any(key.startswith("Segment") for key in read_header(path, what)):
        return read_segmentation(path, grid, aliases=aliases, what=what)
    rows = [row for row in table if isinstance(row, dict) and isinstance(row.get("name"), str)]
    stored = read_numbers(path, grid, what)
    present = {int(n) for n in np.unique(stored)} - {0}
    told = {row.get("idx") for row in rows}
    # In order, as Slicer exports; by the table where the file has numbers that an order cannot have.
    numbers = list(range(1, len(rows) + 1))
    if max(present, default=0) > len(rows) and present <= told:
        numbers = [int(row.get("idx", 0)) for row in rows]
    if not present <= set(numbers):
        raise LabelError(
            f"{what}: expected the numbers of {len(rows)} names in label_info, got {sorted(present)}; save the segmentation again"
        )
    return {
        canonical(row["name"], aliases): members(stored, (number,), present)
        for row, number in zip(rows, numbers, strict=True)
    }


def _check_promise(path: Path, grid: Grid, what: str) -> None:
    """Nothing is unpacked that promises more than a segmentation of this CT can have."""
    kind, voxels = kind_of(path), int(np.prod(grid.shape))
    if kind is Kind.NRRD:
        promised = float(np.prod([float(n) for n in read_header(path, what)["sizes"]]))
    elif kind is Kind.NIFTI:
        with named_nifti(path) as image:
            promised = float(np.prod([float(n) for n in read_grid(image, what).shape]))
    else:
        raise LabelError(
            f"{what}: expected a label map as .nii.gz, .nrrd or .seg.nrrd, got {kind}; save it as one of these"
        )
    if promised > _MOST_LAYERS * voxels:
        raise LabelError(
            f"{what}: expected about {voxels} voxels, the file promises {promised:.0f}; save the segmentation on its CT's grid"
        )
