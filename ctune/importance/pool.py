"""Score a pool from its predictions' files: one case in memory at a time, each result on disk before the next begins."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ctune.config import Cleaning, Config
from ctune.data.files import read_json, write_json
from ctune.data.nifti import write_volume
from ctune.importance.case import Clean, floor_of, score_crops
from ctune.importance.crops import Booleans
from ctune.importance.files import read_crops
from ctune.importance.plausibility import usual_volumes
from ctune.importance.values import CaseImportance, as_record, of_record
from ctune.importance.weights import Weights
from ctune.postprocess import clean
from ctune.types import Grid, OnProgress, Progress, silent


def score_pool(
    predictions: Sequence[Path],
    case_ids: Sequence[str],
    out: Path,
    *,
    grid_of: Callable[[str], Grid],
    classes: Sequence[str],
    config: Config,
    weights: Weights | None = None,
    per_class: bool = False,
    on_progress: OnProgress = silent,
) -> list[CaseImportance]:
    """Importance of each predicted case over `classes`, from ``folder/<case>`` of one model's predictions or several's.

    ``out/<case>.nii.gz`` is the attention map on the CT's grid, uint8; with `per_class` also ``out/<case>/<class>.nii.gz``;
    ``out/<case>.json`` comes last: the case's importance and what it was made with. A case that was scored with the same is
    not read again. Raises what ``read_crops`` raises.
    """
    # Volumes stand in a few lines beside each prediction: the one pass over voxels knows the whole pool.
    abouts = {
        case_id: [read_json(f / case_id / "prediction.json") for f in predictions] for case_id in case_ids
    }
    usual = usual_volumes(
        {n: ml for n, ml in about[0]["volumes_ml"].items() if n in classes} for about in abouts.values()
    )
    weights = weights or Weights()
    common = {
        "settings": config.importance.model_dump(mode="json"), "threshold": config.inference.threshold,
        "classes": list(classes), "weights": asdict(weights), "per_class": per_class,
        "usual": {name: asdict(found) for name, found in usual.items()},
        "postprocess": {n: r.model_dump(mode="json") for n, r in config.postprocess.items() if n in classes},
    }  # fmt: skip
    done = []
    for number, case_id in enumerate(case_ids):
        about = {**common, "models": [found["model"] for found in abouts[case_id]]}
        record = _finished(out / f"{case_id}.json", about)
        if record is None:
            grid, (floor, clear) = grid_of(case_id), floor_of(config.importance)
            importance = score_crops(
                case_id,
                read_crops([folder / case_id for folder in predictions], grid, classes, floor, clear),
                grid,
                config.importance,
                config.inference.threshold,
                usual=usual,
                weights=weights,
                per_class=per_class,
                clean=cleaner(config.postprocess, grid),
            )
            write_volume(out / f"{case_id}.nii.gz", importance.attention, grid)
            for name, heat in importance.maps.items():
                write_volume(out / case_id / f"{name}.nii.gz", heat, grid)
            record = importance.summary()
            write_json(out / f"{case_id}.json", {"about": about, "importance": as_record(record)})
        done.append(record)
        on_progress(Progress("score", number + 1, len(case_ids), case_id))
    return done


def cleaner(rules: Mapping[str, Cleaning], grid: Grid) -> Clean | None:
    """How the masks of a case are post-processed; None when nothing is. Hosts of other classes are left out."""
    if not rules:
        return None
    alone = {name: rule.model_copy(update={"within": ""}) for name, rule in rules.items()}
    return partial(_clean, alone, grid)


def _clean(rules: Mapping[str, Cleaning], grid: Grid, name: str, mask: Booleans) -> Booleans:
    return clean(mask.astype(np.uint8), rules[name], grid) > 0 if name in rules else mask


def _finished(path: Path, about: Mapping[str, Any]) -> CaseImportance | None:
    if not path.exists():
        return None
    found = read_json(path)
    # As JSON has it: a tuple comes back as a list.
    return of_record(found["importance"]) if found["about"] == _as_json(about) else None


def _as_json(value: Any) -> Any:
    return json.loads(json.dumps(value))
