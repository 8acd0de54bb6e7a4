"""The service over HTTP: every handler takes what came, makes one call, and answers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from ctune.serve.faults import Stopped, TimedOut
from ctune.serve.guard import Guard, Holder, phrase, refusal
from ctune.serve.importance import importance, importance_of
from ctune.serve.jobs import JobRow
from ctune.serve.metrics import CONTENT_TYPE
from ctune.serve.openapi import document
from ctune.serve.segment import Asked, asked_of, segment
from ctune.serve.service import Made, Service, Work
from ctune.serve.upload import receive
from ctune.serve.work import Ticket

PAGE = Path(__file__).parent / "page"
VENDOR = Path(__file__).parents[1] / "review" / "page" / "vendor"
"""NiiVue, as the review page has it."""
_BLOCK = 2**18


class Handlers:
    """One method a route."""

    def __init__(self, holder: Holder) -> None:
        self._holder = holder

    @property
    def service(self) -> Service:
        return self._holder.get()

    async def segment(self, request: Request) -> Response:
        """A CT in, a file out, on the CT's own grid."""
        return await self._volume(request, asked_of, segment)

    async def importance(self, request: Request) -> Response:
        """A CT in; out, where the model is likely wrong in it."""
        return await self._volume(request, importance_of, importance)

    async def _volume(
        self, request: Request, asked: Callable[[Mapping[str, str]], Asked], work: Work
    ) -> Response:
        service, settings = self.service, self.service.settings
        with service.place():
            upload = await receive(
                request, service.scratch, settings.limits.upload_bytes, settings.upload_seconds
            )
            try:
                ticket = service.submit(upload.file, asked(upload.fields), work)
            except BaseException:
                upload.file.close()
                raise
            made: Made = await waited(ticket, request)
        return answer_of(made, request)

    async def add_job(self, request: Request) -> Response:
        """A CT in, an id out; the rest later."""
        service, settings = self.service, self.service.settings
        with service.place():
            upload = await receive(
                request, service.scratch, settings.limits.upload_bytes, settings.upload_seconds
            )
            with upload.file:
                job = await run_in_threadpool(service.add_job, upload.file, upload.fields, request.state.who)
        return JSONResponse(job_document(job), 202, {"location": f"/jobs/{job.id}"})

    async def job(self, request: Request) -> Response:
        """GET tells how a job stands, DELETE forgets it."""
        job = await run_in_threadpool(self._job, request)
        if request.method == "DELETE":
            await run_in_threadpool(self.service.delete_job, job.id)
            return Response(status_code=204)
        return JSONResponse(job_document(job))

    async def result(self, request: Request) -> Response:
        """What ``segment`` would have answered."""
        job = await run_in_threadpool(self._job, request)
        return answer_of(await run_in_threadpool(self.service.result_of, job), request)

    def _job(self, request: Request) -> JobRow:
        return self.service.jobs.find(request.path_params["id"], request.state.who)

    async def model(self, request: Request) -> Response:
        """The card."""
        return JSONResponse(await run_in_threadpool(self.service.card))

    async def livez(self, request: Request) -> Response:
        """Whether the process answers."""
        return JSONResponse({"alive": True})

    async def readyz(self, request: Request) -> Response:
        """Whether it would work on a request."""
        ready = self._holder.service is not None and self._holder.service.ready
        return JSONResponse({"ready": ready}, 200 if ready else 503)

    async def metrics(self, request: Request) -> Response:
        """For Prometheus."""
        return Response(self.service.metrics.text(), media_type=CONTENT_TYPE)

    async def openapi(self, request: Request) -> Response:
        """What this API is, for machines."""
        return JSONResponse(document())

    async def page(self, request: Request) -> Response:
        """Where one drops a CT and sees the result."""
        return FileResponse(PAGE / "index.html")


