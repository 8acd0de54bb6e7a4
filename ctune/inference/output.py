"""What a prediction leaves in its folder, taken a block of planes at a time: masks or a label map, probabilities, volumes.

Everything is compressed and written by a thread behind the computation. Files appear whole, and ``prediction.json`` last: a
folder without it is an unfinished prediction.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ctune.config import Cleaning
from ctune.data.exchange import Format, Series, table_beside, write_segmentation
from ctune.data.files import read_json, write_json
from ctune.data.gzipped import gunzipped
from ctune.data.itksnap import write_descriptions
from ctune.data.nifti import header_bytes
from ctune.errors import UnknownClassError
from ctune.inference.behind import Behind
from ctune.inference.blocks import Block
from ctune.inference.clock import Clock
from ctune.inference.files import ChannelFile, PlaneFile, Planes
from ctune.postprocess import clean, in_order, needed
from ctune.types import Grid, Mask

_WAITING = ".masks"

Later = Callable[..., None]
"""Hands a function and its arguments to the thread that writes."""


@dataclass(frozen=True)
class Wanted:
    """What a prediction leaves. labels: one label map instead of a mask a class; probabilities: also these.

    format: of the masks, where another program than ctune gets them; it says by itself whether they are a label map.
    """

    labels: bool = False
    probabilities: bool = False
    format: Format | None = None

    @property
    def label_map(self) -> bool:
        """Whether every voxel gets one class."""
        return self.labels or self.format in (Format.MULTILABEL, Format.ITK_SNAP)

    @property
    def foreign(self) -> Format | None:
        """The format of another program that is wanted, None for ctune's own files."""
        return None if self.format in (Format.MULTILABEL, Format.MASKS) else self.format

    def level(self, threshold: float) -> float:
        """Probabilities at or below it make no difference to any file."""
        return min(threshold, 0.5 / 255) if self.probabilities else threshold


@dataclass(frozen=True, eq=False)
class Outline:
    """What files are about. rules: how masks are cleaned. about: what ``prediction.json`` says besides the volumes.

    series: the CT's DICOM files, for a segmentation that refers to them.
    """

    grid: Grid
    classes: tuple[str, ...]
    threshold: float
    rules: Mapping[str, Cleaning]
    about: Mapping[str, Any]
    series: Series | None = None


class CaseFiles:
    """The files of one case; give it every block in order, then ``finish``, or ``abandon`` on an error.

    Raises UnknownClassError, before anything is written, for a class whose name would be a path.
    """

    def __init__(self, folder: Path, outline: Outline, wanted: Wanted, behind: Behind, clock: Clock) -> None:
        self._folder, self._outline, self._behind, self._clock = folder, outline, behind, clock
        self._foreign = wanted.foreign
        self._open = ExitStack()
        if (bad := next((name for name in outline.classes if not _is_file_name(name)), None)) is not None:
            raise UnknownClassError(
                f"expected classes that can be names of files, got {bad[:40]!a}; rename the class where the model was made, and "
                "do not trust a model from elsewhere that has it"
            )
        _clear(folder)
        grid, channels = outline.grid, len(outline.classes)
        made = _LabelMap if wanted.label_map else _Masks
        # Segments that may overlap are put together at the end, from masks that only wait for it.
        converted = self._foreign in (Format.SEG_NRRD, Format.DICOM_SEG)
        self._masks = made(self._open, folder / _WAITING if converted else folder, outline)
        self._values: dict[str, ChannelFile] = {}
        if wanted.probabilities:
            path = folder / "probabilities.nii.gz"
            self._values["probability"] = ChannelFile(self._open, path, grid, channels)
        if outline.about["inconsistency"]:
            path = folder / "inconsistency.nii.gz"
            self._values["inconsistency"] = ChannelFile(self._open, path, grid, channels)

    def take(self, block: Block) -> None:
        """Hand over the next block; its values may be changed afterwards."""
        if block.kind in self._values:
            stored = None if block.values is None else (block.values * 255.0).round_().to(torch.uint8)
            placed = _placed(stored, block, self._outline.grid)
            self._later(self._values[block.kind].add, block.channel, placed, block.planes)
        if block.kind == "probability":
            self._masks.take(block, self._later)

    def finish(self) -> None:
        """Let every file take its place, ``prediction.json`` last."""
        self._later(self._finish)

    def abandon(self) -> None:
        """Remove what was written."""
        self._open.pop_all().__exit__(RuntimeError, RuntimeError("abandoned"), None)

    def _finish(self) -> None:
        voxels, outline = self._masks.finish(self._clock), self._outline
        for channels in self._values.values():
            channels.finish()
        self._open.close()
        if self._foreign is not None:
            self._convert(self._foreign)
        volumes = {
            name: round(int(n) * outline.grid.voxel_ml, 3)
            for name, n in zip(outline.classes, voxels, strict=True)
        }
        write_json(self._folder / "prediction.json", {**outline.about, "volumes_ml": volumes})

    def _convert(self, format: Format) -> None:
        """Write what another program reads: segments from the waiting masks, or the names beside a label map."""
        outline, path = self._outline, self._folder / format.file_name
        if format is Format.ITK_SNAP:
            write_descriptions(
                table_beside(path, format), {name: k + 1 for k, name in enumerate(outline.classes)}
            )
            return
        masks = _Waiting(self._folder / _WAITING, outline)
        write_segmentation(path, masks, outline.grid, format, source=outline.series)
        shutil.rmtree(self._folder / _WAITING)

    def _later(self, function: Callable[..., Any], *arguments: Any) -> None:
        def timed() -> None:
            try:
                with self._clock("write"):
                    function(*arguments)
            except BaseException:
                self.abandon()
                raise

        self._behind(timed)


