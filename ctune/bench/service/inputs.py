"""Requests that nobody should send: damaged, lying, huge or strange; each kind from a seeded generator."""

from __future__ import annotations

import gzip
import io
import struct
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from ctune.data.nifti import header_bytes
from ctune.types import Grid

_GRID = Grid((12, 10, 8), np.diag([-2.0, 2.0, 3.0, 1.0]))
_BOMB = 64 * 2**20


@dataclass(frozen=True, eq=False)
class Bad:
    """One request. kind: for the table of results. mine: whether the service's own token goes with it."""

    kind: str
    path: str
    data: bytes
    headers: dict[str, str] = field(default_factory=dict)
    mine: bool = True


def bad_inputs(count: int, seed: int) -> Iterator[Bad]:
    """`count` requests, every kind in turn; the same for the same seed."""
    rng = np.random.default_rng(seed)
    whole = _whole(rng)
    kinds = (
        _truncated, _random, _flipped, _shape, _four, _nan, _bomb, _zip_bomb, _zip_names, _token, _form_name, _query,
        _nrrd, _affine, _dtype, _path,
    )  # fmt: skip
    for number in range(count):
        yield kinds[number % len(kinds)](rng, whole)


def _whole(rng: np.random.Generator, dtype: type = np.int16) -> bytes:
    hu: npt.NDArray[Any] = rng.normal(0, 100, _GRID.shape).astype(dtype)
    return header_bytes(_GRID, dtype) + hu.tobytes(order="F")


def _truncated(rng: np.random.Generator, whole: bytes) -> Bad:
    packed = gzip.compress(whole, mtime=0) if rng.random() < 0.5 else whole
    return Bad("truncated", "/segment", packed[: int(rng.integers(0, len(packed)))])


def _random(rng: np.random.Generator, whole: bytes) -> Bad:
    begin = [b"", b"\x1f\x8b\x08", b"PK\x03\x04", b"NRRD0004\n", b"\x5c\x01\0\0"][int(rng.integers(5))]
    return Bad("random bytes", "/segment", begin + rng.bytes(int(rng.integers(1, 4000))))


def _flipped(rng: np.random.Generator, whole: bytes) -> Bad:
    data = bytearray(gzip.compress(whole, mtime=0) if rng.random() < 0.5 else whole)
    for _ in range(int(rng.integers(1, 6))):
        data[int(rng.integers(min(len(data), 352)))] = int(rng.integers(256))
    return Bad("flipped bytes of a header", "/segment", bytes(data))


def _shape(rng: np.random.Generator, whole: bytes) -> Bad:
    sides = [int(n) for n in rng.choice([-32768, -1, 0, 1, 2, 5000, 32767], 7)]
    return Bad("wrong shape", "/segment", _with(whole, 40, "<8h", int(rng.integers(-2, 9)), *sides))


def _four(rng: np.random.Generator, whole: bytes) -> Bad:
    times = int(rng.integers(2, 8))
    data = _with(whole, 40, "<8h", 4, *_GRID.shape, times, 1, 1, 1)
    return Bad("four dimensions", "/segment", data + whole[352:] * (times - 1))


def _nan(rng: np.random.Generator, whole: bytes) -> Bad:
    data = bytearray(_whole(rng, np.float32))
    value = [float("nan"), float("inf"), -float("inf")][int(rng.integers(3))]
    struct.pack_into("<f", data, 352 + 4 * int(rng.integers(900)), value)
    return Bad("not a number", "/segment", gzip.compress(bytes(data), mtime=0))


def _bomb(rng: np.random.Generator, whole: bytes) -> Bad:
    if rng.random() < 0.5:
        vast = _with(whole, 40, "<8h", 3, 32767, 32767, 32767, 1, 1, 1, 1)
        return Bad("gzip bomb", "/segment", gzip.compress(vast, mtime=0))
    return Bad("gzip bomb", "/segment", gzip.compress(whole + bytes(_BOMB), 1, mtime=0))


