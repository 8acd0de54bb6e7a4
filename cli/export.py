"""``ctune export``: a model for places where ctune is not."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.export_bento import bento
from cli.options import ProjectDir, names
from cli.output import AsJson, emit, progress
from cli.registry_options import Reference, RegistryDir, open_registry

if TYPE_CHECKING:
    from rich.console import Console

    from ctune.export.int8 import Int8

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
    int8: Annotated[
        bool,
        typer.Option(
            "--int8",
            help="Also write FILE.int8.onnx for CPUs, with the Dice that it costs on annotated test cases and its speed.",
        ),
    ] = False,
    calibrate: Annotated[
        str, typer.Option("--calibrate", help="Cases for --int8, with commas; four of the pool by default.")
    ] = "",
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
    small = _int8(path, names(calibrate), project, as_json) if int8 else None

    def human(console: Console) -> None:
        console.print(
            f"{done.path}: {', '.join(done.classes)}; windows of {' x '.join(map(str, done.window))}"
        )
        for what, value in done.parity.items():
            console.print(f"largest difference of logits on {what}: {value:.1e}")
        if small is not None:
            _print_int8(small, console)

    emit(done.__dict__ | ({"int8": small} if small else {}), as_json, human)


def _int8(path: Path, cases: list[str], project: Path | None, as_json: bool) -> Int8:
    """The same in 8 bits beside it, measured."""
    from ctune.export.int8 import export_int8
    from ctune.pool_work import settings_of_onnx
    from ctune.project import find_project

    found = find_project(project)
    _, config = settings_of_onnx(path, found.config)
    with progress("int8", as_json) as on_progress:
        return export_int8(
            found, config, path, path.with_suffix(".int8.onnx"), calibrate=cases, on_progress=on_progress
        )


def _print_int8(small: Int8, console: Console) -> None:
    seconds, ratio = small.window_seconds, small.window_seconds["int8"] / small.window_seconds["float32"]
    console.print(
        f"{small.path}: {small.layers} convolutions in int8, calibrated on {', '.join(small.calibrated_on)}; a window takes "
        f"{seconds['int8']:.3f} s instead of {seconds['float32']:.3f} s here, {ratio:.2f} times as long"
    )
    for name, dice in small.dice.items():
        before, after = ("-" if value is None else f"{value:.3f}" for value in dice.values())
        console.print(f"Dice of {name} over {small.cases} cases: {after} instead of {before}")


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
