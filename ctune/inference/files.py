"""NIfTI files that grow by blocks of planes, compressed on their own and, where they must wait, kept so on disk."""

from __future__ import annotations

import zlib
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

import numpy as np
import numpy.typing as npt

from ctune.data.files import write_atomically
from ctune.data.gzip_blocks import GzipBlocks, Packed, pack, packed_zeros
from ctune.data.nifti import header_bytes
from ctune.types import Grid

Planes: TypeAlias = npt.NDArray[Any]
"""(planes, Y, X), in the order in which a file holds voxels."""


class PlaneFile:
    """A file of one volume on `grid`, whole when `stack` is left without an error.

    held: blocks wait until ``finish``, so that the volume can be read and replaced before.
    """

    def __init__(
        self, stack: ExitStack, path: Path, grid: Grid, dtype: npt.DTypeLike, held: bool = False
    ) -> None:
        self._grid, self._dtype = grid, np.dtype(dtype)
        self._blocks = _begun(stack, path, header_bytes(grid, dtype))
        self._waiting = _Waiting(stack, path.with_name(f".waiting.tmp-{path.name}")) if held else None

    def add(self, planes: Planes | None, count: int) -> None:
        """Append `count` planes; None stands for zeros."""
        block = _packed(planes, count * self._plane_bytes)
        if self._waiting is not None:
            self._waiting.add(block)
        else:
            self._blocks.add(block)

    def read(self) -> Planes:
        """The whole held volume, (X, Y, Z)."""
        assert self._waiting is not None
        stored = np.frombuffer(bytearray().join(self._waiting.plain()), dtype=self._dtype)
        return stored.reshape(self._grid.shape[::-1]).T

    def replace(self, volume: Planes) -> None:
        """Put another volume (X, Y, Z) in the place of the held one."""
        assert self._waiting is not None
        planes, z = volume.T, 0
        counts = [length // self._plane_bytes for length in self._waiting.clear()]
        for count in counts:
            part = np.ascontiguousarray(planes[z : z + count], dtype=self._dtype)
            self.add(part if part.any() else None, count)
            z += count

    def finish(self) -> None:
        """Write the end of the file."""
        if self._waiting is not None:
            self._waiting.move_to(self._blocks)
        self._blocks.finish()

    @property
    def _plane_bytes(self) -> int:
        return self._grid.shape[0] * self._grid.shape[1] * self._dtype.itemsize


class ChannelFile:
    """A file of one volume a channel, uint8 in steps of 1/255, the channel slowest: channels wait until ``finish``."""

    def __init__(self, stack: ExitStack, path: Path, grid: Grid, channels: int) -> None:
        self._plane_bytes = grid.shape[0] * grid.shape[1]
        self._blocks = _begun(stack, path, header_bytes(grid, np.uint8, channels, slope=1 / 255))
        self._waiting = [
            _Waiting(stack, path.with_name(f".{k}.waiting.tmp-{path.name}")) for k in range(channels)
        ]

    def add(self, channel: int, planes: Planes | None, count: int) -> None:
        """Append `count` planes to a channel; None stands for zeros."""
        self._waiting[channel].add(_packed(planes, count * self._plane_bytes))

    def finish(self) -> None:
        """Write the channels and the end of the file."""
        for waiting in self._waiting:
            waiting.move_to(self._blocks)
        self._blocks.finish()


class _Waiting:
    """Compressed blocks in a file of their own until their turn comes."""

    def __init__(self, stack: ExitStack, path: Path) -> None:
        stack.callback(path.unlink, missing_ok=True)
        self._file: BinaryIO = stack.enter_context(path.open("w+b"))
        self._blocks: list[tuple[int, int, int]] = []

    def add(self, block: Packed) -> None:
        self._file.write(block.data)
        self._blocks.append((len(block.data), block.crc, block.length))

    def move_to(self, blocks: GzipBlocks) -> None:
        self._file.seek(0)
        for size, crc, length in self._blocks:
            blocks.add(Packed(self._file.read(size), crc, length))

    def plain(self) -> list[bytes]:
        self._file.seek(0)
        return [
            zlib.decompressobj(-zlib.MAX_WBITS).decompress(self._file.read(size)) for size, *_ in self._blocks
        ]

    def clear(self) -> list[int]:
        """Forget everything; returns the plain lengths of the blocks that were there."""
        lengths = [length for *_, length in self._blocks]
        self._file.seek(0)
        self._file.truncate()
        self._blocks = []
        return lengths


def _begun(stack: ExitStack, path: Path, header: bytes) -> GzipBlocks:
    temporary = stack.enter_context(write_atomically(path))
    blocks = GzipBlocks(stack.enter_context(temporary.open("wb")))
    blocks.add(pack(header))
    return blocks


def _packed(planes: Planes | None, length: int) -> Packed:
    return packed_zeros(length) if planes is None else pack(planes.view(np.uint8))
