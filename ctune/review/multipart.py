"""Forms with files, as clients of the MONAI Label protocol send and read them."""

from __future__ import annotations

import json
import secrets
from collections.abc import AsyncIterator
from typing import Any

from starlette.datastructures import FormData, Headers
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request
from starlette.responses import Response

from ctune.review.http import SMALL_BODY, Refused, object_of


def last_part(name: str) -> str:
    """Of a file's name: clients send whole paths of their own machine, with either kind of slash."""
    return name.replace("\\", "/").rpartition("/")[2]


async def form_of(request: Request, most: int) -> FormData:
    """The fields and files of a body of `most` bytes at most; files lie on the disk when they are large.

    The boundary is read from the body: some clients go on sending the header of an earlier request.
    Raises Refused: 413 for a larger body, 422 for no form.
    """
    stream = _limited(request, most)
    first = b""
    async for first in stream:
        if first:
            break
    mark, _, _ = first.partition(b"\r\n")
    if not mark.startswith(b"--") or len(mark) > 200:
        raise Refused(422, "expected a form with a file, got something else")
    headers = Headers({"content-type": f"multipart/form-data; boundary={mark[2:].decode('latin-1')}"})
    parser = MultiPartParser(
        headers, _and(first, stream), max_files=8, max_fields=8, max_part_size=SMALL_BODY
    )
    try:
        return await parser.parse()
    except (MultiPartException, KeyError, ValueError) as error:
        raise Refused(422, f"expected a form with a file, got one that is damaged: {error}") from None


def params_of(form: FormData) -> dict[str, Any]:
    """The JSON object in the field ``params``; empty when there is none. Raises Refused as ``object_of`` does."""
    said = form.get("params") or "{}"
    return object_of(said if isinstance(said, str) else "", "a JSON object in the field params")


def answer(params: dict[str, Any], name: str, file: bytes) -> Response:
    """``params`` as JSON and one file, ``image``, in one body of multipart/form-data."""
    boundary = secrets.token_hex(16)
    body = b"".join([
        f'--{boundary}\r\nContent-Disposition: form-data; name="params"\r\nContent-Type: application/json\r\n\r\n'.encode(),
        json.dumps(params).encode(),
        f'\r\n--{boundary}\r\nContent-Disposition: form-data; name="image"; filename="{name}"\r\n'.encode(),
        b"Content-Type: application/octet-stream\r\n\r\n", file, f"\r\n--{boundary}--\r\n".encode(),
    ])  # fmt: skip
    return Response(body, media_type=f"multipart/form-data; boundary={boundary}")


async def _limited(request: Request, most: int) -> AsyncIterator[bytes]:
    size = 0
    async for part in request.stream():
        size += len(part)
        if size > most:
            raise Refused(413, f"expected at most {most} bytes, got more")
        yield part


async def _and(first: bytes, rest: AsyncIterator[bytes]) -> Any:
    yield first
    async for part in rest:
        yield part
