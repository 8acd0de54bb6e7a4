"""Around every request: an id, who asks, one line in the log, and errors as one line of JSON without a path or a trace.

The log tells route, status, time and sizes: never a name, a query, a header or a value that a client sent.
"""

from __future__ import annotations

import logging
import re
import time
from http import HTTPStatus
from uuid import uuid4

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ctune.serve.faults import NO_FOLDER, Refused, Stopped, log, status_of, told, where
from ctune.serve.service import Service

OPEN = ("/", "/livez", "/readyz", "/metrics", "/openapi.json")
"""What needs no token: nothing of a patient or a model. And what lies below /page/."""
ROUTES = (*OPEN, "/segment", "/importance", "/model", "/jobs")
_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[^:]+)(?::\d+)?")
"""A name or address, of IPv6 in brackets, and the port where it is another than usual."""
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; font-src 'self' data:; "
    "connect-src 'self' data: blob:; worker-src 'self' blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = (
    (b"content-security-policy", _POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-store"),
)


class Holder:
    """The service, once there is one."""

    service: Service | None = None

    def get(self) -> Service:
        """Raises Refused (503) while there is none."""
        if self.service is None:
            raise Refused(503, "the service is about to start; ask again in a moment", Retry_After="2")
        return self.service


class Guard:
    """The outermost layer of the application."""

    def __init__(self, app: ASGIApp, holder: Holder) -> None:
        self.app, self.holder = app, holder

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        seen = _Seen(scope, send)
        scope.setdefault("state", {})["id"] = seen.id
        try:
            self._admit(scope)
            await self.app(scope, receive, seen.send)
        except Exception as error:
            await self._fail(error, seen, scope, receive)
        finally:
            seconds = time.perf_counter() - seen.begun
            if service := self.holder.service:
                service.metrics.requests.labels(seen.route, str(seen.status)).inc()
                service.metrics.seconds.labels(seen.route).observe(seconds)
            level = logging.DEBUG if seen.route in OPEN else logging.INFO
            log.log(level, "request=%s %s %s status=%d seconds=%.3f bytes=%d",
                    seen.id, seen.method, seen.route, seen.status, seconds, seen.sent)  # fmt: skip

    def _admit(self, scope: Scope) -> None:
        path, headers = scope["path"], dict(scope["headers"])
        if path in ("/livez", "/readyz"):
            return
        settings = self.holder.get().settings
        if settings.hosts:
            host = _HOST.fullmatch(headers.get(b"host", b"").decode("latin-1"))
            if host is None or host[1] not in settings.hosts:
                raise Refused(421, "expected one of the names of this service as Host, got another")
        if path in OPEN or path.startswith("/page/"):
            return
        who = settings.tokens.who(headers.get(b"authorization", b"").decode("latin-1"))
        if who is None:
            raise Refused(
                401, "expected a token of this service as 'Authorization: Bearer TOKEN', got none or an unknown one",
                WWW_Authenticate="Bearer",
            )  # fmt: skip
        scope["state"]["who"] = who

    async def _fail(self, error: Exception, seen: _Seen, scope: Scope, receive: Receive) -> None:
        if isinstance(error, Stopped) and status_of(error) == 500:
            seen.status = 499  # The client is gone: nobody reads an answer.
            return
        status, headers = status_of(error), getattr(error, "headers", {})
        if status == 500:
            log.error("request=%s %s", seen.id, where(error))
        if not seen.begun_to_answer:
            state = service.settings.state if (service := self.holder.service) else NO_FOLDER
            answer = refusal(status, told(error, status, state), seen.id, headers)
            await answer(scope, receive, seen.send)


class _Seen:
    """What is known of one request; its ``send`` adds the headers of every answer."""

    def __init__(self, scope: Scope, send: Send) -> None:
        self.begun, self._send = time.perf_counter(), send
        self.method, self.route = _method(scope["method"]), route_of(scope["path"])
        self.id = _id(scope)
        self.status, self.sent, self.begun_to_answer = 499, 0, False

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.begun_to_answer, self.status = True, message["status"]
            given = {name for name, _ in message.get("headers", [])}
            more = [pair for pair in _HEADERS if pair[0] not in given]
            message["headers"] = [*message.get("headers", []), (b"x-request-id", self.id.encode()), *more]
        else:
            self.sent += len(message.get("body", b""))
        await self._send(message)


def refusal(status: int, why: str, request_id: str, headers: dict[str, str] | None = None) -> JSONResponse:
    """An error as every client gets it."""
    return JSONResponse({"error": why, "request": request_id}, status, headers=headers)


def route_of(path: str) -> str:
    """The route of a path, for the log and metrics: what a client wrote there is not kept."""
    if path in ROUTES:
        return path
    if path.startswith("/jobs/"):
        return "/jobs/{id}/result" if path.endswith("/result") else "/jobs/{id}"
    return "/page" if path.startswith("/page/") else "other"


def _method(method: str) -> str:
    return method if method in ("GET", "HEAD", "POST", "DELETE", "OPTIONS", "PUT", "PATCH") else "other"


def _id(scope: Scope) -> str:
    given = next((v for k, v in scope["headers"] if k == b"x-request-id"), b"").decode("latin-1")
    return given if _ID.fullmatch(given) else uuid4().hex


def phrase(status: int) -> str:
    """The name of a status."""
    return HTTPStatus(status).phrase.lower()
