"""The verbs over many cases of a project: one case in memory at a time, each result on disk before the next begins.

Run again, each of these does only what is missing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from ctune.config import Config
from ctune.data.files import read_json, write_json
from ctune.data.nifti import write_mask
from ctune.data.pool import Pool
from ctune.data.prepared import PreparedCase, prepare
from ctune.errors import PoolError
from ctune.evaluate import CaseScore, evaluate_case
from ctune.hybrid import merge
from ctune.importance import Importance, score_case
from ctune.model.network import Network
from ctune.predict import Axis, masks_of, predict_case, prediction_is_whole, read_prediction, write_prediction
from ctune.project import Project
from ctune.types import Annotation, HybridAnnotation, Mask, OnProgress, Progress, Source, silent


def predict_cases(
    project: Project,
    network: Network,
    model: str,
    case_ids: Sequence[str],
    folder: Path,
    *,
    classes: Sequence[str] | None = None,
    flips: Sequence[Axis] = (),
    on_progress: OnProgress = silent,
) -> None:
    """Write the prediction of each case to ``folder/<case>`` (``predict.write_prediction``)."""
    names = tuple(network.classes if classes is None else classes)
    for number, case_id in enumerate(case_ids):
        target = folder / case_id
        if not prediction_is_whole(target, model, names):
            case = project.pool.load(case_id)
            prediction = predict_case(network, case, project.config, model=model, classes=names, flips=flips)
            write_prediction(target, prediction, project.config.inference.threshold)
        on_progress(Progress("predict", number + 1, len(case_ids), case_id))


def score_cases(
    project: Project,
    predictions: Path,
    case_ids: Sequence[str],
    folder: Path,
    *,
    classes: Sequence[str],
    on_progress: OnProgress = silent,
) -> list[Importance]:
    """Importance of each predicted case over `classes`; scores and attention maps (uint8) are kept in ``folder``."""
    out = []
    for number, case_id in enumerate(case_ids):
        prediction = read_prediction(predictions / case_id, project.pool.grid(case_id))
        importance = score_case(
            prediction, project.config.importance, project.config.inference.threshold, classes=classes
        )
        write_mask(folder / f"{case_id}.nii.gz", importance.attention, prediction.grid)
        out.append(importance.without_attention())
        on_progress(Progress("score", number + 1, len(case_ids), case_id))
    return out
