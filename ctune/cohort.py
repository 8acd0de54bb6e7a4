"""The verbs over many cases of a project: one case in memory at a time, each result on disk before the next begins.

Run again, each of these does only what is missing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from ctune.config import Config
from ctune.data.exchange import Format
from ctune.data.prepared import PreparedCase, prepare
from ctune.errors import DataError, PoolError, UsageError
from ctune.evaluate import CaseScore, score_mask, write_scores
from ctune.hybrid import merge
from ctune.inference.engine import Axis, Job, predict_jobs
from ctune.inference.inputs import Input
from ctune.inference.output import Wanted
from ctune.inference.runtime import Runtime, TorchRuntime
from ctune.model.network import Network
from ctune.postprocess import clean_all, needed
from ctune.predict import masks_of, predict_case
from ctune.project import Project
from ctune.types import HybridAnnotation, Mask, OnProgress, Progress, Source, Split, silent


def predict_cases(
    project: Project,
    network: Network | Runtime,
    model: str,
    case_ids: Sequence[str],
    folder: Path,
    *,
    classes: Sequence[str] | None = None,
    flips: Sequence[Axis] = (),
    wanted: Wanted = Wanted(probabilities=True),
    on_progress: OnProgress = silent,
) -> None:
    """Write the prediction of each case of the pool to ``folder/<case>`` (``inference.engine.predict_jobs``).

    Raises DataError when cases of the pool cannot be read; the others are predicted.
    """
    _, refused = predict_inputs(
        project.config, network, model, pool_inputs(project, case_ids), folder, classes=classes, flips=flips, wanted=wanted,
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
    flips: Sequence[Axis] = (),
    wanted: Wanted = Wanted(),
    on_progress: OnProgress = silent,
) -> tuple[list[str], list[tuple[str, str]]]:
    """Predict CTs, of a pool or not (``inference.inputs.find_inputs``), each to ``folder/<id>``.

    classes: of a network; a runtime has its own. Returns the ids that were predicted and (id, reason) of those that could
    not be read. Raises UsageError for DICOM segmentations of CTs that are no DICOM series.
    """
    runtime = TorchRuntime(network, classes, config.inference) if isinstance(network, Network) else network
    if wanted.format is Format.DICOM_SEG and (other := next((i for i in inputs if i.series is None), None)):
        raise UsageError(
            f"expected CTs as DICOM series for DICOM segmentations, got {other.case_id} in another format; choose another --format"
        )
    jobs = [Job(one.case_id, one.load, folder / one.case_id, one.series) for one in inputs]
    refused = predict_jobs(
        runtime, jobs, config, model=model, wanted=wanted, flips=flips, on_progress=on_progress
    )
    names = {case_id for case_id, _ in refused}
    return [job.case_id for job in jobs if job.case_id not in names], refused


def hybrid_of(
    project: Project,
    case_id: str,
    sources: Sequence[Source] = (Source.ORIGINAL, Source.REVISED, Source.PREDICTED),
) -> HybridAnnotation:
    """The merged labels of one case from its annotations of `sources`, in the order that the project sets."""
    pool, order = project.pool, [s for s in project.config.hybrid.order if s in sources]
    records = [r for r in pool.annotations(case_id) if r.source in order]
    names = sorted({project.class_of(r) for r in records})
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
    network: Network,
    folder: Path,
    *,
    split: Split = Split.TEST,
    on_progress: OnProgress = silent,
) -> list[CaseScore]:
    """Score the network's classes on every case of `split` that annotates them; scores are kept in `folder`.

    The truth is original and revised annotations alone. Raises PoolError when the split has no case.
    """
    cases, out = cases_of(project, split), list[CaseScore]()
    for number, case_id in enumerate(cases):
        out += evaluate_case(project, network, case_id)
        on_progress(Progress("evaluate", number + 1, len(cases), case_id))
    write_scores(folder, out)
    return out


def cases_of(project: Project, split: Split) -> list[str]:
    """The ids of a split's cases. Raises PoolError when it has none."""
    cases = [case.id for case in project.pool.cases(split)]
    if not cases:
        raise PoolError(f"expected cases of the split '{split}', got none; import some with --split {split}")
    return cases


def evaluate_case(project: Project, network: Network, case_id: str) -> list[CaseScore]:
    """Score the network's classes on one case; those that it does not annotate are passed over."""
    rules, case = project.config.postprocess, project.pool.load(case_id)
    truth = hybrid_of(project, case_id, (Source.ORIGINAL, Source.REVISED)).masks
    names = [name for name in network.classes if name in truth]
    # Hosts of post-processing too, whether or not the truth has them.
    asked = [n for n in network.classes if n in {*names, *needed(network.classes, rules)}]
    prediction = predict_case(network, case, project.config, model="", classes=asked)
    # As `ctune predict` writes them: what is measured is what users get.
    predicted = masks_of(prediction, project.config.inference.threshold)
    predicted = clean_all(predicted, rules, case.grid)
    tolerance = project.config.evaluation.nsd_tolerance_mm
    return [score_mask(case_id, n, predicted[n], np.asarray(truth[n]), case.grid, tolerance) for n in names]
