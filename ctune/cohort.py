"""The verbs over many cases of a project: one case in memory at a time, each result on disk before the next begins.

Run again, each of these does only what is missing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from ctune.config import Config
from ctune.data.exchange import Format
from ctune.data.nifti import read_mask
from ctune.data.prepared import PreparedCase, prepare
from ctune.errors import DataError, PoolError, UsageError
from ctune.evaluate import CaseScore, score_mask, write_scores
from ctune.hybrid import merge
from ctune.inference.engine import Job, predict_jobs
from ctune.inference.inputs import Input
from ctune.inference.output import Wanted
from ctune.inference.runtime import Runtime, TorchRuntime, as_runtime
from ctune.model.network import Network
from ctune.postprocess import needed
from ctune.project import Project
from ctune.types import HybridAnnotation, Mask, OnProgress, Progress, Source, Split, View, silent


def predict_cases(
    project: Project,
    network: Network | Runtime,
    model: str,
    case_ids: Sequence[str],
    folder: Path,
    *,
    classes: Sequence[str] | None = None,
    views: Sequence[View] = (),
    wanted: Wanted = Wanted(probabilities=True),
    on_progress: OnProgress = silent,
) -> None:
    """Write the prediction of each case of the pool to ``folder/<case>`` (``inference.engine.predict_jobs``).

    Raises DataError when cases of the pool cannot be read; the others are predicted.
    """
    _, refused = predict_inputs(
        project.config, network, model, pool_inputs(project, case_ids), folder, classes=classes, views=views, wanted=wanted,
        on_progress=on_progress,
    )  # fmt: skip
    if refused:
        raise DataError("; ".join(why for _, why in refused))


def pool_inputs(project: Project, case_ids: Sequence[str]) -> list[Input]:
    """Cases of the pool as inputs of a prediction."""
    return [Input(case_id, partial(project.pool.load, case_id)) for case_id in case_ids]


def predict_inputs(
    config: Config,
    network: Network | Runtime,
    model: str,
    inputs: Sequence[Input],
    folder: Path,
    *,
    classes: Sequence[str] | None = None,
    views: Sequence[View] = (),
    wanted: Wanted = Wanted(),
    on_progress: OnProgress = silent,
) -> tuple[list[str], list[tuple[str, str]]]:
    """Predict CTs, of a pool or not (``inference.inputs.find_inputs``), each to ``folder/<id>``.

    classes: of a network; a runtime has its own. Returns the ids that were predicted and (id, reason) of those that could
    not be read. Raises UsageError for DICOM segmentations of CTs that are no DICOM series.
    """
    runtime = as_runtime(network, config.inference, classes)
    if wanted.format is Format.DICOM_SEG and (other := next((i for i in inputs if i.series is None), None)):
        raise UsageError(
            f"expected CTs as DICOM series for DICOM segmentations, got {other.case_id} in another format; choose another --format"
        )
    jobs = [Job(one.case_id, one.load, folder / one.case_id, one.series) for one in inputs]
    refused = predict_jobs(
        runtime, jobs, config, model=model, wanted=wanted, views=views, on_progress=on_progress
    )
    names = {case_id for case_id, _ in refused}
    return [job.case_id for job in jobs if job.case_id not in names], refused


def hybrid_of(
    project: Project,
    case_id: str,
    sources: Sequence[Source] = (Source.ORIGINAL, Source.REVISED, Source.PREDICTED),
    classes: Sequence[str] | None = None,
) -> HybridAnnotation:
    """The merged labels of one case from its annotations of `sources`, in the order that the project sets; all classes when
    None."""
    pool, order = project.pool, [s for s in project.config.hybrid.order if s in sources]
    records = [r for r in pool.annotations(case_id) if r.source in order]
    names = sorted({project.class_of(r) for r in records})
    names = names if classes is None else [name for name in names if name in classes]
    found = {name: [pool.read(r) for r in records if project.class_of(r) == name] for name in names}
    return merge(case_id, found, order)


def prepare_labels(project: Project, case_id: str, masks: Mapping[str, Mask]) -> PreparedCase:
    """A case with its labels (on the CT's grid) in the network's space, from the project's cache where they are."""
    return prepare(
        case_id,
        lambda: project.pool.load(case_id),
        project.pool.case(case_id).sha256,
        masks,
        project.config.preprocessing,
        project.cache / "prepared",
    )


def evaluate_cases(
    project: Project,
    network: Network | Runtime,
    folder: Path,
    *,
    split: Split = Split.TEST,
    config: Config | None = None,
    on_progress: OnProgress = silent,
) -> list[CaseScore]:
    """Score the network's classes on every case of `split` that annotates them; scores are kept in `folder`.

    The truth is original and revised annotations alone. config: the project's settings as a model needs them, the project's
    own when None. Raises PoolError when the split has no case.
    """
    cases, out, config = cases_of(project, split), list[CaseScore](), config or project.config
    runtime = as_runtime(network, config.inference)
    for number, case_id in enumerate(cases):
        out += evaluate_case(project, runtime, config, case_id)
        on_progress(Progress("evaluate", number + 1, len(cases), case_id))
    write_scores(folder, out)
    return out


def cases_of(project: Project, split: Split) -> list[str]:
    """The ids of a split's cases. Raises PoolError when it has none."""
    cases = [case.id for case in project.pool.cases(split)]
    if not cases:
        raise PoolError(f"expected cases of the split '{split}', got none; import some with --split {split}")
    return cases


def evaluate_case(project: Project, runtime: Runtime, config: Config, case_id: str) -> list[CaseScore]:
    """Score a runtime's classes on one case; those that it does not annotate are passed over.

    Masks are written as `ctune predict` writes them, cleaned too, and read again a class at a time: what is measured is what
    users get, and memory does not grow with the classes. Raises DataError for a case that cannot be read.
    """
    truth = [s for s in map(Source, project.config.hybrid.order) if s is not Source.PREDICTED]
    there = {project.class_of(r) for r in project.pool.annotations(case_id) if r.source in truth}
    names = [name for name in runtime.classes if name in there]
    # Hosts of post-processing too, whether or not the truth has them.
    asked = {*names, *needed(runtime.classes, config.postprocess)}
    if isinstance(runtime, TorchRuntime):
        runtime = runtime.only([name for name in runtime.classes if name in asked])
    grid, out = project.pool.grid(case_id), list[CaseScore]()
    project.cache.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix="evaluate-", dir=project.cache) as folder:
        job = Job(case_id, partial(project.pool.load, case_id), Path(folder))
        refused = predict_jobs(runtime, [job], config, model="")
        if refused:
            raise DataError(refused[0][1])
        for name in names:
            predicted = read_mask(job.folder / f"{name}.nii.gz", grid, f"case {case_id}, {name}")
            known = np.asarray(hybrid_of(project, case_id, truth, [name]).masks[name])
            tolerance = config.evaluation.nsd_tolerance_mm
            out.append(score_mask(case_id, name, predicted, known, grid, tolerance))
    return out
