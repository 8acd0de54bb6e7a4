"""A case found in a data set: where its files lie, and its masks, read one at a time."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ctune.data.labels import Labels
from ctune.data.nifti import check_whole, label_values, read_mask
from ctune.data.segmentations import members, read_any, read_numbers
from ctune.errors import LabelError
from ctune.types import UNLABELLED, Grid, Mask, Source

IMAGE_SUFFIX = re.compile(r"\.nii(\.gz)?$", re.IGNORECASE)


@dataclass(frozen=True)
class FoundCase:
    """One case of a data set, before anything of it was read.

    image: its CT, None when there are masks alone. data_set: its name, for provenance.
    masks: {class as the data set calls it: file of that class alone}, or label_map: one file whose numbers
    `labels` names; `complete` says that it names every number the file may hold, `ignore` are the numbers of
    what nobody has judged, none of them a class's; or segmentation: one file whose `segments` have names. source: of the masks. taken_from: where
    `image` was converted from. problem: why the case cannot be imported, "" when nothing
    is known against it.
    """

    id: str
    image: Path | None
    data_set: str
    masks: Mapping[str, Path] = field(default_factory=dict)
    label_map: Path | None = None
    labels: Labels = field(default_factory=dict)
    complete: bool = True
    ignore: tuple[int, ...] = (UNLABELLED,)
    segmentation: Path | None = None
    segments: tuple[str, ...] = ()
    source: Source = Source.ORIGINAL
    taken_from: Path | None = None
    problem: str = ""

    @property
    def names(self) -> tuple[str, ...]:
        """Its classes as the data set calls them."""
        return (*self.masks, *(self.labels if self.label_map else ()), *self.segments)

    @property
    def origin(self) -> Path | None:
        """Where its CT came from."""
        return self.taken_from or self.image

    @property
    def numbers(self) -> set[int]:
        """The numbers of its label map that a table names."""
        return {number for numbers in self.labels.values() for number in numbers}


class FoundMasks(Mapping[str, Mask]):
    """The masks of a case, {class: (X, Y, Z) uint8 on `grid`}, each read when it is asked for.

    `wanted` is {class as ctune writes it: as the data set calls it}. ``present`` are the numbers that a label
    map holds, ``unnamed`` those that no table names, both known once it was read. Reading raises
    ImageFileError, GeometryError and LabelError.
    """

    def __init__(self, case: FoundCase, wanted: Mapping[str, str], grid: Grid) -> None:
        self.case, self.wanted, self.grid = case, wanted, grid
        self.present: set[int] = set()
        self.unnamed: set[int] = set()
        self._map: npt.NDArray[np.int32] | None = None
        self._segments: dict[str, Mask] | None = None

    def __getitem__(self, name: str) -> Mask:
        what = f"case {self.case.id}, {name}"
        if self.case.segmentation is not None:
            return self._named(self.case.segmentation)[self.wanted[name]]
        if self.case.label_map is None:
            path = self.case.masks[self.wanted[name]]
            check_whole(path, what)
            return read_mask(path, self.grid, what)
        labels = self._labels(self.case.label_map)
        return members(labels, self.case.labels[self.wanted[name]], self.present, self.case.ignore)

    def holds(self, name: str) -> bool:
        """Whether the case has voxels of a class of the data set, as far as it is known without reading more."""
        return (
            bool(self.case.segments)
            or not self.present
            or not self.present.isdisjoint(self.case.labels[name])
        )

    def __iter__(self) -> Iterator[str]:
        return iter(self.wanted)

    def __len__(self) -> int:
        return len(self.wanted)

    def _named(self, path: Path) -> dict[str, Mask]:
        """The segments that are wanted, read once. Raises LabelError for one that is not there."""
        if self._segments is None:
            asked, what = set(self.wanted.values()), f"case {self.case.id}"
            found = read_any(path, self.grid, labels=None, rename=str, what=what)
            self._segments = {name: mask for name, mask in found if name in asked}
        return self._segments

    def _labels(self, path: Path) -> npt.NDArray[np.int32]:
        """The label map, read once. Raises LabelError for numbers that a complete table does not name."""
        if self._map is None:
            what = f"case {self.case.id}"
            labels = read_numbers(path, self.grid, what)
            named = self.case.numbers
            self.present = label_values(labels)
            self.unnamed = self.present - named - {0, *self.case.ignore}
            if self.present == {0, UNLABELLED} and UNLABELLED not in named:
                raise LabelError(
                    f"{what}: expected labels of {_few(named)}, got only 0 and {UNLABELLED} (not judged) in "
                    f"{path}; write the class as its own number"
                )
            if self.unnamed and self.case.complete:
                raise LabelError(
                    f"{what}: expected the labels that the data set names ({_few(named)}), "
                    f"got {_few(self.unnamed)} in {path}; name the labels to take with --labels"
                )
            self._map = labels
        return self._map


def notes_of(case: FoundCase, wanted: Mapping[str, str]) -> dict[str, str]:
    """{class: which file, and which numbers in it, its mask came from}; `wanted` as in ``FoundMasks``."""
    if case.segmentation is not None:
        return {own: f"from {case.segmentation.name}, segment {name}" for own, name in wanted.items()}
    if case.label_map is None:
        return {own: f"from {case.masks[name].name}" for own, name in wanted.items()}
    return {
        own: f"from {case.label_map.name}, label {'+'.join(map(str, case.labels[name]))} ({name})"
        for own, name in wanted.items()
    }


def case_id_of(text: str) -> str:
    """A case id from a file's or folder's name: without its suffix, other characters become underscores.

    >>> case_id_of("liver 7 (b).nii.gz")
    'liver_7_b'
    """
    plain = re.sub(r"[^A-Za-z0-9._-]+", "_", IMAGE_SUFFIX.sub("", text)).strip("_.-")
    return plain[:128] or "case"


def _few(numbers: Collection[int]) -> str:
    listed = sorted(numbers)
    return ", ".join(map(str, listed[:8])) + (f" and {len(listed) - 8} more" if len(listed) > 8 else "")
