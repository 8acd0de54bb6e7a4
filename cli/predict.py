"""``ctune predict``."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.executors import Address, Cores, ExecutorName, Workers, executor_of
from cli.options import ProjectDir, choice, names
from cli.output import AsJson, emit, progress
from cli.runtimes import ModelOrFile, RuntimeName, opened

if TYPE_CHECKING:
    from rich.console import Console

    from ctune.data.exchange import Format


class Formats(StrEnum):
    """How masks are written."""

    NIFTI = "nifti"
    LABELS = "labels"
    SEG_NRRD = "seg.nrrd"
    DICOM_SEG = "dicom-seg"
    ITK_SNAP = "itk-snap"


def predict(
    model: ModelOrFile,
    images: Annotated[
        list[Path] | None,
        typer.Argument(
            help="CTs: NIfTI or NRRD files, DICOM series (folders or zipped), folders of these or of cases; by default the project's pool."
        ),
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="A folder for each case comes here.")] = Path(
        "predictions"
    ),
    classes: Annotated[
        str, typer.Option("--classes", help="With commas; all of the model's by default.")
    ] = "",
    split: Annotated[
        str, typer.Option("--split", help="Which cases of the pool: pool, validation or test.")
    ] = "pool",
    labels: Annotated[
        bool, typer.Option("--labels", help="Write one label map a case instead of a mask a class.")
    ] = False,
    format: Annotated[
        str,
        typer.Option(
            "--format",
            help="Of the masks: nifti (a file a class), labels, seg.nrrd (3D Slicer), dicom-seg or itk-snap.",
        ),
    ] = "nifti",
    probabilities: Annotated[
        bool, typer.Option("--probabilities", help="Also write the probability of every class.")
    ] = False,
    flips: Annotated[
        bool,
        typer.Option(
            "--flips",
            help="Also measure how predictions change when mirrored, for `ctune score`; writes probabilities too.",
        ),
    ] = False,
    runtime: RuntimeName = "torch",
    executor: ExecutorName = "local",
    address: Address = "auto",
    workers: Workers = None,
    cores: Cores = None,
    project: ProjectDir = None,
    as_json: AsJson = False,
) -> None:
    """Predict masks on each CT's own grid, with volumes in mL; run again, it does what is missing."""
    from ctune.cohort import pool_inputs, predict_inputs
    from ctune.data.files import write_json
    from ctune.inference.inputs import find_inputs
    from ctune.inference.output import Wanted
    from ctune.pool_work import Predict, predict_on
    from ctune.predict import read_volumes
    from ctune.project import find_project
    from ctune.types import Split

    found = find_project(project)
    if images:
        inputs = find_inputs(images)
    else:
        cases = found.pool.cases(choice(Split, split, "--split"))
        inputs = pool_inputs(found, [case.id for case in cases])
    digest, config, open_runtime = opened(found, model, runtime, names(classes) or None)
    flipped = found.config.importance.flips if flips else ()
    wanted = Wanted(probabilities=probabilities or flips, format=_format(format, labels))
    where = executor_of(executor, address, workers, cores)
    with progress("predict", as_json) as on_progress:
        if where is None:
            ids, refused = predict_inputs(
                config, open_runtime(), digest, inputs, out, flips=flipped, wanted=wanted, on_progress=on_progress
            )  # fmt: skip
        else:
            work = Predict(open_runtime, config, digest, out.resolve(), wanted, flipped)
            ids, refused = predict_on(where, work, inputs, on_progress)
    volumes = {case_id: read_volumes(out / case_id) for case_id in ids}
    if ids:
        write_json(out / "volumes.json", volumes)

    def human(console: Console) -> None:
        console.print(f"{len(ids)} cases in {out}, volumes in {out / 'volumes.json'}")
        for case_id, why in refused:
            console.print(f"refused {case_id}: {why}")

    document: dict[str, Any] = {"model": digest, "out": out, "volumes_ml": volumes}
    emit({**document, "refused": dict(refused)}, as_json, human)
    if refused:
        raise typer.Exit(1)


def _format(text: str, labels: bool) -> Format:
    from ctune.data.exchange import Format
    from ctune.errors import UsageError

    chosen = choice(Formats, text, "--format")
    if labels and chosen not in (Formats.NIFTI, Formats.LABELS):
        raise UsageError(f"expected --labels or --format {chosen}, got both; leave --labels out")
    own = {Formats.NIFTI: Format.MULTILABEL if labels else Format.MASKS, Formats.LABELS: Format.MULTILABEL}
    return own[chosen] if chosen in own else Format(chosen.value)
