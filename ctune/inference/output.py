"""The files of one prediction, written a block of planes at a time: masks or a label map, probabilities, volumes.

Everything is compressed and written by a thread behind the computation. Files appear whole, and ``prediction.json`` last: a
folder without it is an unfinished prediction.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import torch

from ctune.data.files import read_json, write_atomically, write_json
from ctune.data.gzip_blocks import GzipBlocks, Packed, pack, packed_zeros
from ctune.data.nifti import header_bytes
from ctune.inference.behind import Behind
from ctune.inference.blocks import Block
from ctune.inference.clock import Clock
from ctune.types import Grid

Blocked = npt.NDArray[Any]
"""(planes, Y, X), as a file holds it."""


@dataclass(frozen=True)
class Wanted:
    """What a prediction leaves. labels: one label map instead of a mask a class; probabilities: also these."""

    labels: bool = False
    probabilities: bool = False

    def level(self, threshold: float) -> float:
        """Probabilities at or below it make no difference to any file."""
        return min(threshold, 0.5 / 255) if self.probabilities else threshold


class CaseFiles:
    """The files of one case; give it every block in order, then ``finish``, or ``abandon`` on an error.

    about: what ``prediction.json`` says besides.
    """

    def __init__(
        self,
        folder: Path,
        grid: Grid,
        classes: Sequence[str],
        threshold: float,
        wanted: Wanted,
        about: dict[str, Any],
        behind: Behind,
        clock: Clock,
    ) -> None:
        self._folder, self._grid, self._classes, self._wanted = folder, grid, tuple(classes), wanted
        self._threshold, self._about, self._behind, self._clock = threshold, about, behind, clock
        self._voxels = np.zeros(len(self._classes), dtype=np.int64)
        self._open = ExitStack()
        _clear(folder)
        self._masks = [] if wanted.labels else [self._image(f"{n}.nii.gz", np.uint8) for n in self._classes]
        self._labels = _LabelMap(len(self._classes), threshold) if wanted.labels else None
        self._label_file = self._image("labels.nii.gz", self._labels.dtype) if self._labels else None
        self._values = {
            kind: _Channels(self._open, folder, name, grid, len(self._classes))
            for kind, name in (
                ("probability", "probabilities.nii.gz"),
                ("inconsistency", "inconsistency.nii.gz"),
            )
            if (wanted.probabilities if kind == "probability" else about["inconsistency"])
        }

    def take(self, block: Block) -> None:
        """Hand over the next block; its values may be changed afterwards."""
        shape = (block.planes, self._grid.shape[1], self._grid.shape[0])
        if block.kind in self._values:
            stored = None if block.values is None else (block.values * 255.0).round_().to(torch.uint8)
            self._later(self._values[block.kind].add, block.channel, _placed(stored, block, shape), shape)
        if block.kind == "inconsistency":
            return
        if self._labels is not None and self._label_file is not None:
            self._labels.add(block, shape)
            if block.channel == len(self._classes) - 1:
                self._later(self._label_file.add, labels := self._labels.take(shape), shape)
                self._voxels += np.bincount(labels.ravel(), minlength=len(self._classes) + 1)[1:]
            return
        mask = None if block.values is None else block.values > self._threshold
        if mask is not None:
            self._voxels[block.channel] += int(mask.sum())
        self._later(self._masks[block.channel].add, _placed(mask, block, shape), shape)

    def finish(self) -> None:
        """Let every file take its place, ``prediction.json`` last."""
        self._later(self._finish)

    def abandon(self) -> None:
        """Remove what was written."""
        self._open.pop_all().__exit__(RuntimeError, RuntimeError("abandoned"), None)

    def _finish(self) -> None:
        for image in (*self._masks, *([self._label_file] if self._label_file else [])):
            image.finish()
        for channels in self._values.values():
            channels.finish()
        self._open.close()
        volumes = {
            name: round(int(n) * self._grid.voxel_ml, 3)
            for name, n in zip(self._classes, self._voxels, strict=True)
        }
        write_json(self._folder / "prediction.json", {**self._about, "volumes_ml": volumes})

    def _image(self, name: str, dtype: npt.DTypeLike) -> _Image:
        return _Image(
            _opened(self._open, self._folder / name), header_bytes(self._grid, dtype), np.dtype(dtype)
        )

    def _later(self, function: Any, *arguments: Any) -> None:
        def timed() -> None:
            with self._clock("write"):
                function(*arguments)

        self._behind(timed)


class _Image:
    """One file of planes; None stands for planes of zeros."""

    def __init__(self, file: BinaryIO, header: bytes, dtype: np.dtype[Any]) -> None:
        self._blocks, self._bytes = GzipBlocks(file), dtype.itemsize
        self._blocks.add(pack(header))

    def add(self, planes: Blocked | None, shape: tuple[int, int, int]) -> None:
        self._blocks.add(_packed(planes, shape, self._bytes))

    def finish(self) -> None:
        self._blocks.finish()


class _Channels:
    """One file of all classes, the class slowest: blocks wait, compressed, in a file for each class."""

    def __init__(self, stack: ExitStack, folder: Path, name: str, grid: Grid, channels: int) -> None:
        self._file = _opened(stack, folder / name)
        self._header = header_bytes(grid, np.uint8, channels, slope=1 / 255)
        self._waiting = [_Waiting(stack, folder / f".{k}.tmp-{name}") for k in range(channels)]

    def add(self, channel: int, planes: Blocked | None, shape: tuple[int, int, int]) -> None:
        self._waiting[channel].add(_packed(planes, shape, 1))

    def finish(self) -> None:
        blocks = GzipBlocks(self._file)
        blocks.add(pack(self._header))
        for waiting in self._waiting:
            waiting.move_to(blocks)
        blocks.finish()


class _Waiting:
    """Compressed blocks on disk until their turn comes."""

    def __init__(self, stack: ExitStack, path: Path) -> None:
        stack.callback(path.unlink, missing_ok=True)
        self._file = stack.enter_context(path.open("w+b"))
        self._blocks: list[tuple[int, int, int]] = []

    def add(self, block: Packed) -> None:
        self._file.write(block.data)
        self._blocks.append((len(block.data), block.crc, block.length))

    def move_to(self, blocks: GzipBlocks) -> None:
        self._file.seek(0)
        for size, crc, length in self._blocks:
            blocks.add(Packed(self._file.read(size), crc, length))


class _LabelMap:
    """Labels of a block of planes: 1 + the channel of the class that is most probable, 0 where none is above the
    threshold; the earlier class where two are equal."""

    def __init__(self, classes: int, threshold: float) -> None:
        self.dtype = np.dtype(np.uint8 if classes < 256 else np.uint16)
        self._threshold = threshold
        self._best: npt.NDArray[np.float32] | None = None
        self._labels: Blocked | None = None

    def add(self, block: Block, shape: tuple[int, int, int]) -> None:
        if self._best is None or self._labels is None:
            self._best, self._labels = (
                np.full(shape, self._threshold, np.float32),
                np.zeros(shape, self.dtype),
            )
        if block.values is not None:
            values, box = block.values.cpu().numpy(), _box(block)
            better = values > self._best[box]
            self._best[box][better] = values[better]
            self._labels[box][better] = block.channel + 1

    def take(self, shape: tuple[int, int, int]) -> Blocked:
        labels = self._labels
        self._best = self._labels = None
        return np.zeros(shape, self.dtype) if labels is None else labels


def _opened(stack: ExitStack, path: Path) -> BinaryIO:
    temporary = stack.enter_context(write_atomically(path))
    return stack.enter_context(temporary.open("wb"))


def _placed(values: torch.Tensor | None, block: Block, shape: tuple[int, int, int]) -> Blocked | None:
    """The box in planes of zeros; None when it holds nothing."""
    if values is None or not bool(values.any()):
        return None
    planes = np.zeros(shape, dtype=np.uint8)
    planes[_box(block)] = values.cpu().numpy()
    return planes


def _box(block: Block) -> tuple[slice, slice, slice]:
    assert block.values is not None
    _, y, x = block.values.shape
    return slice(None), slice(block.y, block.y + y), slice(block.x, block.x + x)


def _packed(planes: Blocked | None, shape: tuple[int, int, int], itemsize: int) -> Packed:
    if planes is None:
        return packed_zeros(int(np.prod(shape)) * itemsize)
    return pack(planes.view(np.uint8))


def _clear(folder: Path) -> None:
    """Remove an earlier prediction, first that it is one: another model's masks must not stay beside new ones."""
    folder.mkdir(parents=True, exist_ok=True)
    about = folder / "prediction.json"
    if about.exists():
        names = (*read_json(about)["classes"], "labels", "probabilities", "inconsistency")
        about.unlink()
        for name in names:
            (folder / f"{name}.nii.gz").unlink(missing_ok=True)
