"""CTs and segmentations in the formats of other programs, in and out; what a file is, is told by its bytes.

    case = read_ct(Path("series.zip"))
    write_segmentation(Path("liver.seg.nrrd"), {"liver": mask}, case.grid, Format.SEG_NRRD)
    masks = read_segmentation(Path("liver.seg.nrrd"), case.grid)

Masks come back on the CT's own grid. Axes that a program turned are turned back, parts are put in their place; nothing is
resampled. docs/formats.md says what each format keeps.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TypeAlias

import numpy as np

from ctune.classes import canonical
from ctune.data.dicom_seg import write_dicom_seg
from ctune.data.dicom_series import find_series, read_series, series_headers
from ctune.data.files import write_atomically, write_json
from ctune.data.itksnap import write_descriptions
from ctune.data.kinds import Kind, kind_of, named_nifti, stem_of
from ctune.data.nifti import read_case, write_mask, write_volume
from ctune.data.nrrd import read_nrrd_case
from ctune.data.seg_nrrd import write_seg_nrrd
from ctune.data.segmentations import forget_names, read_any
from ctune.data.zipped import Limits, unpacked
from ctune.errors import ImageFileError, UsageError
from ctune.types import UNLABELLED, Case, Grid, Mask

__all__ = [
    "Format", "Kind", "Limits", "Series", "Written", "kind_of", "read_ct", "read_segmentation", "series_files", "stem_of",
    "table_beside", "write_segmentation",
]  # fmt: skip


Series: TypeAlias = Path | Sequence[Path]
"""A DICOM series: its folder, a zip archive of it, or its files."""


class Format(StrEnum):
    """How a segmentation is written: one label map with a table of names, a mask a class, or what other programs keep."""

    MULTILABEL = "multilabel"
    MASKS = "masks"
    SEG_NRRD = "seg.nrrd"
    DICOM_SEG = "dicom-seg"
    ITK_SNAP = "itk-snap"

    @property
    def file_name(self) -> str:
        """The usual name of such a file; "" for masks, which are a folder."""
        return _FILE_NAMES[self]


_FILE_NAMES = {
    Format.MULTILABEL: "labels.nii.gz",
    Format.MASKS: "",
    Format.SEG_NRRD: "labels.seg.nrrd",
    Format.DICOM_SEG: "labels.dcm",
    Format.ITK_SNAP: "labels.nii.gz",
}


@dataclass(frozen=True)
class Written:
    """files: what was written. numbers: {class: its number in a label map or its segment}, empty for masks.

    lost: {class: voxels that an earlier class of a label map holds}. unjudged: {class: voxels of 255 that the format
    cannot tell from background}. Classes with nothing to tell are not listed.
    """

    files: tuple[Path, ...]
    numbers: Mapping[str, int] = field(default_factory=dict)
    lost: Mapping[str, int] = field(default_factory=dict)
    unjudged: Mapping[str, int] = field(default_factory=dict)


def read_ct(path: Path, case_id: str | None = None, *, limits: Limits | None = None) -> Case:
    """Read a CT of any kind: .nii, .nii.gz, .nrrd, .nhdr, a folder or a zip archive of one DICOM series.

    `case_id` names it in messages, by default the file's name. `limits` are an archive's. Raises ImageFileError,
    GeometryError, and UsageError when an extra is missing or a folder holds several series.
    """
    kind, name = kind_of(path), case_id or stem_of(path)
    if kind is Kind.NRRD:
        return read_nrrd_case(path, name)
    if kind is Kind.NIFTI:
        with named_nifti(path) as image:
            return read_case(image, name)
    if kind in (Kind.FOLDER, Kind.ZIP):
        with series_files(path, f"case {name}", limits=limits) as files:
            return read_series(files, name)
    raise ImageFileError(
        f"case {name}: expected a CT, got one DICOM file ({kind}) in {path}; give the folder or archive of its whole series"
    )


@contextmanager
def series_files(series: Series, what: str, *, limits: Limits | None = None) -> Iterator[Sequence[Path]]:
    """The files of the one series in a folder or a zip archive; an archive's are gone when the block ends.

    Raises UsageError when there is none or more than one, ImageFileError for a damaged archive.
    """
    if not isinstance(series, Path):
        yield series
    elif series.is_dir():
        yield _only_series(series, series, what)
    else:
        with unpacked(series, what, limits) as folder:
            yield _only_series(folder, series, what)


def write_segmentation(
    path: Path,
    masks: Mapping[str, Mask],
    grid: Grid,
    format: Format | str,
    *,
    source: Series | None = None,
    author: str = "ctune",
) -> Written:
    """Write {class: (X, Y, Z) uint8; 1 the class, 255 not judged} on `grid`; masks are read from `masks` one at a time.

    `path` is a file of the format's suffix, for masks a folder. `source`: for DICOM, the series (its folder, archive or
    files); `author`: who drew it, where the format says so. In a label map an earlier class keeps the voxels of a later one,
    and the names of a map that was there before go with it. Raises UsageError for a wrong suffix or a DICOM segmentation
    without its series, GeometryError for another grid.
    """
    wanted = Format(format)
    _check_suffix(path, wanted)
    numbers = {name: k + 1 for k, name in enumerate(masks)}
    watched = _Watched(masks)
    if wanted is Format.MASKS:
        files = {name: path / f"{name}.nii.gz" for name in masks}
        for name, file in files.items():
            write_mask(file, masks[name], grid)
        return Written(tuple(files.values()))
    if wanted is Format.SEG_NRRD:
        write_seg_nrrd(path, watched, grid)
        return Written((path,), numbers, {}, watched.unjudged)
    if wanted is Format.DICOM_SEG:
        if source is None:
            raise UsageError(
                f"expected the DICOM series that a DICOM segmentation is about, got none for {path}; give the CT as DICOM, "
                "or choose another format"
            )
        with series_files(source, str(path)) as slices:
            heads = series_headers(slices, str(path))
        write_dicom_seg(path, watched, grid, heads, algorithm=author)
        return Written((path,), numbers, {}, watched.unjudged)
    lost = _write_label_map(path, watched, grid)
    table = table_beside(path, wanted)
    if wanted is Format.ITK_SNAP:
        write_descriptions(table, numbers)
    else:
        write_json(table, {"labels": numbers})
    return Written((path, table), numbers, lost, watched.unjudged)


def read_segmentation(
    path: Path,
    grid: Grid,
    *,
    labels: Mapping[str, tuple[int, ...]] | None = None,
    aliases: Mapping[str, str] | None = None,
    what: str = "",
) -> dict[str, Mask]:
    """{class: (X, Y, Z) uint8} on the CT's `grid`, from whatever ``write_segmentation`` and other programs write.

    A folder holds a mask a class. A label map's numbers are named by `labels` {name: numbers}, or by a table beside it; what
    stands there under nnU-Net's name ``ignore`` is 255 for every class, judged by nobody. `aliases` are the project's own
    names, `what` is what messages call it. Raises LabelError, ImageFileError, GeometryError when a voxel has no counterpart
    on the CT's grid, UnknownClassError.
    """
    return dict(
        read_any(path, grid, labels=labels, rename=lambda n: canonical(n, aliases), what=what or str(path))
    )


def table_beside(path: Path, format: Format) -> Path:
    """Where the names of a label map's numbers stand: labels.nii.gz -> labels.txt (ITK-SNAP) or labels.json."""
    return path.with_name(stem_of(path) + (".txt" if format is Format.ITK_SNAP else ".json"))


