"""What networks run in: the options of commands that predict, and what opens a model by them."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from cli.options import choice

if TYPE_CHECKING:
    from ctune.config import Config
    from ctune.pool_work import OpenRuntime
    from ctune.project import Project

ModelOrFile: TypeAlias = Annotated[
    str, typer.Argument(help="NAME, NAME:VERSION, NAME@ALIAS or sha256:...; with --runtime onnx a file.")
]
RuntimeName: TypeAlias = Annotated[
    str, typer.Option("--runtime", help="torch, or onnx for a file that `ctune export onnx` wrote.")
]


class Runtimes(StrEnum):
    """What networks run in."""

    TORCH = "torch"
    ONNX = "onnx"


def opened(
    project: Project, model: str, runtime: str, classes: list[str] | None
) -> tuple[str, Config, OpenRuntime]:
    """The digest of a model, the project's settings as this model needs them, and what opens it where it is to run."""
    from functools import partial

    from ctune.compositions import preprocessing_of
    from ctune.errors import UsageError
    from ctune.pool_work import open_onnx, open_torch, settings_of_onnx

    config = project.config
    if choice(Runtimes, runtime, "--runtime") is Runtimes.ONNX:
        digest, config = settings_of_onnx(Path(model), config)
        return digest, config, partial(open_onnx, Path(model).resolve(), classes)
    if model.endswith(".onnx"):
        raise UsageError(f"expected a registered model for --runtime torch, got {model}; give --runtime onnx")
    registry = project.open_registry()
    digest = registry.resolve(model)
    config = config.model_copy(update={"preprocessing": preprocessing_of(registry, digest)})
    return digest, config, partial(open_torch, project, digest, config.device, classes, config.inference)
