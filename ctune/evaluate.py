"""Measure masks against the truth, and a sequence of rounds against itself.

One rule for empty masks (design promise "honest numbers"): an organ that is there and was missed counts as Dice 0, NSD 0
and HD95 = the image's diagonal; an organ predicted where there is none counts the same and is a false positive; where both
are empty there is nothing to measure, and the case is counted as absent. Nothing is ever NaN.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from enum import StrEnum
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ctune.data.files import read_json, write_atomically, write_json
from ctune.types import UNLABELLED, Grid, Mask


class Outcome(StrEnum):
    """How prediction and truth stand to each other."""

    FOUND = "found"
    MISS = "miss"
    FALSE_POSITIVE = "false_positive"
    ABSENT = "absent"


@dataclass(frozen=True)
class CaseScore:
    """One class in one case. dice, nsd in [0, 1]; hd95_mm >= 0; all None where the class is absent from both masks."""

    case_id: str
    class_name: str
    outcome: Outcome
    dice: float | None
    nsd: float | None
    hd95_mm: float | None
    truth_ml: float
    predicted_ml: float


@dataclass(frozen=True)
class ClassSummary:
    """Means over the cases where the class is there or was predicted; how many those are stands beside them."""

    dice: float | None
    nsd: float | None
    hd95_mm: float | None
    cases: int
    misses: int
    false_positives: int
    absent: int


def diagonal_mm(grid: Grid) -> float:
    """Distance between the outer corners of the image's first and last voxel, in mm; oblique and sheared grids too."""
    return float(np.linalg.norm(grid.affine[:3, :3] @ np.array(grid.shape, dtype=np.float64)))


def score_mask(
    case_id: str, class_name: str, predicted: Mask, truth: Mask, grid: Grid, nsd_tolerance_mm: float
) -> CaseScore:
    """Score one class. predicted, truth: (X, Y, Z) uint8 on `grid`; voxels with truth UNLABELLED are left out.

    Dice: 2|A and B| / (|A| + |B|). NSD: surface Dice at `nsd_tolerance_mm` (Nikolov et al. 2021). HD95: 95th percentile of
    the symmetric surface distance. All by MONAI, on the masks' own grid with its spacing.
    """
    judged = truth != UNLABELLED
    a, b = (predicted == 1) & judged, truth == 1
    ml = {"truth_ml": float(b.sum()) * grid.voxel_ml, "predicted_ml": float(a.sum()) * grid.voxel_ml}
    if not a.any() and not b.any():
        return CaseScore(case_id, class_name, Outcome.ABSENT, None, None, None, **ml)
    if not a.any() or not b.any():
        outcome = Outcome.MISS if b.any() else Outcome.FALSE_POSITIVE
        return CaseScore(case_id, class_name, outcome, 0.0, 0.0, diagonal_mm(grid), **ml)
    dice, nsd, hd95 = _measures(a, b, grid, nsd_tolerance_mm)
    return CaseScore(case_id, class_name, Outcome.FOUND, dice, nsd, hd95, **ml)


def _measures(
    a: npt.NDArray[np.bool_], b: npt.NDArray[np.bool_], grid: Grid, tolerance_mm: float
) -> tuple[float, float, float]:
    import torch
    from monai.metrics import compute_dice, compute_hausdorff_distance, compute_surface_dice

    box = _box(a | b)
    # Surfaces need a voxel of background around them, which at the image's border is not there.
    pair = [torch.from_numpy(np.pad(m[box], 1))[None, None].float() for m in (a, b)]
    spacing = list(grid.spacing_mm)
    dice = compute_dice(pair[0], pair[1])
    nsd = compute_surface_dice(pair[0], pair[1], [tolerance_mm], include_background=True, spacing=spacing)
    hd95 = compute_hausdorff_distance(
        pair[0], pair[1], include_background=True, percentile=95, spacing=spacing
    )
    return float(dice), float(nsd), float(hd95)


