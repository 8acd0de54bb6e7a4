"""The review page over HTTP: every handler checks who asks, calls the desk once, and answers.

A token travels in the Authorization header alone, which no other site can make a browser send: there is no cookie to forge
a request with. Ids are looked up in the queue, never joined to a path before.
"""

from __future__ import annotations

import gzip
import hashlib
import hmac
import json
import zlib
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ctune.data.nifti import header_bytes
from ctune.errors import CtuneError, UsageError
from ctune.project import Project
from ctune.review.desk import ReviewDesk
from ctune.review.state import LeasedError
from ctune.review.tokens import Expert, check_token, hashed
from ctune.types import Mask

PAGE = Path(__file__).parent / "page"
_SMALL_BODY = 64 * 1024
_LONGEST_COMMENT = 2000
_MOST_SECONDS = 120.0
"""More active seconds than this between two reports are not believed: the page reports every few seconds."""
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


class Page:
    """The handlers. `link_token`: works once, for the one who started the server; `tokens`: the experts' file."""

    def __init__(
        self, project: Project, tokens: Path | None, link_token: str | None, owner: Expert | None
    ) -> None:
        self.desk = ReviewDesk(project)
        self.tokens, self.link_token, self.owner = tokens, link_token, owner

    async def session(self, request: Request) -> Response:
        """A token for a session: what the page sends from then on."""
        token = str((await _json(request)).get("token", ""))
        expert = check_token(self.tokens, token) if self.tokens else None
        if expert is None and self.link_token and hmac.compare_digest(hashed(token), hashed(self.link_token)):
            expert, self.link_token = self.owner, None
        if expert is None:
            raise Refused(
                401, "expected a token of this project, got an unknown or used one; ask for a new one"
            )
        self.desk.audit.append(expert.name, "signed in")
        return JSONResponse(
            {"session": self.desk.state.new_session(expert), "expert": expert.name, "role": expert.role}
        )

    async def queue(self, request: Request) -> Response:
        expert = self._who(request, "view")
        found = await run_in_threadpool(self.desk.queue, expert.name)
        return JSONResponse({**found, "expert": expert.name, "role": expert.role})

    async def case(self, request: Request) -> Response:
        expert, case_id = self._who(request, "view"), _id(request)
        found = await run_in_threadpool(self.desk.case, case_id, expert.name)
        self.desk.audit.append(expert.name, "saw", case_id)
        return JSONResponse(found)

    async def ct(self, request: Request) -> Response:
        """The CT's own bytes; asks for a range or a known version are answered as such."""
        self._who(request, "view")
        record = self.desk.project.pool.case(self.desk.row(_id(request)).case_id)
        tag = f'"{record.sha256}"'
        if request.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers={"etag": tag})
        return FileResponse(record.image, media_type="application/octet-stream", headers={"etag": tag})

    async def attention(self, request: Request) -> Response:
        self._who(request, "view")
        path = self.desk.attention(_id(request))
        if path is None:
            raise Refused(404, f"case {_id(request)}: no attention map in this round")
        return FileResponse(path, media_type="application/octet-stream")

    async def labels(self, request: Request) -> Response:
        expert, case_id = self._who(request, "view"), _id(request)
        return await self._image(
            case_id, await run_in_threadpool(self.desk.labels, case_id, expert.name), request
        )

    async def mask(self, request: Request) -> Response:
        expert, case_id = self._who(request, "view"), _id(request)
        name = request.path_params["name"]
        found = await run_in_threadpool(self.desk.mask, case_id, name, expert.name)
        return await self._image(case_id, found, request)

    async def draft(self, request: Request) -> Response:
        """Keep a draft: gzip of the voxels, uint8 of 0 and 1, X fastest."""
        expert, case_id = self._who(request, "revise"), _id(request)
        shape = self.desk.project.pool.grid(self.desk.row(case_id).case_id).shape
        size = shape[0] * shape[1] * shape[2]
        voxels = _unzipped(await _body(request, size + _SMALL_BODY), size)
        name = request.path_params["name"]
        version = await run_in_threadpool(self.desk.save_draft, case_id, name, voxels, expert.name)
        return JSONResponse({"version": version})

    async def lease(self, request: Request) -> Response:
        """POST takes or renews, DELETE gives back."""
        expert, case_id = self._who(request, "revise"), self.desk.row(_id(request)).case_id
        if request.method == "DELETE":
            self.desk.state.release(case_id, expert.name)
            return JSONResponse({})
        try:
            return JSONResponse({"until": self.desk.state.lease(case_id, expert.name).until})
        except LeasedError as error:
            raise Refused(409, str(error)) from None

    async def seconds(self, request: Request) -> Response:
        expert, case_id = self._who(request, "revise"), self.desk.row(_id(request)).case_id
        more = (await _json(request)).get("seconds")
        if not isinstance(more, int | float) or not 0 <= more <= _MOST_SECONDS:
            raise Refused(422, f"expected 0 to {_MOST_SECONDS:.0f} active seconds, got {more!r}")
        total = self.desk.state.add_seconds(case_id, expert.name, self.desk.round_number, float(more))
        return JSONResponse({"seconds": total})

    async def verdict(self, request: Request) -> Response:
        """{"verdict": "as_is" | "edited" | "cannot_judge", "comment": text}"""
        expert, case_id = self._who(request, "revise"), _id(request)
        said = await _json(request)
        verdict, comment = said.get("verdict"), str(said.get("comment", ""))[:_LONGEST_COMMENT]
        if verdict == "cannot_judge":
            await run_in_threadpool(self.desk.cannot_judge, case_id, expert.name, comment)
            return JSONResponse({"revised": [], "agreement": None})
        if verdict not in ("as_is", "edited"):
            raise Refused(422, f"expected a verdict of as_is, edited or cannot_judge; got {verdict!r}")
        edited = verdict == "edited"
        done = await run_in_threadpool(
            lambda: self.desk.accept(case_id, expert.name, edited=edited, comment=comment)
        )
        return JSONResponse(done)

    def _who(self, request: Request, role: str) -> Expert:
        scheme, _, secret = request.headers.get("authorization", "").partition(" ")
        expert = self.desk.state.session(secret) if scheme == "Bearer" and secret else None
        if expert is None:
            raise Refused(
                401, "expected a session of this project, got none or one that is over; open the link again"
            )
        if not expert.may(role):
            raise Refused(
                403,
                f"expected the role {role}, {expert.name} has {expert.role}; ask whoever gives the tokens",
            )
        return expert

    async def _image(self, case_id: str, mask: Mask, request: Request) -> Response:
        grid = self.desk.project.pool.grid(case_id)
        data = header_bytes(grid, mask.dtype) + mask.tobytes(order="F")
        tag = f'"{hashlib.sha256(data).hexdigest()}"'
        if request.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers={"etag": tag})
        packed = await run_in_threadpool(gzip.compress, data, 1)
        headers = {"etag": tag, "content-encoding": "gzip", "cache-control": "private, no-cache"}
        return Response(packed, media_type="application/octet-stream", headers=headers)


