"""The API as an OpenAPI document, with an example of everything; the tests hold it against the real thing."""

from __future__ import annotations

from typing import Any

from ctune import __version__

_DIGEST = "sha256:" + "4f" * 32
_ABOUT: dict[str, Any] = {
    "classes": ["liver", "spleen"],
    "labels": {"liver": 1, "spleen": 2},
    "volumes_ml": {"liver": 1511.2, "spleen": 204.9},
    "model": _DIGEST,
    "base": _DIGEST,
    "heads": {"liver": _DIGEST, "spleen": _DIGEST},
    "seconds": {"read": 0.4, "network": 11.8},
}
_JOB = {
    "id": "0" * 32, "state": "done", "created": 1767225600.0, "started": 1767225601.0, "finished": 1767225640.0,
    "attempts": 1, "error": None, "result": f"/jobs/{'0' * 32}/result", **_ABOUT,
}  # fmt: skip
_BINARY = {"schema": {"type": "string", "format": "binary"}}
_ERRORS = {
    "401": "No token, or an unknown one.",
    "408": "The upload took too long.",
    "413": "More bytes or voxels than the limits.",
    "422": "No CT, an unknown class, or an unknown output; the text says which.",
    "429": "The queue is full; Retry-After says when to come again.",
    "503": "The service starts or ends.",
    "504": "It took too long and was stopped; a job may take longer.",
}


def document() -> dict[str, Any]:
    """OpenAPI 3.1."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "ctune",
            "version": __version__,
            "description": "Segments CTs with one model, on their own grid. Research use; not a medical device.",
        },
        "security": [{"token": []}],
        "components": {
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
            "schemas": {
                "Error": {
                    "type": "object",
                    "required": ["error", "request"],
                    "properties": {"error": {"type": "string"}, "request": {"type": "string"}},
                }
            },
        },
        "paths": _paths(),
    }


def _paths() -> dict[str, Any]:
    outputs = ["multilabel", "masks", "seg.nrrd", "dicom-seg"]
    job_id = {"name": "id", "in": "path", "required": True, "schema": {"type": "string"}, "example": "0" * 32}
    job, there = _json("The job.", _JOB), ("401", "404", "503")
    return {
        "/segment": {
            "post": _upload("Segment a CT", outputs, {"200": _file("The file, by `output`.")}, tuple(_ERRORS))
        },
        "/importance": {
            "post": _upload(
                "Where the model is likely wrong in a CT",
                ["json", "attention"],
                {"200": _file("JSON, or the attention map.", {**_ABOUT, "score": 1.7, "order": ["spleen", "liver"]})},
                tuple(_ERRORS),
            )
        },
        "/jobs": {"post": _upload("Segment a CT later", outputs, {"202": job}, tuple(_ERRORS))},
        "/jobs/{id}": {
            "parameters": [job_id],
            "get": _operation("How a job stands", {"200": job}, there),
            "delete": _operation("Forget a job, stop it if it runs", {"204": {"description": "Gone."}}, there),
        },
        "/jobs/{id}/result": {
            "parameters": [job_id],
            "get": _operation(
                "What the job made",
                {
                    "200": _file("The file, by `output`."),
                    "409": _error("Not done yet."),
                    "500": _error("The job failed by a fault of the service."),
                },
                ("401", "404", "413", "422", "503", "504"),
            ),
        },
        "/model": {"get": _operation("Which model answers", {"200": _json("Its card.", {"name": "abdomen@production", **_ABOUT})}, ("401", "503"))},
        "/livez": {"get": _open("Whether the process answers", {"200": _json("It does.", {"alive": True})})},
        "/readyz": {
            "get": _open(
                "Whether it would work on a request",
                {"200": _json("It would.", {"ready": True}), "503": _json("It would not.", {"ready": False})},
            )
        },
        "/metrics": {
            "get": _open("For Prometheus", {"200": {"description": "Numbers.", "content": {"text/plain": {"schema": {"type": "string"}}}}, "503": _error(_ERRORS["503"])})
        },
    }  # fmt: skip


def _upload(
    summary: str, outputs: list[str], answers: dict[str, Any], errors: tuple[str, ...]
) -> dict[str, Any]:
    classes = {
        "type": "string",
        "description": "Names with commas; all when left out.",
        "example": "liver,spleen",
    }
    output = {"type": "string", "enum": outputs, "default": outputs[0]}
    form = {
        "type": "object",
        "required": ["file"],
        "properties": {"file": {"type": "string", "format": "binary"}, "classes": classes, "output": output},
    }
    return {
        **_operation(summary, answers, errors),
        "parameters": [
            {"name": "classes", "in": "query", "schema": {k: v for k, v in classes.items() if k == "type"}, "example": "liver"},
            {"name": "output", "in": "query", "schema": output},
        ],
        "requestBody": {
            "required": True,
            "description": "One CT: .nii, .nii.gz, .nrrd, or a zip archive of one DICOM series.",
            "content": {"application/octet-stream": _BINARY, "multipart/form-data": {"schema": form}},
        },
    }  # fmt: skip


def _operation(summary: str, answers: dict[str, Any], errors: tuple[str, ...]) -> dict[str, Any]:
    told = {**_ERRORS, "404": "No such job of yours."}
    return {"summary": summary, "responses": {**answers, **{code: _error(told[code]) for code in errors}}}


def _open(summary: str, answers: dict[str, Any]) -> dict[str, Any]:
    return {"summary": summary, "security": [], "responses": answers}


def _json(what: str, example: dict[str, Any]) -> dict[str, Any]:
    return {
        "description": what,
        "content": {"application/json": {"schema": {"type": "object"}, "example": example}},
    }


def _file(what: str, example: dict[str, Any] | None = None) -> dict[str, Any]:
    kinds = (
        "application/gzip",
        "application/zip",
        "application/octet-stream",
        "application/dicom",
        "multipart/mixed",
    )
    content: dict[str, Any] = dict.fromkeys(kinds, _BINARY)
    content["application/json"] = {"schema": {"type": "object"}, "example": example or _ABOUT}
    return {
        "description": what,
        "headers": {
            "X-Ctune-Model": {"schema": {"type": "string"}, "example": _DIGEST},
            "X-Ctune-Volumes-Ml": {
                "schema": {"type": "string"},
                "example": '{"liver": 1511.2, "spleen": 204.9}',
            },
        },
        "content": content,
    }


def _error(what: str) -> dict[str, Any]:
    example = {
        "error": "expected a NIfTI image (.nii or .nii.gz), got something else; convert it",
        "request": "7f3a",
    }
    schema = {"$ref": "#/components/schemas/Error"}
    return {"description": what, "content": {"application/json": {"schema": schema, "example": example}}}
