"""The verbs over many cases of a project: one case in memory at a time, each result on disk before the next begins.

Run again, each of these does only what is missing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from ctune.config import Config
from ctune.data.nifti import read_case, write_volume
from ctune.data.prepared import PreparedCase, prepare
from ctune.errors import DataError, PoolError, UsageError
from ctune.evaluate import CaseScore, score_mask, write_scores
from ctune.hybrid import merge
from ctune.importance import CaseImportance, score_case
from ctune.inference.engine import Axis, Job, predict_jobs
from ctune.inference.output import Wanted
from ctune.inference.runtime import TorchRuntime
from ctune.model.network import Network
from ctune.predict import masks_of, predict_case, read_prediction
from ctune.project import Project
from ctune.types import HybridAnnotation, Mask, OnProgress, Progress, Source, Split, silent


def predict_cases(
    project: Project,
    network: Network,
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

    Raises DataError when a case of the pool cannot be read.
    """
    runtime = TorchRuntime(network, classes, project.config.inference)
    jobs = [Job(case_id, partial(project.pool.load, case_id), folder / case_id) for case_id in case_ids]
    refused = predict_jobs(
        runtime, jobs, project.config, model=model, wanted=wanted, flips=flips, on_progress=on_progress
    )
    if refused:
        raise DataError("; ".join(why for _, why in refused))


def predict_files(
    config: Config,
    network: Network,
    model: str,
    images: Sequence[Path],
    folder: Path,
    *,
    classes: Sequence[str] | None = None,
    flips: Sequence[Axis] = (),
    wanted: Wanted = Wanted(probabilities=True),
    on_progress: OnProgress = silent,
) -> tuple[list[str], list[tuple[str, str]]]:
    """Predict CT files that are no part of a pool, to ``folder/<file name>``.

    Returns the ids that were predicted and (id, reason) of those that could not be read. Raises UsageError when two files
    would get the same id.
    """
    ids = [image.name.removesuffix(".gz").removesuffix(".nii") for image in images]
    if doubled := {i for i in ids if ids.count(i) > 1}:
        raise UsageError(
            f"expected CT files of different names, got {sorted(doubled)[0]!r} more than once; predict them into different folders"
        )
    runtime = TorchRuntime(network, classes, config.inference)
    jobs = [
        Job(case_id, partial(read_case, image, case_id), folder / case_id)
        for case_id, image in zip(ids, images, strict=True)
    ]
    refused = predict_jobs(
        runtime, jobs, config, model=model, wanted=wanted, flips=flips, on_progress=on_progress
    )
    return [i for i in ids if i not in dict(refused)], refused


def score_cases(
    project: Project,
    predictions: Path,
    case_ids: Sequence[str],
    attention: Path,
    *,
    classes: Sequence[str],
    on_progress: OnProgress = silent,
) -> list[CaseImportance]:
    """Importance of each predicted case over `classes`; attention maps go to ``attention/<case>.nii.gz`` (uint8)."""
    config, out = project.config, []
    for number, case_id in enumerate(case_ids):
        prediction = read_prediction(predictions / case_id, project.pool.grid(case_id))
        importance = score_case(prediction, config.importance, config.inference.threshold, classes)
        write_volume(attention / f"{case_id}.nii.gz", importance.attention, prediction.grid)
        out.append(importance.summary())
        on_progress(Progress("score", number + 1, len(case_ids), case_id))
    return out


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
    cases, out = project.pool.cases(split), list[CaseScore]()
    if not cases:
        raise PoolError(f"expected cases of the split '{split}', got none; import some with --split {split}")
    for number, case in enumerate(cases):
        truth = hybrid_of(project, case.id, (Source.ORIGINAL, Source.REVISED)).masks
        names = [name for name in network.classes if name in truth]
        prediction = predict_case(
            network, project.pool.load(case.id), project.config, model="", classes=names
        )
        predicted = masks_of(prediction, project.config.inference.threshold)
        tolerance = project.config.evaluation.nsd_tolerance_mm
        out += [
            score_mask(case.id, n, predicted[n], np.asarray(truth[n]), case.grid, tolerance) for n in names
        ]
        on_progress(Progress("evaluate", number + 1, len(cases), case.id))
    write_scores(folder, out)
    return out
