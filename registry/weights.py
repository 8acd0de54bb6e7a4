"""Weights are safetensors: a length, a JSON header, raw numbers. Nothing in them can run.

The layout is the safetensors format's own (https://huggingface.co/docs/safetensors): 8 bytes of length, little-endian, then
the header {name: {dtype, shape, data_offsets}}, then the data.
"""

from __future__ import annotations

import json
from collections.abc import Iterable

from registry.errors import WeightsError

_LONGEST_HEADER = 100_000_000
"""The format's own limit in bytes."""


def check_weights(chunks: Iterable[bytes], size: int, what: str) -> None:
    """Raise WeightsError unless the blob of `size` bytes that begins with `chunks` is laid out as safetensors.

    Only the header is read. `what` names the blob in the message.
    """
    data, iterator = b"", iter(chunks)
    while len(data) < 8 and (chunk := next(iterator, b"")):
        data += chunk
    length = int.from_bytes(data[:8], "little")
    if length > _LONGEST_HEADER:  # no header: do not read gigabytes to find out
        raise _not_safetensors(what, data)
    while len(data) < 8 + length and (chunk := next(iterator, b"")):
        data += chunk
    try:
        header = json.loads(data[8 : 8 + length])
        ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
        last = max(ends, default=0)
        if not all(type(end) is int for end in ends):
            raise TypeError("an offset is a whole number")
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError):
        raise _not_safetensors(what, data) from None
    if 8 + length + last != size:
        raise WeightsError(
            f"expected {what} to be {8 + length + last} bytes as its header says, got {size}; "
            "save it again with safetensors"
        )


def _not_safetensors(what: str, data: bytes) -> WeightsError:
    # A zip is what torch.save writes; 0x80 opens a bare pickle of protocol 2 and later.
    pickled = data.startswith((b"PK\x03\x04", b"\x80"))
    got = (
        "a pickle, which could run code and is never loaded" if pickled else f"bytes that begin {data[:8]!r}"
    )
    return WeightsError(f"expected {what} to be safetensors, got {got}; save the weights with safetensors")
