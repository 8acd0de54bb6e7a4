"""A gzip file of blocks that are compressed each on its own: by any thread, in any order, a block of zeros once for all.

Each block ends at a byte with an empty dictionary (a "full flush", RFC 1951, as pigz writes), so that blocks joined are one
ordinary gzip member. The checksum of the whole comes from those of the blocks, as zlib's ``crc32_combine`` does it.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from functools import lru_cache
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

_LEVEL = 6
# No time, no name, unknown system: the same blocks give the same bytes.
_HEAD = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff"
_LAST = b"\x03\x00"
_POLYNOMIAL = 0xEDB88320


@dataclass(frozen=True)
class Packed:
    """One compressed block; crc and length are those of its plain bytes."""

    data: bytes
    crc: int
    length: int


def pack(block: bytes | npt.NDArray[np.uint8]) -> Packed:
    """Compress one block, an array in C order; zlib lets other threads run meanwhile."""
    plain = block if isinstance(block, bytes) else block.data.cast("B")
    deflate = zlib.compressobj(_LEVEL, zlib.DEFLATED, -zlib.MAX_WBITS)
    data = deflate.compress(plain) + deflate.flush(zlib.Z_FULL_FLUSH)
    return Packed(data, zlib.crc32(plain), len(plain))


@lru_cache(maxsize=64)
def packed_zeros(length: int) -> Packed:
    """A block of `length` zero bytes."""
    return pack(bytes(length))


class GzipBlocks:
    """Writes blocks in the order in which they come.

    >>> import gzip, io
    >>> file = io.BytesIO()
    >>> blocks = GzipBlocks(file)
    >>> for block in (pack(b"liver"), packed_zeros(3)):
    ...     blocks.add(block)
    >>> blocks.finish()
    >>> gzip.decompress(file.getvalue())
    b'liver\\x00\\x00\\x00'
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._crc, self._length = file, 0, 0
        file.write(_HEAD)

    def add(self, block: Packed) -> None:
        """Append a block."""
        self._file.write(block.data)
        self._crc = _times(_shift(block.length), self._crc) ^ block.crc
        self._length += block.length

    def finish(self) -> None:
        """Write the end; the file stays open."""
        self._file.write(_LAST + struct.pack("<II", self._crc, self._length & 0xFFFFFFFF))


def _times(a: int, b: int) -> int:
    """Product of two polynomials over two elements modulo that of CRC-32, in its reflected order of bits."""
    product, bit = 0, 1 << 31
    while True:
        if a & bit:
            product ^= b
            if not a & (bit - 1):
                return product
        bit >>= 1
        b = (b >> 1) ^ _POLYNOMIAL if b & 1 else b >> 1
        if not bit:
            return product


@lru_cache(maxsize=64)
def _shift(length: int) -> int:
    """x^(8 length): what turns the checksum of some bytes into its part in that of the bytes and `length` more."""
    square, power = 1 << 23, 1 << 31  # x^8 and x^0
    while length:
        if length & 1:
            power = _times(square, power)
        square = _times(square, square)
        length >>= 1
    return power
