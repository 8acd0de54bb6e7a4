"""What all handlers share: who asks, bodies within limits, refusals in one line, and headers that guard the page."""

from __future__ import annotations

import errno
import json
import logging
import os
import zlib
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ctune.errors import UsageError
from ctune.review.desk import ReviewDesk
from ctune.review.tokens import Expert

_LOG = logging.getLogger(__name__)
SMALL_BODY = 64 * 1024
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; font-src 'self' data:; "
    "connect-src 'self' data: blob:; worker-src 'self' blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = (
    (b"content-security-policy", _POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
)


class Refused(Exception):
    """A request that ends here: an HTTP status and one line why."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status


class Guards:
    """Puts the guards of the page on every answer."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", []), *_HEADERS]
            await send(message)

        await self.app(scope, receive, guarded)


def who(desk: ReviewDesk, request: Request, role: str) -> Expert:
    """Whose session the request carries in its Authorization header. Raises Refused: 401 for none, 403 for another role."""
    scheme, _, secret = request.headers.get("authorization", "").partition(" ")
    expert = desk.signed_in(secret) if scheme.lower() == "bearer" and secret else None
    if expert is None:
        raise Refused(
            401, "expected a session of this project, got none or one that is over; open the link again"
        )
    if not expert.may(role):
        raise Refused(
            403, f"expected the role {role}, {expert.name} has {expert.role}; ask whoever gives the tokens"
        )
    return expert


async def body_of(request: Request, most: int) -> bytes:
    """The whole body. Raises Refused (413) for more than `most` bytes, as soon as they are more."""
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > most:
            raise Refused(413, f"expected at most {most} bytes, got more")
        parts.append(part)
    return b"".join(parts)


async def json_of(request: Request) -> dict[str, Any]:
    """The JSON object of a small body. Raises Refused as ``object_of`` does."""
    return object_of(await body_of(request, SMALL_BODY), "one JSON object")


def object_of(text: str | bytes, expected: str) -> dict[str, Any]:
    """The JSON object that a text is. Raises Refused: 422 for anything else.

    400 for half of a surrogate pair: JSON can say it, but no file, no hash and no answer can hold it.
    """
    try:
        found = json.loads(text)
        for name, value in found.items() if isinstance(found, dict) else ():
            _whole(name, value)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise Refused(422, f"expected {expected}, got something else")
    return found


def _whole(name: str, value: Any) -> None:
    try:
        json.dumps({name: value}, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        half = ascii(error.object[error.start])[1:-1]
        raise Refused(
            400, f"expected whole characters in {name!a}, got half of one, {half}; write it anew"
        ) from None


def unzipped(data: bytes, size: int) -> bytes:
    """Never more than `size` bytes and one, whatever a small body would swell to."""
    try:
        return zlib.decompressobj(wbits=31).decompress(data, size + 1)
    except zlib.error:
        raise Refused(422, "expected the voxels as gzip, got something else") from None


def id_of(request: Request) -> str:
    return str(request.path_params["id"])


async def refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, Refused)
    return JSONResponse({"error": str(error)}, error.status)


async def not_written(request: Request, error: Exception) -> Response:
    """The server's files or its database fail: said without a path, so that the page keeps its work and tries again."""
    _LOG.error("%s %s: %s", request.method, request.url.path, error)
    number = error.errno if isinstance(error, OSError) else None
    full = number in (errno.ENOSPC, errno.EDQUOT) or "disk is full" in str(error)
    why = "its disk is full" if full else os.strerror(number) if number else f"its database: {error}"
    what = f"expected the server to read and write its files, {why}; tell whoever runs it"
    return JSONResponse({"error": what}, 507 if full else 500)


async def failed(request: Request, error: Exception) -> Response:
    status = 422 if isinstance(error, UsageError) else 409
    return JSONResponse({"error": str(error)}, status)
