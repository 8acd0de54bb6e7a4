"""A client of a few lines (httpx): a CT's path in, masks on disk and volumes out.

client = Client("http://127.0.0.1:3000", token)
client.segment(Path("ct.nii.gz"), Path("labels.nii.gz"), classes=["liver"])   # {"liver": 1511.2}
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx

from ctune.data.files import write_atomically
from ctune.errors import CtuneError


class Client:
    """Ask a service of ``ctune serve``. When its queue is full, it is asked again as it says. Raises CtuneError when it refuses."""

    def __init__(self, url: str, token: str = "", *, seconds: float = 600.0, tries: int = 5) -> None:
        headers = {"authorization": f"Bearer {token}"} if token else {}
        self._http = httpx.Client(base_url=url, headers=headers, timeout=seconds)
        self._tries = tries

    def model(self) -> dict[str, Any]:
        """The card of the model that answers now."""
        found: dict[str, Any] = self._ask("GET", "/model").json()
        return found

    def segment(
        self, ct: Path, out: Path, classes: Sequence[str] = (), output: str = "multilabel"
    ) -> dict[str, float]:
        """Write the masks of a CT (.nii, .nii.gz, .nrrd, zipped DICOM) to `out`; returns {class: mL}."""
        answer = self._ask("POST", "/segment", ct, {"classes": ",".join(classes), "output": output})
        return _kept(answer, out)

    def importance(self, ct: Path, classes: Sequence[str] = ()) -> dict[str, Any]:
        """Where the model is likely wrong in a CT."""
        found: dict[str, Any] = self._ask("POST", "/importance", ct, {"classes": ",".join(classes)}).json()
        return found

    def submit(self, ct: Path, classes: Sequence[str] = (), output: str = "multilabel") -> str:
        """Hand in a CT for later; returns the id of the job."""
        answer = self._ask("POST", "/jobs", ct, {"classes": ",".join(classes), "output": output})
        return str(answer.json()["id"])

    def wait(self, job: str, out: Path, every: float = 1.0) -> dict[str, float]:
        """Write the masks of a job to `out` once it is done; returns {class: mL}."""
        while self._ask("GET", f"/jobs/{job}").json()["state"] in ("queued", "running"):
            time.sleep(every)
        return _kept(self._ask("GET", f"/jobs/{job}/result"), out)

    def delete(self, job: str) -> None:
        """Forget a job; one that runs is stopped."""
        self._ask("DELETE", f"/jobs/{job}")

    def close(self) -> None:
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _ask(
        self, method: str, path: str, ct: Path | None = None, query: dict[str, str] | None = None
    ) -> httpx.Response:
        content = ct.read_bytes() if ct else None
        for left in reversed(range(self._tries)):
            answer = self._http.request(method, path, params=query, content=content)
            if answer.status_code != 429 or not left:
                break
            time.sleep(float(answer.headers.get("retry-after", 1)))
        if answer.is_error:
            raise CtuneError(f"the service refused with {answer.status_code}: {_why(answer)}")
        return answer


def _kept(answer: httpx.Response, out: Path) -> dict[str, float]:
    with write_atomically(out) as temporary:
        temporary.write_bytes(answer.content)
    found: dict[str, float] = json.loads(answer.headers["x-ctune-volumes-ml"])
    return found


def _why(answer: httpx.Response) -> str:
    try:
        return str(answer.json()["error"])
    except (ValueError, KeyError, TypeError):
        return answer.reason_phrase
