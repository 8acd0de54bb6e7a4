"""/session/ of the protocol of MONAI Label: an image of the client's own, predicted here and kept for an hour."""

from __future__ import annotations

import secrets
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from ctune.data.exchange import Kind, kind_of, read_ct
from ctune.data.kinds import named_nifti
from ctune.data.nifti import read_grid
from ctune.data.nrrd import read_header
from ctune.errors import ImageFileError
from ctune.review.desk import ReviewDesk
from ctune.review.http import Refused, who
from ctune.review.multipart import form_of, last_part
from ctune.review.slicer_labels import suffix_of, write_labels
from ctune.round import rounds

KEPT_SECONDS = 3600.0
_MOST_BYTES = 2**30
_MOST_VOXELS = 400_000_000
_MOST_SESSIONS = 8


@dataclass
class _Session:
    expert: str
    name: str
    path: Path
    folder: tempfile.TemporaryDirectory[str]
    began: float = field(default_factory=time.time)

    def said(self) -> dict[str, Any]:
        """What a client learns of it: no path."""
        return {"name": self.name, "expiry": int(KEPT_SECONDS), "create_ts": int(self.began)}


class Sessions:
    def __init__(self, desk: ReviewDesk) -> None:
        self.desk, self.known = desk, dict[str, _Session]()
        self.busy = threading.Lock()

    async def create(self, request: Request) -> Response:
        expert = who(self.desk, request, "revise")
        self._forget_old()
        if len(self.known) >= _MOST_SESSIONS:
            raise Refused(429, f"expected at most {_MOST_SESSIONS} images at once; delete a session first")
        form = await form_of(request, _MOST_BYTES)
        sent = [file for file in form.getlist("files") if isinstance(file, UploadFile)]
        if len(sent) != 1:
            raise Refused(
                422,
                f"expected one image in the field files, got {len(sent)}; send a volume as .nii.gz or .nrrd",
            )
        folder = tempfile.TemporaryDirectory(prefix="ctune-session-")
        name = last_part(sent[0].filename or "image.nii.gz")
        path = Path(folder.name) / f"image{suffix_of(name)}"
        with path.open("wb") as file:
            while block := await sent[0].read(2**20):
                file.write(block)
        try:
            await run_in_threadpool(_check, path)
        except Exception:
            folder.cleanup()
            raise
        secret = secrets.token_urlsafe(16)
        self.known[secret] = _Session(expert.name, name, path, folder)
        return JSONResponse({"session_id": secret, "session_info": self.known[secret].said()})

    async def one(self, request: Request) -> Response:
        """GET tells of a session, DELETE forgets it; 404 for another expert's."""
        expert = who(self.desk, request, "view")
        session = self._of(request.path_params["session"], expert.name)
        if request.method == "DELETE":
            self.known.pop(request.path_params["session"]).folder.cleanup()
        return JSONResponse(session.said())

    def predict(self, secret: str, expert: str, suffix: str) -> tuple[bytes, dict[str, int]]:
        """What the newest round's model says about the image: the file's bytes, and {class: number}."""
        # Imported here: a desk that only shows what was predicted needs no network.
        from ctune.compositions import load_model
        from ctune.optimise import resolve_device
        from ctune.postprocess import clean_all
        from ctune.predict import masks_of, predict_case

        session, project = self._of(secret, expert), self.desk.project
        state = rounds(project)[-1]
        with self.busy:
            case = read_ct(session.path, "upload")
            digest = state.model_out or state.model
            model = load_model(
                project.open_registry(), f"sha256:{digest}", resolve_device(project.config.device)
            )
            found = predict_case(model.network, case, project.config, model=digest)
            masks = masks_of(found, project.config.inference.threshold)
            return write_labels(clean_all(masks, project.config.postprocess, case.grid), case.grid, suffix)

    def _of(self, secret: str, expert: str) -> _Session:
        self._forget_old()
        session = self.known.get(secret)
        if session is None or session.expert != expert:
            raise Refused(
                404, "expected a session that is open, got an unknown or old one; send the image again"
            )
        return session

    def _forget_old(self) -> None:
        for secret in [k for k, s in self.known.items() if time.time() - s.began > KEPT_SECONDS]:
            self.known.pop(secret).folder.cleanup()


def _check(path: Path) -> None:
    """Raises ImageFileError for what is no volume, or promises more voxels than a CT has, before it is unpacked."""
    kind = kind_of(path)
    if kind is Kind.NRRD:
        voxels = 1.0
        for n in read_header(path, "upload")["sizes"]:
            voxels *= float(n)
    elif kind is Kind.NIFTI:
        with named_nifti(path) as image:
            shape = read_grid(image, "upload").shape
        voxels = float(shape[0]) * shape[1] * shape[2]
    else:
        raise ImageFileError(
            f"upload: expected a CT as .nii.gz or .nrrd, got {kind}; send it as one of these"
        )
    if voxels > _MOST_VOXELS:
        raise ImageFileError(f"upload: expected at most {_MOST_VOXELS} voxels, got {voxels:.0f}; crop it")
