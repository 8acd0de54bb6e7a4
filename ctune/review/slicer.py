"""The protocol of MONAI Label, version 1, over the desk: 3D Slicer's own plugin works here unchanged.

https://github.com/Project-MONAI/MONAILabel. Ids are those of the queue; no path of this machine is told. The plugin's login
takes an expert's token as the password: the token says who it is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import parse_qs

import numpy as np
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route

from ctune import __version__
from ctune.errors import UnknownClassError
from ctune.review.desk import ReviewDesk
from ctune.review.http import SMALL_BODY, Refused, body_of, who
from ctune.review.multipart import answer, form_of, last_part, params_of
from ctune.review.slicer_labels import read_sent, suffix_of, write_labels
from ctune.review.slicer_sessions import Sessions
from ctune.review.slicer_train import Train
from ctune.review.state import LeasedError
from ctune.review.tokens import Expert
from ctune.review.tuning import Tuner
from ctune.types import Mask

STRATEGY = "importance"
_TICKET = "~"
_LEASE_SECONDS = 1800.0
"""Slicer renews no lease: a case that it has fetched is kept for so long."""


class Slicer:
    """The handlers. `sign_in` gives the expert and a session for a token."""

    def __init__(self, desk: ReviewDesk, tuner: Tuner, sign_in: Callable[[str], tuple[Expert, str]]) -> None:
        self.desk, self.tuner, self.sign_in = desk, tuner, sign_in
        self.sessions = Sessions(desk)
        self.train = Train(desk, tuner)

    def routes(self) -> list[Route]:
        """Every address with and without a slash at its end."""
        table: list[tuple[str, Any, list[str]]] = [
            ("/auth", self.auth, ["GET"]),
            ("/auth/token", self.token, ["POST"]),
            ("/auth/token/valid", self.valid, ["GET"]),
            ("/info", self.info, ["GET"]),
            ("/activelearning/{strategy}", self.next_sample, ["POST"]),
            ("/datastore", self.datastore, ["GET"]),
            ("/datastore/image", self.image, ["GET"]),
            ("/datastore/label", self.label, ["GET"]),
            ("/datastore/label", self.save_label, ["PUT"]),
            ("/infer/{model}", self.infer, ["POST"]),
            ("/session", self.sessions.create, ["PUT"]),
            ("/session/{session}", self.sessions.one, ["GET", "DELETE"]),
            ("/train", self.train.handle, ["GET", "POST", "DELETE"]),
            ("/train/{model}", self.train.handle, ["GET", "POST", "DELETE"]),
        ]
        return [Route(path + end, do, methods=how) for path, do, how in table for end in ("", "/")]

    # Who it is ------------------------------------------------------------------------------------------------------

    async def auth(self, request: Request) -> Response:
        return JSONResponse({"enabled": True, "client_id": "ctune", "realm": "ctune"})

    async def token(self, request: Request) -> Response:
        """A form with username and password; the password is the expert's token."""
        form = parse_qs((await body_of(request, SMALL_BODY)).decode("utf-8", "replace"))
        _, session = self.sign_in(form.get("password", [""])[0].strip())
        return JSONResponse({"access_token": session, "token_type": "bearer"})

    async def valid(self, request: Request) -> Response:
        expert = who(self.desk, request, "view")
        return JSONResponse(
            {"username": expert.name, "name": expert.name, "email": "", "roles": [expert.role]}
        )

    # What there is --------------------------------------------------------------------------------------------------

    async def info(self, request: Request) -> Response:
        who(self.desk, request, "view")
        return JSONResponse(await run_in_threadpool(self._info))

    def _info(self) -> dict[str, Any]:
        state = self.tuner.newest()
        labels = {name: k for k, name in enumerate(self.desk.class_names(), 1)}
        words = f"round {self.desk.round_number} of {state.name}"
        model = {
            "type": "segmentation", "labels": labels, "dimension": 3, "description": f"What {words} predicted",
            "config": {},
        }  # fmt: skip
        return {
            "name": "ctune", "description": f"ctune review, {words}", "version": __version__, "labels": list(labels),
            "models": {state.name: model},
            "trainers": {state.name: {"description": "Tune the revised classes, begin the next round", "config": {}}},
            "strategies": {STRATEGY: {"description": "The most important case that is free", "config": {}}},
            "scoring": {}, "train_stats": {state.name: self.train.stats()}, "datastore": self._stats(),
        }  # fmt: skip

    def _stats(self) -> dict[str, Any]:
        rows = self.desk.rows()
        done = sum(bool(self.desk.revisers(row.case_id)) for row in rows)
        return {"total": len(rows), "completed": done, "label_tags": {"final": done}}

    async def datastore(self, request: Request) -> Response:
        """Counts; with ``output=all`` every case and who has revised it, with ``output=train`` pairs of names."""
        who(self.desk, request, "view")
        wanted = request.query_params.get("output", "stats")
        found = {"all": self._objects, "train": self._pairs}.get(wanted, self._stats)
        return JSONResponse(await run_in_threadpool(found))

    def _objects(self) -> dict[str, Any]:
        objects = {}
        for row in self.desk.rows():
            revisers = self.desk.revisers(row.case_id)
            names = {name: k for k, name in enumerate(self.desk.classes(row.case_id), 1)}
            about = {"experts": revisers, "params": {"label_names": names}}
            labels = {"final": {"info": about, "ext": ".nii.gz"}} if revisers else {}
            image = {"info": {"reason": row.reason}, "ext": suffix_of(self._name(row.case_id))}
            objects[row.case_id] = {"image": image, "labels": labels}
        return {"name": "ctune", "description": "The queue of the round", "images_dir": "", "labels_dir": "", "objects": objects}  # fmt: skip

    def _pairs(self) -> list[dict[str, str]]:
        done = [row.case_id for row in self.desk.rows() if self.desk.revisers(row.case_id)]
        return [{"image": self._name(case_id), "label": f"{case_id}.nii.gz"} for case_id in done]

    def _name(self, case_id: str) -> str:
        return case_id + suffix_of(self.desk.project.pool.case(case_id).image.name)

    # One case -------------------------------------------------------------------------------------------------------

    async def next_sample(self, request: Request) -> Response:
        """The most important case that nobody has revised or is working on; {} when none is left."""
        expert, strategy = who(self.desk, request, "revise"), request.path_params["strategy"]
        if strategy != STRATEGY:
            raise Refused(404, f"expected the strategy {STRATEGY}, got {strategy!r}; fetch /info/ again")
        return JSONResponse(await run_in_threadpool(self._next, expert))

    def _next(self, expert: Expert) -> dict[str, Any]:
        for item in self.desk.queue(expert.name)["items"]:
            if item["state"] != "open" or item["lease"] not in (None, expert.name):
                continue
            try:
                self.desk.state.lease(item["id"], expert.name, _LEASE_SECONDS)
            except LeasedError:
                continue
            self.desk.audit.append(expert.name, "saw", item["id"])
            checksum = self.desk.project.pool.case(item["id"]).sha256
            ticket = self.desk.state.new_ticket(item["id"], _LEASE_SECONDS)
            return {
                "id": f"{item['id']}{_TICKET}{ticket}", "name": self._name(item["id"]), "checksum": f"SHA256:{checksum}", "reason": item["reason"],
                "classes": item["classes"], "rank": item["rank"], "score": item["score"],
            }  # fmt: skip
        return {}

    async def image(self, request: Request) -> Response:
        """The CT's own file. Slicer downloads it without its session: the ticket in the sample's id stands for it."""
        case_id = self._case(request, "image")
        ticket = request.query_params.get("image", "").rpartition(_TICKET)[2]
        if not self.desk.state.ticket(case_id, ticket):
            who(self.desk, request, "view")
        image = await run_in_threadpool(self.desk.project.pool.image, case_id)
        return FileResponse(image, media_type="application/octet-stream", filename=self._name(case_id))

    async def label(self, request: Request) -> Response:
        """The newest revisions of a case as one label map."""
        who(self.desk, request, "view")
        case_id = self._case(request, "label")
        masks = await run_in_threadpool(self.desk.newest, case_id)
        if not masks or request.query_params.get("tag", "final") not in ("", "final"):
            raise Refused(404, f"case {case_id}: expected a label with the tag final, found none")
        file, _ = await run_in_threadpool(self._written, case_id, masks, ".nii.gz")
        named = {"content-disposition": f'attachment; filename="{case_id}.nii.gz"'}
        return Response(file, media_type="application/octet-stream", headers=named)

    async def infer(self, request: Request) -> Response:
        """What the round predicted for a case of the queue, or what the model predicts for the image of a session."""
        expert, wanted = who(self.desk, request, "view"), request.query_params
        if request.path_params["model"] != self.tuner.newest().name:
            raise Refused(
                404, f"expected a model of /info/, got {request.path_params['model']!r}; fetch it again"
            )
        form = await form_of(request, SMALL_BODY * 16)
        suffix = suffix_of(str(params_of(form).get("result_extension", "")))
        if session := wanted.get("session_id"):
            file, numbers = await run_in_threadpool(self.sessions.predict, session, expert.name, suffix)
            name = "prediction"
        else:
            name = self._case(request, "image")
            masks = await run_in_threadpool(self.desk.predicted, name)
            file, numbers = await run_in_threadpool(self._written, name, masks, suffix)
        params = {"label_names": numbers, "model": self.tuner.newest().name}
        if wanted.get("output") == "json":
            return JSONResponse(params)
        if wanted.get("output") == "image":
            return Response(file, media_type="application/octet-stream")
        return answer(params, name + suffix, file)

    def _written(self, case_id: str, masks: Mapping[str, Mask], suffix: str) -> tuple[bytes, dict[str, int]]:
        return write_labels(masks, self.desk.project.pool.grid(case_id), suffix)

    async def save_label(self, request: Request) -> Response:
        """A segmentation by an expert: the same way into the pool as ``ctune revise``."""
        expert, case_id = who(self.desk, request, "revise"), self._case(request, "image")
        voxels = int(np.prod(self.desk.project.pool.grid(case_id).shape))
        form = await form_of(request, 4 * voxels + 16 * SMALL_BODY)
        sent, params = form.get("label"), params_of(form)
        if not isinstance(sent, UploadFile):
            raise Refused(422, "expected a file in the field label, got none")
        with TemporaryDirectory() as folder:
            path = Path(folder) / f"label{suffix_of(last_part(sent.filename or ''))}"
            path.write_bytes(await sent.read())
            done = await run_in_threadpool(self._revise, case_id, path, params, expert)
        return JSONResponse({"image": case_id, "label": case_id, **done})

    def _revise(self, case_id: str, path: Path, params: dict[str, Any], expert: Expert) -> dict[str, Any]:
        project, row = self.desk.project, self.desk.row(case_id)
        table = params.get("label_info")
        sent = read_sent(
            path, table if isinstance(table, list) else [], project.pool.grid(case_id), project.config.aliases,
            f"case {case_id}",
        )  # fmt: skip
        if unknown := sorted(set(sent) - set(self.desk.classes(case_id)) - set(project.config.classes)):
            raise UnknownClassError(
                f"case {case_id}: expected classes of this project, got {', '.join(unknown)}; rename these segments"
            )
        predicted, taken = self.desk.predicted(case_id), {}
        for name, mask in sent.items():
            before = predicted.get(name)
            there, was = bool(mask.any()), before is not None and bool((before == 1).any())
            # Slicer makes an empty segment of every class: empty says "not there" only where something was to revise.
            changed = before is None or not np.array_equal(before == 1, mask == 1)
            if (there and (changed or name in row.classes)) or (was and not there and name in row.classes):
                taken[name] = mask
        if not taken:
            raise Refused(
                422,
                f"case {case_id}: expected a segment of {', '.join(row.classes)}, got none with a voxel; draw it first",
            )
        return self.desk.hand_in(case_id, taken, expert.name, "edited", "from 3D Slicer", timed=False)

    def _case(self, request: Request, key: str) -> str:
        """The id in the query, of a case of a queue: without a ticket, a file's name reduced to its last part."""
        name = last_part(request.query_params.get(key, ""))
        name = name.rpartition(_TICKET)[0] or name
        return self.desk.row(name.removesuffix(suffix_of(name, ""))).case_id