def _box(mask: npt.NDArray[np.bool_]) -> tuple[slice, ...]:
    found = [np.flatnonzero(mask.any(axis=tuple(a for a in range(3) if a != axis))) for axis in range(3)]
    return tuple(slice(int(f[0]), int(f[-1]) + 1) for f in found)


def summarise(scores: Iterable[CaseScore]) -> dict[str, ClassSummary]:
    """{class: means and counts}, in the order in which classes first come."""
    by_class: dict[str, list[CaseScore]] = {}
    for score in scores:
        by_class.setdefault(score.class_name, []).append(score)
    return {name: _summary(found) for name, found in by_class.items()}


def _summary(scores: Sequence[CaseScore]) -> ClassSummary:
    counted = [s for s in scores if s.outcome != Outcome.ABSENT]

    def mean(values: Iterable[float | None]) -> float | None:
        known = [v for v in values if v is not None]
        return float(np.mean(known)) if known else None

    return ClassSummary(
        mean(s.dice for s in counted),
        mean(s.nsd for s in counted),
        mean(s.hd95_mm for s in counted),
        cases=len(counted),
        misses=sum(s.outcome == Outcome.MISS for s in counted),
        false_positives=sum(s.outcome == Outcome.FALSE_POSITIVE for s in counted),
        absent=len(scores) - len(counted),
    )


# Over rounds ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Continual:
    """acc: mean of the last row. bwt: mean change since a task was learnt (negative: forgotten). forgetting: mean fall
    from the best ever."""

    acc: float
    bwt: float
    forgetting: float


def continual_metrics(results: npt.NDArray[np.float64], learnt_at: Sequence[int] | None = None) -> Continual:
    """ACC and BWT (Lopez-Paz & Ranzato 2017, section 3), forgetting (Chaudhry et al. 2018, definition 3).

    results: (T, K) float, Dice of class k after stage t, NaN before it was learnt. learnt_at: (K,) the stage of each class;
    by default the first that is not NaN. BWT and forgetting are over classes learnt before the last stage, 0 when there
    are none.
    """
    results = np.asarray(results, dtype=np.float64)
    last = len(results) - 1
    first = (
        learnt_at
        if learnt_at is not None
        else [int(np.flatnonzero(~np.isnan(column))[0]) for column in results.T]
    )
    old = [k for k, t in enumerate(first) if t < last]
    final = results[last]
    bwt = [final[k] - results[first[k], k] for k in old]
    fall = [float(np.max(results[first[k] : last, k])) - final[k] for k in old]
    return Continual(
        float(np.mean(final)), float(np.mean(bwt)) if bwt else 0.0, float(np.mean(fall)) if fall else 0.0
    )


# On disk --------------------------------------------------------------------------------------------------------------


def write_scores(folder: Path, scores: Sequence[CaseScore]) -> None:
    """``scores.csv`` for people, and last ``scores.json`` with summaries for programs."""
    text = io.StringIO()
    writer = csv.DictWriter(text, [f.name for f in fields(CaseScore)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(s) for s in scores)
    with write_atomically(folder / "scores.csv") as temporary:
        temporary.write_text(text.getvalue(), encoding="utf-8")
    summary = {name: asdict(s) for name, s in summarise(scores).items()}
    write_json(folder / "scores.json", {"cases": [asdict(s) for s in scores], "classes": summary})


def read_scores(folder: Path) -> list[CaseScore]:
    """What ``write_scores`` wrote."""
    return [
        CaseScore(**{**row, "outcome": Outcome(row["outcome"])})
        for row in read_json(folder / "scores.json")["cases"]
    ]


def mean_dice(summaries: Mapping[str, ClassSummary], classes: Iterable[str]) -> float | None:
    """Mean over `classes` of their mean Dice; a class without a number is left out."""
    known = [s.dice for name in classes if (s := summaries.get(name)) and s.dice is not None]
    return float(np.mean(known)) if known else None
