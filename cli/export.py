"""``ctune export``: a model for places where ctune is not."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.export_bento import bento
from cli.options import ProjectDir, names
from cli.output import AsJson, emit
from cli.registry_options import Reference, RegistryDir, open_registry

if TYPE_CHECKING:
    from rich.console import Console

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False)


@app.callback()
def export() -> None:
    """Write a model for places where ctune is not: ONNX, a MONAI Bundle, a Bento."""


app.command()(bento)


@app.command()
def onnx(
    model: Reference,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="The file; by default NAME.onnx.")] = None,
    classes: Annotated[str, typer.Option(help="With commas; all of the model's by default.")] = "",
    check: Annotated[
        list[Path] | None, typer.Option(help="A CT on which logits are compared too; repeat for more.")
    ] = None,
    project: ProjectDir = None,
    registry: RegistryDir = None,
    as_json: AsJson = False,
) -> None:
    """Write base and heads for one window as ONNX; refused when its logits differ from torch's."""
    import torch

    from ctune.compositions import load_model
    from ctune.config import Inference
    from ctune.export.onnx import export_onnx
    from ctune.export.windows import check_windows

    loaded = load_model(open_registry(project, registry), model, torch.device("cpu"))
    window = Inference.model_validate(loaded.record.config.get("inference", {})).patch_size
    path = out or Path(f"{model.split(':')[0].split('@')[0]}.onnx")
    windows = check_windows(loaded.preprocessing, window, check or [])
    done = export_onnx(loaded, path, window=window, classes=names(classes) or None, windows=windows)

    def human(console: Console) -> None:
        console.print(
            f"{done.path}: {', '.join(done.classes)}; windows of {' x '.join(map(str, done.window))}"
        )
        for what, value in done.parity.items():
            console.print(f"largest difference of logits on {what}: {value:.1e}")

    emit(done.__dict__, as_json, human)


@app.command()
def bundle(
    model: Reference,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="The folder; by default NAME.bundle.")
    ] = None,
    classes: Annotated[str, typer.Option(help="With commas; all of the model's by default.")] = "",
    check: Annotated[
        list[Path] | None, typer.Option(help="A CT on which logits are compared too; repeat for more.")
    ] = None,
    project: ProjectDir = None,
    registry: RegistryDir = None,
    as_json: AsJson = False,
) -> None:
    """Write base and heads as one plain network in a MONAI Bundle; it runs with `python -m monai.bundle run`, without ctune."""
    import torch

    from ctune.compositions import load_model
    from ctune.config import Inference
    from ctune.export.bundle import export_bundle
    from ctune.export.windows import check_windows

    loaded = load_model(open_registry(project, registry), model, torch.device("cpu"))
    inference = Inference.model_validate(loaded.record.config.get("inference", {}))
    name = model.split(":")[0].split("@")[0]
    windows = check_windows(loaded.preprocessing, inference.patch_size, check or [])
    done = export_bundle(
        loaded, out or Path(f"{name}.bundle"), inference=inference, name=name, classes=names(classes) or None, windows=windows
    )  # fmt: skip

    def human(console: Console) -> None:
        console.print(f"{done.folder}: {', '.join(done.classes)}")
        for what, value in done.parity.items():
            console.print(f"largest difference of logits on {what}: {value:.1e}")
        console.print(
            f"python -m monai.bundle run --config_file {done.folder}/configs/inference.json --bundle_root {done.folder} "
            "--dataset_dir FOLDER"
        )

    emit(done.__dict__, as_json, human)