class _Waiting(Mapping[str, Mask]):
    """Masks that wait in a folder, read one at a time."""

    def __init__(self, folder: Path, outline: Outline) -> None:
        self._folder, self._outline = folder, outline

    def __getitem__(self, name: str) -> Mask:
        # Written here a moment ago: none of the doubts that a file from elsewhere deserves.
        with gunzipped(self._folder / f"{name}.nii.gz") as file:
            voxels = np.frombuffer(
                file.read(), np.uint8, offset=len(header_bytes(self._outline.grid, np.uint8))
            )
        return voxels.reshape(self._outline.grid.shape, order="F")

    def __iter__(self) -> Iterator[str]:
        return iter(self._outline.classes)

    def __len__(self) -> int:
        return len(self._outline.classes)


class _Masks:
    """A mask a class; those that are cleaned, and their hosts, wait for their whole volume."""

    def __init__(self, stack: ExitStack, folder: Path, outline: Outline) -> None:
        self._outline = outline
        held = needed(outline.classes, outline.rules)
        self._files = {
            name: PlaneFile(stack, folder / f"{name}.nii.gz", outline.grid, np.uint8, name in held)
            for name in outline.classes
        }
        self._voxels = dict.fromkeys(outline.classes, 0)

    def take(self, block: Block, later: Later) -> None:
        name = self._outline.classes[block.channel]
        mask = None if block.values is None else block.values > self._outline.threshold
        self._voxels[name] += 0 if mask is None else int(mask.sum())
        later(self._files[name].add, _placed(mask, block, self._outline.grid), block.planes)

    def finish(self, clock: Clock) -> list[int]:
        """Write the masks; returns the voxels of each class."""
        with clock("postprocess"):
            for name in in_order(self._files, self._outline.rules):
                rules = self._outline.rules[name]
                host = self._files[rules.within].read() if rules.within in self._files else None
                cleaned = clean(self._files[name].read(), rules, self._outline.grid, host)
                self._files[name].replace(cleaned)
                self._voxels[name] = int(cleaned.sum())
        for file in self._files.values():
            file.finish()
        return list(self._voxels.values())


