"""The review page over HTTP: every handler checks who asks, calls the desk once, and answers.

A token travels in the Authorization header alone, which no other site can make a browser send: there is no cookie to forge
a request with. Ids are looked up in the queue, never joined to a path before.
"""

from __future__ import annotations

import gzip
import hashlib
import hmac
import sqlite3
from collections.abc import Awaitable, Callable
from dataclasses import asdict
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

from ctune.data.nifti import header_bytes
from ctune.errors import CtuneError
from ctune.project import Project
from ctune.review.desk import ReviewDesk
from ctune.review.earlier import check_seen, take_up
from ctune.review.http import (
    SMALL_BODY,
    Guards,
    Refused,
    body_of,
    failed,
    id_of,
    json_of,
    not_written,
    refused,
    unzipped,
    who,
)
from ctune.review.slicer import Slicer
from ctune.review.state import LeasedError
from ctune.review.tokens import Expert, check_token, hashed
from ctune.review.tuning import Tuner
from ctune.types import Mask

PAGE = Path(__file__).parent / "page"
_LONGEST_COMMENT = 2000
_MOST_SECONDS = 120.0
"""More active seconds than this between two reports are not believed: the page reports every few seconds."""


class Page:
    """The handlers. `link_token`: works once, for the one who started the server; `tokens`: the experts' file."""

    def __init__(
        self, project: Project, tokens: Path | None, link_token: str | None, owner: Expert | None
    ) -> None:
        self.desk = ReviewDesk(project, tokens)
        self.tuner = Tuner(project)
        self.tokens, self.link_token, self.owner = tokens, link_token, owner

    async def session(self, request: Request) -> Response:
        """A token for a session: what the page sends from then on."""
        expert, session = self.sign_in(str((await json_of(request)).get("token", "")))
        return JSONResponse({"session": session, "expert": expert.name, "role": expert.role})

    def sign_in(self, token: str) -> tuple[Expert, str]:
        """Whose token it is, and the secret of a new session. Raises Refused (401) for an unknown or used token."""
        expert = check_token(self.tokens, token) if self.tokens else None
        of_token = hashed(token) if expert else ""
        if expert is None and self.link_token and hmac.compare_digest(hashed(token), hashed(self.link_token)):
            expert, self.link_token = self.owner, None
        if expert is None:
            raise Refused(
                401, "expected a token of this project, got an unknown or used one; ask for a new one"
            )
        self.desk.audit.append(expert.name, "signed in")
        return expert, self.desk.state.new_session(expert, of_token)

    async def queue(self, request: Request) -> Response:
        expert = who(self.desk, request, "view")
        found = await run_in_threadpool(self.desk.queue, expert.name)
        return JSONResponse({**found, "expert": expert.name, "role": expert.role})

    async def case(self, request: Request) -> Response:
        expert, case_id = who(self.desk, request, "view"), id_of(request)
        found = await run_in_threadpool(self.desk.case, case_id, expert.name)
        self.desk.audit.append(expert.name, "saw", case_id)
        return JSONResponse(found)

    async def ct(self, request: Request) -> Response:
        """The CT's own bytes; asks for a range or a known version are answered as such.

        ``?unpacked=1``: a browser unpacks them itself, several times as fast as a script.
        """
        who(self.desk, request, "view")
        record = self.desk.project.pool.case(self.desk.row(id_of(request)).case_id)
        tag = f'"{record.sha256}"'
        if request.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers={"etag": tag})
        headers = {"etag": tag}
        if request.query_params.get("unpacked") and record.image.name.endswith(".gz"):
            headers["content-encoding"] = "gzip"
        # A pool at a URL brings the CT now; that of a folder has it.
        image = await run_in_threadpool(self.desk.project.pool.image, record.id)
        return FileResponse(image, media_type="application/octet-stream", headers=headers)

    async def spots(self, request: Request) -> Response:
        who(self.desk, request, "view")
        found = await run_in_threadpool(self.desk.looking, id_of(request))
        return JSONResponse(
            {"spots": [asdict(spot) for spot in found.spots], "stands_out": found.doubt is None}
        )

    async def attention(self, request: Request) -> Response:
        """Where to look: the map of the score, or all doubt where no region of it stands out."""
        who(self.desk, request, "view")
        case_id = id_of(request)
        path, found = self.desk.attention(case_id), await run_in_threadpool(self.desk.looking, case_id)
        if found.doubt is not None:
            return await self._image(self.desk.row(case_id).case_id, found.doubt, request)
        if path is None:
            raise Refused(404, f"case {case_id}: no attention map in this round")
        headers = {"content-encoding": "gzip"}
        return FileResponse(path, media_type="application/octet-stream", headers=headers)

    async def labels(self, request: Request) -> Response:
        expert, case_id = who(self.desk, request, "view"), id_of(request)
        self._seen(request, case_id)
        return await self._image(
            case_id, await run_in_threadpool(self.desk.labels, case_id, expert.name), request
        )

    async def mask(self, request: Request) -> Response:
        expert, case_id = who(self.desk, request, "view"), id_of(request)
        name = request.path_params["name"]
        self._seen(request, case_id)
        found = await run_in_threadpool(self.desk.mask, case_id, name, expert.name)
        return await self._image(case_id, found, request)

    async def draft(self, request: Request) -> Response:
        """Keep a draft: gzip of the voxels, uint8 of 0 and 1, X fastest."""
        expert, case_id = who(self.desk, request, "revise"), id_of(request)
        shape = self.desk.project.pool.grid(self.desk.row(case_id).case_id).shape
        size = shape[0] * shape[1] * shape[2]
        voxels = unzipped(await body_of(request, size + SMALL_BODY), size)
        name = request.path_params["name"]
        version = await run_in_threadpool(
            self.desk.save_draft,
            case_id,
            name,
            voxels,
            expert.name,
            _round(request.query_params.get("round")),
        )
        return JSONResponse({"version": version})

    async def take_up(self, request: Request) -> Response:
        """Go on with the drafts of an earlier round; tells which."""
        expert, case_id = who(self.desk, request, "revise"), self.desk.row(id_of(request)).case_id
        return JSONResponse(await run_in_threadpool(take_up, self.desk, case_id, expert.name))

    def _seen(self, request: Request, case_id: str) -> None:
        # A page that does not say its round is shown the newest.
        if (number := _round(request.query_params.get("round"))) is not None:
            check_seen(self.desk, case_id, number)

    async def lease(self, request: Request) -> Response:
        """POST takes or renews, DELETE gives back."""
        expert, case_id = who(self.desk, request, "revise"), self.desk.row(id_of(request)).case_id
        if request.method == "DELETE":
            self.desk.state.release(case_id, expert.name)
            return JSONResponse({})
        try:
            return JSONResponse({"until": self.desk.state.lease(case_id, expert.name).until})
        except LeasedError as error:
            raise Refused(409, str(error)) from None

    async def seconds(self, request: Request) -> Response:
        """{"seconds": active ones since the last report, "round": whose predictions the expert has seen}"""
        expert, case_id = who(self.desk, request, "revise"), self.desk.row(id_of(request)).case_id
        said = await json_of(request)
        more, number = said.get("seconds"), _round(said.get("round"))
        if not isinstance(more, int | float) or not 0 <= more <= _MOST_SECONDS:
            raise Refused(422, f"expected 0 to {_MOST_SECONDS:.0f} active seconds, got {more!r}")
        total = self.desk.add_seconds(case_id, expert.name, float(more), number)
        return JSONResponse({"seconds": total})

    async def verdict(self, request: Request) -> Response:
        """{"verdict": "as_is" | "edited" | "cannot_judge", "comment": text, "round": whose predictions the expert has seen}"""
        expert, case_id = who(self.desk, request, "revise"), id_of(request)
        said = await json_of(request)
        if (number := _round(said.get("round"))) is not None:
            check_seen(self.desk, case_id, number)
        verdict, comment = said.get("verdict"), said.get("comment", "")
        if not isinstance(comment, str) or len(comment) > _LONGEST_COMMENT:
            raise Refused(422, f"expected a comment of at most {_LONGEST_COMMENT} letters; shorten it")
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

    async def tuning(self, request: Request) -> Response:
        """GET tells how the tuning goes; POST begins one: the open round to its end, and the next one."""
        if request.method == "POST":
            expert = who(self.desk, request, "tune")
            status = await run_in_threadpool(self.tuner.start, expert.name)
            self.desk.audit.append(expert.name, "tunes", round=status["round"])
        else:
            who(self.desk, request, "view")
        return JSONResponse(await run_in_threadpool(self.tuner.status) or {"state": "none"})

    async def _image(self, case_id: str, mask: Mask, request: Request) -> Response:
        grid = self.desk.project.pool.grid(case_id)
        data = header_bytes(grid, mask.dtype) + mask.tobytes(order="F")
        tag = f'"{hashlib.sha256(data).hexdigest()}"'
        if request.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers={"etag": tag})
        packed = await run_in_threadpool(gzip.compress, data, 1)
        headers = {"etag": tag, "content-encoding": "gzip", "cache-control": "private, no-cache"}
        return Response(packed, media_type="application/octet-stream", headers=headers)


