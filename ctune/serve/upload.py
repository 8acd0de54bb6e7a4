"""Taking in what a client sends: one file, bare or as a form, no more than a limit, no slower than a limit.

The file goes to an unnamed temporary file: it is gone with the process, however that ends. Names that a client gives to files
are never used.
"""

from __future__ import annotations

import asyncio
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, cast

from python_multipart import MultipartParser
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import parse_options_header
from starlette.requests import Request

from ctune.serve.faults import Refused

_MOST_FIELD = 8 * 1024
_MOST_PARTS = 8


@dataclass(eq=False)
class Upload:
    """file: what was sent, to be closed by whoever took it in. fields: of the query and of the form."""

    file: BinaryIO
    size: int = 0
    fields: dict[str, str] = field(default_factory=dict)


async def receive(request: Request, folder: Path, most: int, seconds: float) -> Upload:
    """The file of a request and its fields. Raises Refused: 413 for more than `most` bytes, 408 when it takes longer than
    `seconds`, 422 for a form without one file, 499 when the client is gone."""
    upload = Upload(cast("BinaryIO", tempfile.TemporaryFile(dir=folder)), fields=dict(request.query_params))  # noqa: SIM115
    try:
        if int(_number(request.headers.get("content-length", "0"))) > most + _MOST_FIELD:
            raise _too_much(most)
        kind, options = parse_options_header(request.headers.get("content-type", ""))
        taker: _Bare | _Form = _Bare(upload)
        if kind == b"multipart/form-data":
            taker = _Form(upload, options.get(b"boundary", b""))
        async with asyncio.timeout(seconds):
            await _stream(request, taker, most)
        taker.finish()
        if not upload.size:
            raise Refused(422, "expected a CT in the body or as the field 'file' of a form, got nothing")
        upload.file.seek(0)
        return upload
    except TimeoutError:
        upload.file.close()
        raise Refused(408, f"expected the upload within {seconds:g} s, it took longer") from None
    except BaseException:
        upload.file.close()
        raise


async def _stream(request: Request, taker: _Bare | _Form, most: int) -> None:
    came = 0
    async for part in request.stream():
        came += len(part)
        if came > most + _MOST_FIELD:
            raise _too_much(most)
        taker.write(part)


class _Bare:
    def __init__(self, upload: Upload) -> None:
        self._upload = upload

    def write(self, data: bytes) -> None:
        self._upload.file.write(data)
        self._upload.size += len(data)

    def finish(self) -> None:
        pass


class _Form:
    """multipart/form-data: the field `file`, and short text fields beside it."""

    def __init__(self, upload: Upload, boundary: bytes) -> None:
        self._upload, self._files, self._parts = upload, 0, 0
        self._header, self._value, self._text = b"", b"", b""
        self._name = ""
        self._is_file = False
        try:
            self._parser = MultipartParser(
                boundary,
                {
                    "on_part_begin": self._begin,
                    "on_header_field": self._header_field,
                    "on_header_value": self._header_value,
                    "on_header_end": self._header_end,
                    "on_part_data": self._data,
                    "on_part_end": self._end,
                },
            )
        except FormParserError:
            raise _no_form() from None

    def write(self, data: bytes) -> None:
        try:
            self._parser.write(data)
        except FormParserError:
            raise _no_form() from None

    def finish(self) -> None:
        try:
            self._parser.finalize()
        except FormParserError:
            raise _no_form() from None
        if self._files != 1:
            raise Refused(422, f"expected one field 'file' in the form, got {self._files}; send one volume")

    def _begin(self) -> None:
        self._parts += 1
        self._name, self._is_file, self._text = "", False, b""
        if self._parts > _MOST_PARTS:
            raise Refused(422, f"expected at most {_MOST_PARTS} fields in the form, got more")

    def _header_field(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _header_end(self) -> None:
        if self._header.lower() == b"content-disposition":
            _, options = parse_options_header(self._value)
            self._name = options.get(b"name", b"").decode("utf-8", "replace")
            self._is_file = self._name == "file"
            self._files += self._is_file
        self._header, self._value = b"", b""

    def _data(self, data: bytes, start: int, end: int) -> None:
        if self._is_file:
            if self._files == 1:
                self._upload.file.write(data[start:end])
                self._upload.size += end - start
        else:
            self._text += data[start:end]
            if len(self._text) > _MOST_FIELD:
                raise Refused(422, f"expected text fields of at most {_MOST_FIELD} bytes, got more")

    def _end(self) -> None:
        if not self._is_file and self._name:
            self._upload.fields[self._name] = self._text.decode("utf-8", "replace")


def _no_form() -> Refused:
    return Refused(422, "expected a form (multipart/form-data) that can be read, got something else")


def _too_much(most: int) -> Refused:
    return Refused(413, f"expected at most {most} bytes, got more; compress the volume or crop it")


def _number(text: str) -> int:
    return int(text) if text.isdecimal() and len(text) < 16 else 0