class _LabelMap:
    """One map: 1 + the channel of the class that is most probable, 0 where none is above the threshold; the earlier of two
    classes that are equally probable. What cleaning adds to a class, it adds where no other class is."""

    def __init__(self, stack: ExitStack, folder: Path, outline: Outline) -> None:
        self._outline = outline
        self._dtype = np.dtype(np.uint8 if len(outline.classes) < 256 else np.uint16)
        self._cleaned = in_order(outline.classes, outline.rules)
        path = folder / "labels.nii.gz"
        self._file = PlaneFile(stack, path, outline.grid, self._dtype, bool(self._cleaned))
        self._voxels = np.zeros(len(outline.classes) + 1, dtype=np.int64)
        self._best: npt.NDArray[np.float32] | None = None
        self._labels: Planes = np.zeros(0, self._dtype)

    def take(self, block: Block, later: Later) -> None:
        if block.values is not None:
            if self._best is None:
                shape = (block.planes, self._outline.grid.shape[1], self._outline.grid.shape[0])
                self._best = np.full(shape, self._outline.threshold, np.float32)
                self._labels = np.zeros(shape, self._dtype)
            values, box = block.values.cpu().numpy(), _box(block)
            better = values > self._best[box]
            self._best[box][better] = values[better]
            self._labels[box][better] = block.channel + 1
        if block.channel == len(self._outline.classes) - 1:
            later(self._add, None if self._best is None else self._labels, block.planes)
            self._best = None

    def finish(self, clock: Clock) -> list[int]:
        """Write the map; returns the voxels of each class."""
        if self._cleaned:
            with clock("postprocess"):
                labels = self._file.read()
                self._clean(labels)
                self._file.replace(labels)
                self._voxels = np.bincount(labels.ravel(order="K"), minlength=len(self._voxels))
        self._file.finish()
        return [int(n) for n in self._voxels[1:]]

    def _add(self, labels: Planes | None, count: int) -> None:
        self._file.add(labels, count)
        if labels is not None:
            self._voxels += np.bincount(labels.ravel(), minlength=len(self._voxels))

    def _clean(self, labels: Planes) -> None:
        numbers = {name: k + 1 for k, name in enumerate(self._outline.classes)}
        for name in self._cleaned:
            rules, mask = self._outline.rules[name], (labels == numbers[name]).astype(np.uint8)
            host = (labels == numbers[rules.within]).astype(np.uint8) if rules.within in numbers else None
            cleaned = clean(mask, rules, self._outline.grid, host)
            labels[(mask > 0) & (cleaned == 0)] = 0
            labels[(cleaned > 0) & (labels == 0)] = numbers[name]


def _placed(values: torch.Tensor | None, block: Block, grid: Grid) -> Planes | None:
    """The box in planes of zeros; None when it holds nothing."""
    if values is None or not bool(values.any()):
        return None
    planes = np.zeros((block.planes, grid.shape[1], grid.shape[0]), dtype=np.uint8)
    planes[_box(block)] = values.cpu().numpy()
    return planes


def _box(block: Block) -> tuple[slice, slice, slice]:
    assert block.values is not None
    _, y, x = block.values.shape
    return slice(None), slice(block.y, block.y + y), slice(block.x, block.x + x)


def _clear(folder: Path) -> None:
    """Remove an earlier prediction, first that it is one: another model's masks must not stay beside new ones."""
    folder.mkdir(parents=True, exist_ok=True)
    about = folder / "prediction.json"
    shutil.rmtree(folder / _WAITING, ignore_errors=True)
    for left in folder.glob(".*.tmp-*"):  # of a process that was killed
        left.unlink(missing_ok=True)
    if about.exists():
        names = (*read_json(about)["classes"], "labels", "probabilities", "inconsistency")
        about.unlink()
        for name in filter(_is_file_name, names):
            (folder / f"{name}.nii.gz").unlink(missing_ok=True)
        for name in (Format.SEG_NRRD.file_name, Format.DICOM_SEG.file_name, "labels.txt"):
            (folder / name).unlink(missing_ok=True)


def _is_file_name(name: str) -> bool:
    """Whether a class's files lie in the folder that they are meant for."""
    return bool(name) and "\0" not in name and Path(name).name == name