def _round(said: Any) -> int | None:
    """The number of a round that a page tells. Raises Refused (422) for anything else."""
    if said is None or (
        isinstance(said, int | str) and str(said).isascii() and str(said).isdigit() and len(str(said)) < 7
    ):
        return None if said is None else int(said)
    raise Refused(422, f"expected the number of a round, got {said!r}")


def build_app(
    project: Project, *, tokens: Path | None = None, link_token: str | None = None, owner: Expert | None = None,
    hosts: tuple[str, ...] = ("127.0.0.1", "localhost", "testserver"),
) -> Starlette:  # fmt: skip
    """The page and its API. `hosts` are the names it answers to: a name that somebody pointed here is refused."""
    page = Page(project, tokens, link_token, owner)
    page.tuner.go_on()
    one = "/api/cases/{id}"
    routes = [
        Route("/api/session", page.session, methods=["POST"]),
        Route("/api/queue", page.queue),
        Route(one, page.case),
        Route(f"{one}/ct", page.ct),
        Route(f"{one}/spots", page.spots),
        Route(f"{one}/attention", page.attention),
        Route(f"{one}/labels", page.labels),
        Route(f"{one}/masks/{{name}}", page.mask),
        Route(f"{one}/drafts/{{name}}", page.draft, methods=["PUT"]),
        Route(f"{one}/earlier", page.take_up, methods=["POST"]),
        Route(f"{one}/lease", page.lease, methods=["POST", "DELETE"]),
        Route(f"{one}/seconds", page.seconds, methods=["POST"]),
        Route(f"{one}/verdict", page.verdict, methods=["POST"]),
        Route("/api/tuning", page.tuning, methods=["GET", "POST"]),
        *Slicer(page.desk, page.tuner, page.sign_in).routes(),
        Mount("/", StaticFiles(directory=PAGE, html=True)),
    ]
    middleware = [Middleware(Guards), Middleware(TrustedHostMiddleware, allowed_hosts=list(hosts))]
    handlers: dict[Any, Callable[[Request, Exception], Awaitable[Response]]] = {
        Refused: refused, CtuneError: failed, OSError: not_written, sqlite3.Error: not_written
    }  # fmt: skip
    return Starlette(routes=routes, middleware=middleware, exception_handlers=handlers)


def serve(app: Starlette, host: str, port: int) -> None:
    """Answer until the process is asked to end."""
    import uvicorn

    uvicorn.run(app, host=host, port=port, log_level="warning", server_header=False)