class _Watched(Mapping[str, Mask]):
    """Masks with 1 for the class and 0 elsewhere, counting on the way what nobody has judged."""

    def __init__(self, masks: Mapping[str, Mask]) -> None:
        self._masks = masks
        self.unjudged: dict[str, int] = {}

    def __getitem__(self, name: str) -> Mask:
        mask = np.asarray(self._masks[name])
        if count := int(np.count_nonzero(mask == UNLABELLED)):
            self.unjudged[name] = count
        return np.asarray(mask == 1, dtype=np.uint8)

    def __iter__(self) -> Iterator[str]:
        return iter(self._masks)

    def __len__(self) -> int:
        return len(self._masks)


def _write_label_map(path: Path, masks: Mapping[str, Mask], grid: Grid) -> dict[str, int]:
    """Write 1, 2, ... for the classes in their order; returns {class: voxels that an earlier class keeps}."""
    # In the order of files, X fastest, as masks that were read are: mixing orders takes ten times as long.
    numbers = np.zeros(grid.shape, dtype=np.uint8 if len(masks) < 256 else np.uint16, order="F")
    lost: dict[str, int] = {}
    for k, (name, mask) in enumerate(masks.items()):
        one = mask == 1
        free = one & (numbers == 0)
        if count := int(np.count_nonzero(one) - np.count_nonzero(free)):
            lost[name] = count
        numbers[free] = k + 1
    with write_atomically(path) as temporary:
        write_volume(temporary, numbers, grid)
        forget_names(path)
    return lost


def _check_suffix(path: Path, format: Format) -> None:
    suffix = format.file_name.removeprefix("labels")
    if (
        suffix
        and not path.name.lower().endswith(suffix)
        and not (suffix == ".nii.gz" and path.suffix == ".nii")
    ):
        raise UsageError(f"expected a file *{suffix} for the format {format}, got {path}; rename it")


def _only_series(folder: Path, path: Path, what: str) -> list[Path]:
    found = find_series(folder)
    if len(found) != 1:
        raise UsageError(
            f"{what}: expected one DICOM series in {path}, found {len(found)}; keep the slices of one CT"
        )
    return found[0]
