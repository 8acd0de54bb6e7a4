"""``ctune predict``."""

from __future__ import annotations

import json
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

    from ctune.data.cases_at_url import CasesAtUrl
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
    out: Annotated[
        str, typer.Option("--out", "-o", help="A folder for each case comes here; a folder or an fsspec URL.")
    ] = "predictions",
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
        bool,
        typer.Option("--probabilities", help="Also write the probability of every class, for `ctune score`."),
    ] = False,
    flips: Annotated[
        bool,
        typer.Option(
            "--flips",
            help="Also measure how predictions change when the image is mirrored or moved (importance.flips, importance.shifts), a pass more for each; writes probabilities too.",
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
    from ctune.data.cases_at_url import CasesAtUrl, place_of
    from ctune.errors import UsageError
    from ctune.executors.local import Local
    from ctune.inference.inputs import find_inputs
    from ctune.inference.output import Wanted
    from ctune.pool_work import Predict, predict_on
    from ctune.project import find_project
    from ctune.types import Split

    found, place = find_project(project), place_of(out)
    if isinstance(place, Path) and place.exists() and not place.is_dir():
        raise UsageError(f"expected a folder for --out, got the file {place}; name another")
    if images:
        inputs = find_inputs(images)
    else:
        cases = found.pool.cases(choice(Split, split, "--split"))
        inputs = pool_inputs(found, [case.id for case in cases])
    digest, config, open_runtime = opened(found, model, runtime, names(classes) or None)
    views = found.config.importance.views if flips else ()
    wanted = Wanted(probabilities=probabilities or flips, format=_format(format, labels))
    where = executor_of(executor, address, workers, cores)
    with progress("predict", as_json) as on_progress:
        if where is None and isinstance(place, Path):
            ids, refused = predict_inputs(
                config, open_runtime(), digest, inputs, place, views=views, wanted=wanted, on_progress=on_progress
            )  # fmt: skip
        else:
            to = place if isinstance(place, CasesAtUrl) else place.resolve()
            work = Predict(open_runtime, config, digest, to, wanted, views)
            ids, refused = predict_on(where or Local(), work, inputs, on_progress)
    volumes = _volumes(place, ids)

    def human(console: Console) -> None:
        volumes_in = f", volumes in {place}/volumes.json" if ids else ""
        console.print(f"{len(ids)} cases in {place}{volumes_in}")
        for case_id, why in refused:
            console.print(f"refused {case_id}: {why}")

    document: dict[str, Any] = {"model": digest, "out": str(place), "volumes_ml": volumes}
    emit({**document, "refused": dict(refused)}, as_json, human)
    if refused:
        raise typer.Exit(1)


def _volumes(place: Path | CasesAtUrl, case_ids: list[str]) -> dict[str, dict[str, float]]:
    """{case: {class: mL}} of what was predicted, written beside it."""
    from ctune.data.files import write_json
    from ctune.predict import read_volumes

    if isinstance(place, Path):
        volumes = {case_id: read_volumes(place / case_id) for case_id in case_ids}
        if case_ids:
            write_json(place / "volumes.json", volumes)
        return volumes
    records = place.records() if case_ids else {}
    volumes = {case_id: json.loads(records[case_id])["volumes_ml"] for case_id in case_ids}
    if case_ids:
        place.write_json("volumes.json", volumes)
    return volumes


def _format(text: str, labels: bool) -> Format:
    from ctune.data.exchange import Format
    from ctune.errors import UsageError

    chosen = choice(Formats, text, "--format")
    if labels and chosen not in (Formats.NIFTI, Formats.LABELS):
        raise UsageError(f"expected --labels or --format {chosen}, got both; leave --labels out")
    own = {Formats.NIFTI: Format.MULTILABEL if labels else Format.MASKS, Formats.LABELS: Format.MULTILABEL}
    return own[chosen] if chosen in own else Format(chosen.value)