def build_app(make: Service | Callable[[], Service]) -> Starlette:
    """The application. When it starts it makes the service, unless it is given one, and starts it; it closes it at the end."""
    holder = Holder()
    handlers = Handlers(holder)
    routes = [
        Route("/segment", handlers.segment, methods=["POST"]),
        Route("/importance", handlers.importance, methods=["POST"]),
        Route("/jobs", handlers.add_job, methods=["POST"]),
        Route("/jobs/{id}", handlers.job, methods=["GET", "DELETE"]),
        Route("/jobs/{id}/result", handlers.result),
        Route("/model", handlers.model),
        Route("/livez", handlers.livez),
        Route("/readyz", handlers.readyz),
        Route("/metrics", handlers.metrics),
        Route("/openapi.json", handlers.openapi),
        Route("/", handlers.page),
        Mount("/page/vendor", StaticFiles(directory=VENDOR)),
        Mount("/page", StaticFiles(directory=PAGE)),
    ]

    @asynccontextmanager
    async def life(_: Starlette) -> AsyncIterator[None]:
        service = make if isinstance(make, Service) else await run_in_threadpool(make)
        service.start()
        holder.service = service
        try:
            yield
        finally:
            await run_in_threadpool(service.close)

    faults: Mapping[Any, Callable[..., Any]] = {HTTPException: _not_there}
    return Starlette(
        routes=routes,
        middleware=[Middleware(Guard, holder=holder)],
        exception_handlers=faults,
        lifespan=life,
    )


def job_document(job: JobRow) -> dict[str, Any]:
    """A job as JSON."""
    found: dict[str, Any] = {
        "id": job.id, "state": job.state, "created": job.created, "started": job.started, "finished": job.finished,
        "attempts": job.attempts, "error": job.error,
    }  # fmt: skip
    return {**found, "result": f"/jobs/{job.id}/result", **(job.about or {})}


async def waited(ticket: Ticket, request: Request) -> Any:
    """The result of a ticket; the work is stopped when the client goes or the time is over."""
    result = asyncio.wrap_future(ticket.result)
    gone = asyncio.ensure_future(_gone(request))
    try:
        # The work notices by itself that its time is over, unless others are still before it.
        await asyncio.wait({result, gone}, timeout=ticket.seconds + 1, return_when=asyncio.FIRST_COMPLETED)
        if result.done():
            return result.result()
        result.add_done_callback(lambda done: done.cancelled() or done.exception())
        if gone.done():
            raise Stopped("the client is gone")
        raise TimedOut(
            f"expected an answer within {ticket.seconds:g} s, it took longer; send the volume to /jobs"
        )
    finally:
        gone.cancel()
        ticket.stop()


def answer_of(made: Made, request: Request) -> Response:
    """The file with its volumes in headers, or, to who accepts multipart/mixed, everything as JSON and then the file."""
    headers = {
        "x-ctune-model": made.about["model"],
        "x-ctune-volumes-ml": json.dumps(made.about["volumes_ml"]),
        "content-length": str(made.size),
    }
    before = after = b""
    media_type = made.media_type
    if "multipart/mixed" in request.headers.get("accept", ""):
        line = f"--{request.state.id}"
        about = json.dumps(made.about)
        before = (
            f"{line}\r\ncontent-type: application/json\r\n\r\n{about}\r\n"
            f"{line}\r\ncontent-type: {made.media_type}\r\n\r\n"
        ).encode()
        after = f"\r\n{line}--\r\n".encode()
        media_type = f'multipart/mixed; boundary="{request.state.id}"'
        headers["content-length"] = str(len(before) + made.size + len(after))
    return StreamingResponse(_parts(before, made, after), headers=headers, media_type=media_type)


async def _parts(before: bytes, made: Made, after: bytes) -> AsyncIterator[bytes]:
    with made.file:
        yield before
        while block := await run_in_threadpool(made.file.read, _BLOCK):
            yield block
        yield after


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _not_there(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return refusal(error.status_code, phrase(error.status_code), request.state.id, dict(error.headers or {}))