class _Headers:
    """Puts the guards of the page on every answer."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", []), *_HEADERS]
            await send(message)

        await self.app(scope, receive, guarded)


def build_app(
    project: Project, *, tokens: Path | None = None, link_token: str | None = None, owner: Expert | None = None,
    hosts: tuple[str, ...] = ("127.0.0.1", "localhost", "testserver"),
) -> Starlette:  # fmt: skip
    """The page and its API. `hosts` are the names it answers to: a name that somebody pointed here is refused."""
    page = Page(project, tokens, link_token, owner)
    one = "/api/cases/{id}"
    routes = [
        Route("/api/session", page.session, methods=["POST"]),
        Route("/api/queue", page.queue),
        Route(one, page.case),
        Route(f"{one}/ct", page.ct),
        Route(f"{one}/attention", page.attention),
        Route(f"{one}/labels", page.labels),
        Route(f"{one}/masks/{{name}}", page.mask),
        Route(f"{one}/drafts/{{name}}", page.draft, methods=["PUT"]),
        Route(f"{one}/lease", page.lease, methods=["POST", "DELETE"]),
        Route(f"{one}/seconds", page.seconds, methods=["POST"]),
        Route(f"{one}/verdict", page.verdict, methods=["POST"]),
        Mount("/", StaticFiles(directory=PAGE, html=True)),
    ]
    middleware = [Middleware(_Headers), Middleware(TrustedHostMiddleware, allowed_hosts=list(hosts))]
    handlers: dict[Any, Callable[[Request, Exception], Awaitable[Response]]] = {
        Refused: _refused, CtuneError: _failed
    }  # fmt: skip
    return Starlette(routes=routes, middleware=middleware, exception_handlers=handlers)


def serve(app: Starlette, host: str, port: int) -> None:
    """Answer until the process is asked to end."""
    import uvicorn

    uvicorn.run(app, host=host, port=port, log_level="warning", server_header=False)


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, Refused)
    return JSONResponse({"error": str(error)}, error.status)


async def _failed(request: Request, error: Exception) -> Response:
    status = 422 if isinstance(error, UsageError) else 409
    return JSONResponse({"error": str(error)}, status)


def _id(request: Request) -> str:
    return str(request.path_params["id"])


async def _json(request: Request) -> dict[str, Any]:
    try:
        found = json.loads(await _body(request, _SMALL_BODY))
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise Refused(422, "expected one JSON object, got something else")
    return found


async def _body(request: Request, most: int) -> bytes:
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > most:
            raise Refused(413, f"expected at most {most} bytes, got more")
        parts.append(part)
    return b"".join(parts)


def _unzipped(data: bytes, size: int) -> bytes:
    """Never more than `size` bytes and one, whatever a small body would swell to."""
    try:
        return zlib.decompressobj(wbits=31).decompress(data, size + 1)
    except zlib.error:
        raise Refused(422, "expected the voxels as gzip, got something else") from None
