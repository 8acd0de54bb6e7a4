"""/train/ of the protocol of MONAI Label: the live loop of the page under other names."""

from __future__ import annotations

from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from ctune.errors import RoundError
from ctune.review.desk import ReviewDesk
from ctune.review.http import Refused, who
from ctune.review.tuning import Tuner

_WORDS = {
    "running": "RUNNING",
    "done": "DONE",
    "failed": "ERROR",
    "stopped": "STOPPED",
    "interrupted": "STOPPED",
}


class Train:
    def __init__(self, desk: ReviewDesk, tuner: Tuner) -> None:
        self.desk, self.tuner = desk, tuner

    async def handle(self, request: Request) -> Response:
        """POST begins a tuning (429 while one runs), GET tells of it (404 without), DELETE ends it."""
        if request.method in ("GET", "HEAD"):
            who(self.desk, request, "view")
            return self._status(request)
        expert = who(self.desk, request, "tune")
        if request.method == "DELETE":
            status = await run_in_threadpool(self.tuner.stop)
            if status is None:
                raise Refused(404, "expected a tuning, found none; begin one")
            self.desk.audit.append(expert.name, "stopped the tuning")
            return JSONResponse(self._task(status))
        name = self.tuner.newest().name
        if request.path_params.get("model", name) != name:
            raise Refused(
                404, f"expected the model {name}, got {request.path_params['model']!r}; fetch /info/ again"
            )
        if self.tuner.running:
            raise Refused(429, "expected no tuning at work, one is; wait for it")
        try:
            status = await run_in_threadpool(self.tuner.start, expert.name)
        except RoundError as error:
            raise Refused(409, str(error)) from None
        self.desk.audit.append(expert.name, "tunes", round=status["round"])
        return JSONResponse(self._task(status))

    def stats(self) -> dict[str, Any]:
        """Progress as the plugin's bar wants it: steps as epochs, the mean Dice after as the best metric."""
        status = self.tuner.status()
        if status is None:
            return {}
        found = [after for _, after in status["dice"].values() if after is not None]
        out = {
            "epoch": status["done"], "total_epochs": max(1, status["total"]),
            "best_metric": sum(found) / len(found) if found else 0.0, "start_ts": status["started"],
        }  # fmt: skip
        return out if status["state"] == "running" else {**out, "total_time": status["ended"] or "unknown"}

    def _status(self, request: Request) -> Response:
        status = self.tuner.status()
        asked = request.query_params.get("check_if_running", "").lower() in ("true", "1")
        if status is None or (asked and status["state"] != "running"):
            raise Refused(404, "no tuning is running" if asked else "no tuning was begun yet")
        task = self._task(status)
        return JSONResponse([task] if request.query_params.get("all", "").lower() == "true" else task)

    def _task(self, status: dict[str, Any]) -> dict[str, Any]:
        line = (
            status["error"]
            or f"{status['stage']} {status['done']}/{status['total']} {status['detail']}".strip()
        )
        return {
            "id": f"round-{status['round']}", "status": _WORDS[status["state"]],
            "request": {"model": self.tuner.newest().name, "client_id": status["expert"]}, "start_ts": status["started"],
            "end_ts": status["ended"], "details": [line], "result": line,
        }  # fmt: skip
