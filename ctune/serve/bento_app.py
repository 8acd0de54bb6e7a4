"""The service in a Bento: an exported folder, settings from the environment. What ``bento.write_bento`` packs imports this.

CTUNE_TOKENS  file of hashed tokens; without it only loopback names are answered, unless CTUNE_OPEN=1
CTUNE_STATE   folder for uploads and jobs; a new temporary one by default, and jobs end with it
CTUNE_QUEUE, CTUNE_TIMEOUT, CTUNE_MAX_UPLOAD_MB, CTUNE_MAX_MEGAVOXELS   as the options of ``ctune serve``
CTUNE_DEVICE  for the runtime torch: cpu by default
"""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
from starlette.applications import Starlette

from ctune.errors import ConfigError
from ctune.serve.app import build_app
from ctune.serve.exported import FolderSource
from ctune.serve.faults import log_to_stderr
from ctune.serve.intake import Limits
from ctune.serve.service import Service, Settings, open_service
from ctune.serve.tokens import Tokens, read_tokens

LOOPBACK = ("127.0.0.1", "localhost", "[::1]")


@dataclass
class Exported:
    """Where the model lies; known once BentoML has made the service."""

    folder: Path | None = None


def bento_app(exported: Exported) -> Starlette:
    """The application; its service is made when it starts."""

    def make() -> Service:
        assert exported.folder is not None
        settings = settings_of(os.environ)
        # What libraries lay aside is gone with the rest of the folder, also after a kill.
        tempfile.tempdir = str(settings.state / "scratch")
        source = FolderSource(exported.folder)
        device = torch.device(os.environ.get("CTUNE_DEVICE", "cpu"))
        return open_service(source, settings, source.loader(device), source.runtime)

    log_to_stderr()
    return build_app(make)


def settings_of(environ: os._Environ[str] | dict[str, str]) -> Settings:
    """Settings from variables. Raises ConfigError for what is no number."""

    def number(name: str, default: float) -> float:
        try:
            return float(environ.get(name, default))
        except ValueError:
            raise ConfigError(f"expected a number for {name}, got {environ[name]!r}") from None

    tokens = read_tokens(Path(environ["CTUNE_TOKENS"])) if environ.get("CTUNE_TOKENS") else Tokens({})
    state = environ.get("CTUNE_STATE") or tempfile.mkdtemp(prefix="ctune-serve-")
    limits = Limits(
        int(number("CTUNE_MAX_UPLOAD_MB", 1024)) * 2**20, int(number("CTUNE_MAX_MEGAVOXELS", 400)) * 10**6
    )
    return Settings(
        state=Path(state),
        limits=limits,
        queue=int(number("CTUNE_QUEUE", 16)),
        seconds=number("CTUNE_TIMEOUT", 600),
        tokens=tokens,
        hosts=() if tokens or environ.get("CTUNE_OPEN") == "1" else LOOPBACK,
    )
