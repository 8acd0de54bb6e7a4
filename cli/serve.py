"""``ctune serve``."""

from __future__ import annotations

import tempfile
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.options import ProjectDir, choice
from cli.output import AsJson, emit, note
from cli.registry_options import RegistryDir, open_registry

if TYPE_CHECKING:
    import socket

    from starlette.applications import Starlette

    from ctune.serve.service import Settings
    from ctune.serve.tokens import Tokens
    from registry import Registry

_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_HOSTS = ("127.0.0.1", "localhost", "[::1]")
"""The same as clients write them: an IPv6 address stands in brackets there."""


class Runtime(StrEnum):
    AUTO = "auto"
    ONNX = "onnx"
    TORCH = "torch"


def serve(
    model: Annotated[
        str, typer.Argument(help="NAME, NAME:VERSION, NAME@ALIAS or sha256:... of a model in the registry.")
    ] = "",
    host: Annotated[
        str,
        typer.Option(
            "--host", envvar="CTUNE_HOST", help="Address to listen on; loopback unless you say otherwise."
        ),
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="0 takes a free one.")] = 3000,
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:1.")] = "auto",
    runtime: Annotated[
        str, typer.Option("--runtime", help="onnx, torch, or auto: onnx on a CPU, torch on a GPU.")
    ] = "auto",
    tokens: Annotated[
        Path | None,
        typer.Option("--tokens", envvar="CTUNE_TOKENS", help="Names and hashed tokens of who may ask."),
    ] = None,
    add_token: Annotated[
        str, typer.Option("--add-token", help="Make a token for this name, print it once, and end.")
    ] = "",
    open_to_all: Annotated[
        bool, typer.Option("--open", help="Listen beyond this machine without tokens.")
    ] = False,
    state: Annotated[
        Path | None,
        typer.Option(
            "--state", envvar="CTUNE_STATE", help="Folder for uploads and jobs; ./ctune-serve by default."
        ),
    ] = None,
    queue: Annotated[int, typer.Option("--queue", min=1, help="Volumes that may wait.")] = 16,
    timeout: Annotated[float, typer.Option("--timeout", min=0.1, help="Seconds for one answer.")] = 600.0,
    upload_mb: Annotated[int, typer.Option("--max-upload-mb", min=1, help="Largest upload.")] = 1024,
    megavoxels: Annotated[int, typer.Option("--max-megavoxels", min=1, help="Largest CT, unpacked.")] = 400,
    poll: Annotated[
        float, typer.Option("--poll", min=0.05, help="Seconds between two looks whether the alias has moved.")
    ] = 2.0,
    project: ProjectDir = None,
    registry: RegistryDir = None,
    as_json: AsJson = False,
) -> None:
    """Serve a model over HTTP: CTs in, masks and volumes out."""
    if add_token:
        _add_token(tokens or Path("tokens.json"), add_token, as_json)
        return
    from ctune.errors import UsageError
    from ctune.serve.tokens import Tokens, read_tokens

    if not model:
        raise UsageError(
            "expected the name of a model to serve, got none; `ctune registry list` names the models"
        )
    known = read_tokens(tokens) if tokens else Tokens({})
    if not known and host not in _LOOPBACK and not open_to_all:
        raise UsageError(
            f"expected --tokens FILE to listen on {host}, got none; make one with `ctune serve --add-token NAME`, or say --open"
        )
    from ctune.serve.intake import Limits
    from ctune.serve.service import Settings

    settings = Settings(
        state=state or Path("ctune-serve"),
        limits=Limits(upload_mb * 2**20, megavoxels * 10**6),
        queue=queue,
        seconds=timeout,
        tokens=known,
        poll_seconds=poll,
        hosts=() if known or open_to_all else _HOSTS,
    )
    app, about = _ready(
        open_registry(project, registry), model, device, choice(Runtime, runtime, "--runtime"), settings
    )
    # What libraries lay aside is gone with the rest of the folder, also after a kill.
    tempfile.tempdir = str(settings.state / "scratch")
    listening = _listen(host, port)
    url = f"http://{_in_url(host)}:{listening.getsockname()[1]}"
    emit({"url": url, **about}, as_json, lambda console: console.print(f"{about['name']} at {url}"))
    _run(app, listening, known)


def _add_token(path: Path, name: str, as_json: bool) -> None:
    from ctune.serve.tokens import add_token

    token = add_token(path, name)
    said = {"name": name, "token": token, "file": path}
    emit(said, as_json, lambda console: console.print(token, markup=False, soft_wrap=True))


def _ready(
    registry: Registry, reference: str, device: str, runtime: Runtime, settings: Settings
) -> tuple[Starlette, dict[str, Any]]:
    from ctune.optimise import resolve_device
    from ctune.serve.app import build_app
    from ctune.serve.registered import RegistrySource, loader_of
    from ctune.serve.service import open_service

    source = RegistrySource(registry, reference)
    loader, chosen = loader_of(source, settings.state / "graphs", resolve_device(device), runtime)
    service = open_service(source, settings, loader, chosen)
    model = service.model
    about = {"name": reference, "model": f"sha256:{model.about.digest}", "classes": list(model.classes)}
    return build_app(service), {**about, "runtime": service.settings.runtime}


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _listen(host: str, port: int) -> socket.socket:
    import socket

    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listening.bind((host, port))
    return listening


def _run(app: Starlette, listening: socket.socket, tokens: Tokens) -> None:
    import uvicorn

    from ctune.serve.faults import log_to_stderr

    log_to_stderr()
    note(
        f"{'tokens are asked for' if tokens else 'no tokens: everybody who reaches it may ask'}; end with Ctrl-C"
    )
    # uvicorn's own log holds addresses and queries: ours tells what is needed.
    config = uvicorn.Config(
        app, log_level="warning", access_log=False, server_header=False, timeout_graceful_shutdown=20
    )
    uvicorn.Server(config).run(sockets=[listening])
