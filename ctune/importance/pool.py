"""Score a pool from its predictions' files: one case in memory at a time, each result on disk before the next begins."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
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
from ctune.importance.plausibility import Usual, usual_volumes
from ctune.importance.values import CaseImportance, as_record, of_record
from ctune.importance.weights import Weights
from ctune.postprocess import clean
from ctune.types import Grid, OnProgress, Progress, silent


@dataclass(frozen=True)
class Scoring:
    """What the scores of a pool are made with: plain values, so that any worker can do any case.

    predictions: folders of one model's predictions or several's. out: where scores and maps come. usual: of the whole pool.
    """

    predictions: tuple[Path, ...]
    out: Path
    classes: tuple[str, ...]
    config: Config
    usual: Mapping[str, Usual]
    weights: Weights
    per_class: bool = False

    def about(self, case_id: str) -> dict[str, Any]:
        """What decides a case's score: the same, the same score."""
        config = self.config
        return {
            "settings": config.importance.model_dump(mode="json"), "threshold": config.inference.threshold,
            "classes": list(self.classes), "weights": asdict(self.weights), "per_class": self.per_class,
            "usual": {name: asdict(found) for name, found in self.usual.items()},
            "postprocess": {
                n: r.model_dump(mode="json") for n, r in config.postprocess.items() if n in self.classes
            },
            "models": [read_json(folder / case_id / "prediction.json")["model"] for folder in self.predictions],
        }  # fmt: skip

    def known(self, case_id: str) -> CaseImportance | None:
        """The importance of a case that was scored with the same; None when it was not. Reads its predictions' records alone."""
        return _finished(self.out / f"{case_id}.json", self.about(case_id))

    def case(self, case_id: str, grid: Grid) -> CaseImportance:
        """The importance of one case; its maps are in ``out``. One that was scored with the same is not read again.

        Raises what ``read_crops`` raises.
        """
        about, out, settings = self.about(case_id), self.out, self.config.importance
        record = self.known(case_id)
        if record is None:
            floor, clear = floor_of(settings)
            importance = score_crops(
                case_id,
                read_crops(
                    [folder / case_id for folder in self.predictions], grid, self.classes, floor, clear
                ),
                grid,
                settings,
                self.config.inference.threshold,
                usual=self.usual,
                weights=self.weights,
                per_class=self.per_class,
                clean=cleaner(self.config.postprocess, grid),
            )
            write_volume(out / f"{case_id}.nii.gz", importance.attention, grid)
            for name, heat in importance.maps.items():
                write_volume(out / case_id / f"{name}.nii.gz", heat, grid)
            record = importance.summary()
            write_json(out / f"{case_id}.json", {"about": about, "importance": as_record(record)})
        return record


def scoring(
    predictions: Sequence[Path],
    case_ids: Sequence[str],
    out: Path,
    *,
    classes: Sequence[str],
    config: Config,
    weights: Weights | None = None,
    per_class: bool = False,
) -> Scoring:
    """How to score the cases of a pool: the one pass over voxels that follows knows the volumes of all."""
    # Volumes stand in a few lines beside each prediction.
    volumes = (read_json(predictions[0] / c / "prediction.json")["volumes_ml"] for c in case_ids)
    usual = usual_volumes({n: ml for n, ml in found.items() if n in classes} for found in volumes)
    return Scoring(tuple(predictions), out, tuple(classes), config, usual, weights or Weights(), per_class)


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
    how = scoring(
        predictions, case_ids, out, classes=classes, config=config, weights=weights, per_class=per_class
    )
    done = []
    for number, case_id in enumerate(case_ids):
        done.append(how.case(case_id, grid_of(case_id)))
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
