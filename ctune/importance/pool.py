"""Score a pool from its predictions' files: one case in memory at a time, each result on disk before the next begins."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from ctune.config import Cleaning, Config
from ctune.data.files import read_json, write_json
from ctune.data.nifti import write_volume
from ctune.importance.case import Clean, floor_of, score_crops
from ctune.importance.crops import Booleans
from ctune.importance.files import read_crops, record_of, stamp_of
from ctune.importance.own import Pool, in_pool
from ctune.importance.plausibility import Usual, usual_in_pool
from ctune.importance.values import CaseImportance, as_record, of_record
from ctune.importance.weights import Weights
from ctune.postprocess import clean
from ctune.types import Grid, OnProgress, Progress, silent


@dataclass(frozen=True)
class Scoring:
    """What the scores of a pool are made with: plain values, so that any worker can do any case.

    predictions: folders of one model's predictions or several's. out: where scores and maps come. usual: of the whole pool.
    files: whether a prediction whose files have changed, and whose record has not, is another; where predictions are brought
    from elsewhere for each case, their times say nothing.
    """

    predictions: tuple[Path, ...]
    out: Path
    classes: tuple[str, ...]
    config: Config
    usual: Mapping[str, Usual]
    weights: Weights
    per_class: bool = False
    files: bool = True

    def about(self, case_id: str) -> dict[str, Any]:
        """What decides a case's voxels: the same, the same maps and measures. Raises DataError without a prediction."""
        config, folders = self.config, [folder / case_id for folder in self.predictions]
        cleaned = {n: r.model_dump(mode="json") for n, r in config.postprocess.items() if n in self.classes}
        return {
            "settings": config.importance.model_dump(mode="json"), "threshold": config.inference.threshold,
            "classes": list(self.classes), "per_class": self.per_class,
            # ctune's own recipe takes masks as they are.
            "postprocess": cleaned if self._published else {},
            "models": [record_of(folder)["model"] for folder in folders],
            "predictions": [stamp_of(folder, self.files) for folder in folders],
        }  # fmt: skip

    @cached_property
    def pool(self) -> dict[str, Any]:
        """What else decides its score, as JSON has it: the weights, and what is usual in the pool. Nothing of it in the published recipe."""
        if self._published:
            return {}
        usual = {name: asdict(self.usual[name]) for name in self.classes if name in self.usual}
        found: dict[str, Any] = _as_json({"weights": asdict(self.weights), "usual": usual})
        return found

    @property
    def _published(self) -> bool:
        return self.config.importance.recipe == "aa8k"

    def known(self, case_id: str) -> CaseImportance | None:
        """The importance of a case whose voxels were scored with the same; None when they were not.

        Reads its predictions' records alone. Where the pool or the weights have changed since, the score follows them from
        the measures that are kept; no map depends on them.
        """
        return self._known(case_id, _as_json(self.about(case_id)))

    def _known(self, case_id: str, about: dict[str, Any]) -> CaseImportance | None:
        found = _finished(self.out / f"{case_id}.json")
        if found is None or found["about"] != about:
            return None
        record = of_record(found["importance"])
        if found["pool"] != self.pool:
            record = self._in_pool(record)
            self._write(record, about)
        return record

    def case(self, case_id: str, grid: Grid) -> CaseImportance:
        """The importance of one case; its maps are in ``out``. One that was scored with the same is not read again.

        Raises what ``read_crops`` raises.
        """
        about = _as_json(self.about(case_id))
        record = self._known(case_id, about)
        if record is None:
            out, settings = self.out, self.config.importance
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
            self._write(record, about)
        return record

    def _in_pool(self, record: CaseImportance) -> CaseImportance:
        pool = Pool(self.usual, self.weights)
        classes = {name: in_pool(name, one, pool) for name, one in record.classes.items()}
        score, minutes = (
            float(sum(getattr(one, name) for one in classes.values())) for name in ("score", "minutes")
        )
        return CaseImportance(record.case_id, score, classes, minutes)

    def _write(self, record: CaseImportance, about: dict[str, Any]) -> None:
        write_json(
            self.out / f"{record.case_id}.json",
            {"about": about, "pool": self.pool, "importance": as_record(record)},
        )


def scoring(
    predictions: Sequence[Path],
    case_ids: Sequence[str],
    out: Path,
    *,
    classes: Sequence[str],
    config: Config,
    weights: Weights | None = None,
    judged: Mapping[str, Mapping[str, float]] = MappingProxyType({}),
    per_class: bool = False,
    files: bool = True,
) -> Scoring:
    """How to score the cases of a pool: the one pass over voxels that follows knows the volumes of all.

    judged: {case: {class: mL}} of masks that people drew (``judged_volumes``). Raises DataError for a case without a
    finished prediction.
    """
    # Volumes stand in a few lines beside each prediction.
    volumes = {case: record_of(predictions[0] / case)["volumes_ml"] for case in case_ids}
    wanted = {case: {n: ml for n, ml in found.items() if n in classes} for case, found in volumes.items()}
    usual = usual_in_pool(wanted, judged)
    return Scoring(
        tuple(predictions), out, tuple(classes), config, usual, weights or Weights(), per_class, files
    )


def score_pool(
    predictions: Sequence[Path],
    case_ids: Sequence[str],
    out: Path,
    *,
    grid_of: Callable[[str], Grid],
    classes: Sequence[str],
    config: Config,
    weights: Weights | None = None,
    judged: Mapping[str, Mapping[str, float]] = MappingProxyType({}),
    per_class: bool = False,
    on_progress: OnProgress = silent,
) -> list[CaseImportance]:
    """Importance of each predicted case over `classes`, from ``folder/<case>`` of one model's predictions or several's.

    ``out/<case>.nii.gz`` is the attention map on the CT's grid, uint8; with `per_class` also ``out/<case>/<class>.nii.gz``;
    ``out/<case>.json`` comes last: the case's importance and what it was made with. A case that was scored with the same is
    not read again. Raises what ``read_crops`` raises.
    """
    how = scoring(
        predictions,
        case_ids,
        out,
        classes=classes,
        config=config,
        weights=weights,
        judged=judged,
        per_class=per_class,
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


def _finished(path: Path) -> dict[str, Any] | None:
    """What was kept of a case; None where nothing was, or by an earlier version, or what cannot be read: it is made again."""
    try:
        found: dict[str, Any] = read_json(path)
        return found if found.keys() >= {"about", "pool", "importance"} else None
    except (FileNotFoundError, ValueError, AttributeError):
        return None


def _as_json(value: Any) -> Any:
    return json.loads(json.dumps(value))