def _zip_bomb(rng: np.random.Generator, whole: bytes) -> Bad:
    return Bad(
        "zip bomb",
        "/segment",
        _zipped({f"{n}.dcm": bytes(_BOMB // 8) for n in range(int(rng.integers(1, 5)))}),
    )


def _zip_names(rng: np.random.Generator, whole: bytes) -> Bad:
    names = ["../../etc/passwd", "/etc/passwd", "C:\\x", "a" * 5000, "\u202etxt.exe", "con", " "]
    return Bad("names in a zip", "/segment", _zipped({str(rng.choice(names)): rng.bytes(200)}))


def _token(rng: np.random.Generator, whole: bytes) -> Bad:
    tokens = [
        "",
        "Bearer",
        "Bearer  x",
        "Bearer x" * 500,
        f"Basic {rng.bytes(9).hex()}",
        f"Bearer {rng.bytes(32).hex()}",
    ]
    path = str(rng.choice(["/segment", "/jobs", "/model", "/importance", "/jobs/x"]))
    return Bad("wrong token", path, whole, {"authorization": str(rng.choice(tokens))}, mine=False)


def _form_name(rng: np.random.Generator, whole: bytes) -> Bad:
    name = str(rng.choice(["../../x.nii.gz", "/etc/cron.d/x", "..\\..\\x", "%00", "a" * 4000, "x\u0000y"]))
    part = str(rng.choice(["file", "files", "", "classes", "file[]"]))
    body = f'--b\r\nContent-Disposition: form-data; name="{part}"; filename="{name}"\r\n\r\n'.encode() + whole
    body += [b"\r\n--b--\r\n", b"\r\n--b", b""][int(rng.integers(3))]
    return Bad("path names in a form", "/segment", body, {"content-type": "multipart/form-data; boundary=b"})


def _query(rng: np.random.Generator, whole: bytes) -> Bad:
    queries = [
        "classes=../../etc/passwd", "classes=%00", "output=../x", "output=exe", "classes=" + "liver," * 900, "classes=%ff%fe",
        "output=dicom-seg", "classes=liver&classes=spleen", "output=seg.nrrd&classes=nothing",
    ]  # fmt: skip
    return Bad(
        "strange queries",
        f"/segment?{queries[int(rng.integers(len(queries)))]}",
        gzip.compress(whole, mtime=0),
    )


def _nrrd(rng: np.random.Generator, whole: bytes) -> Bad:
    sizes = " ".join(str(n) for n in rng.choice([0, -1, 2, 9999, 10**12], 3))
    extra = str(
        rng.choice(
            ["data file: /etc/passwd", "encoding: gzip", "encoding: raw", "type: block", "space: none"]
        )
    )
    head = f"NRRD0004\ntype: short\ndimension: 3\nsizes: {sizes}\n{extra}\n\n".encode()
    return Bad("damaged NRRD", "/segment", head + rng.bytes(64))


def _affine(rng: np.random.Generator, whole: bytes) -> Bad:
    values = rng.choice([0.0, 1e-30, 1.0, 1e9, 1e30, float("nan"), float("inf")], 12)
    return Bad("wrong geometry", "/segment", gzip.compress(_with(whole, 280, "<12f", *values), mtime=0))


def _dtype(rng: np.random.Generator, whole: bytes) -> Bad:
    codes = (0, 1, 32, 128, 1536, 1792, 2048, 2304, -1, 9999)
    return Bad("wrong type of voxels", "/segment", _with(whole, 70, "<h", int(rng.choice(codes))))


def _path(rng: np.random.Generator, whole: bytes) -> Bad:
    paths = (
        "/jobs/../../etc/passwd",
        "/jobs/%2e%2e%2f",
        "/page/../app.py",
        "/" + "a" * 5000,
        "/segment/",
        "/jobs/'; DROP TABLE jobs",
    )
    return Bad("strange paths", str(rng.choice(paths)), whole)


def _with(whole: bytes, place: int, format: str, *values: float) -> bytes:
    data = bytearray(whole)
    struct.pack_into(format, data, place, *values)
    return bytes(data)


def _zipped(entries: dict[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in entries.items():
            # A fixed time: the same bytes again.
            archive.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), data, zipfile.ZIP_DEFLATED)
    return packed.getvalue()
