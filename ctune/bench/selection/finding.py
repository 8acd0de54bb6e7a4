"""What scores and attention are worth before anybody revised anything: error regions found, and the order of the queue."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from ctune.bench.selection.cohort import Cohort
from ctune.bench.selection.regions import Regions, count_regions
from ctune.cohort import predict_cases
from ctune.compositions import load_model
from ctune.expert import truth_of
from ctune.importance import CaseImportance
from ctune.importance.files import read_crops
from ctune.importance.judged import judged_volumes
from ctune.importance.pool import score_pool
from ctune.optimise import resolve_device
from ctune.predict import read_masks
from ctune.types import Mask, OnProgress, View
from ctune.validate import dice_of

RECIPES = ("ctune", "aa8k")
PLAIN, VIEWS, SEVERAL = "plain", "views", "several"
"""What scores are made from: one model's plain pass, as a round does it; that and its views; the plain passes of several models."""


def predict_candidates(
    cohort: Cohort, folder: Path, views: Sequence[View], on_progress: OnProgress, model: str = ""
) -> float:
    """Predict the pool with `model`, the cohort's own by default, with `views` or plainly without; returns the processor seconds."""
    project = cohort.project
    loaded = load_model(project.open_registry(), model or cohort.model, resolve_device("cpu"))
    begun = time.process_time()
    predict_cases(
        project,
        loaded.network,
        loaded.digest,
        cohort.candidates,
        folder,
        views=views,
        on_progress=on_progress,
    )
    return time.process_time() - begun


def score_candidates(
    cohort: Cohort,
    recipe: str,
    predictions: Sequence[Path],
    out: Path,
    on_progress: OnProgress,
    per_class: bool = False,
) -> tuple[list[CaseImportance], float]:
    """Score the pool from `predictions` by `recipe` into `out`: what was found, and the processor seconds."""
    project, config, classes = cohort.project, cohort.project.config, cohort.scale.classes
    importance = config.importance.model_copy(update={"recipe": recipe})
    begun = time.process_time()
    found = score_pool(
        predictions,
        cohort.candidates,
        out,
        grid_of=project.pool.grid,
        classes=classes,
        config=config.model_copy(update={"importance": importance}),
        judged=judged_volumes(project, classes) if recipe == "ctune" else {},
        per_class=per_class,
        on_progress=on_progress,
    )
    return found, time.process_time() - begun


def measure(
    cohort: Cohort, predictions: Sequence[Path], work: Path, on_progress: OnProgress
) -> dict[str, Any]:
    """Regions, scores and Dice of every candidate, by recipe. predictions: one model's, or several models', which are judged by
    the mask of their mean."""
    recipes = {recipe: _recipe(cohort, recipe, predictions, work / recipe, on_progress) for recipe in RECIPES}
    return {"recipes": recipes, "dice": dice_of_predictions(cohort, predictions)}


def dice_of_predictions(cohort: Cohort, predictions: Sequence[Path]) -> dict[str, dict[str, float | None]]:
    """{case: {class: Dice}} of the candidates' predictions."""
    out = {}
    for case_id in cohort.candidates:
        found, truth = predicted_and_true(cohort, case_id, predictions)
        out[case_id] = {name: dice_of(found[name], truth[name]) for name in cohort.scale.classes}
    return out


def predicted_and_true(
    cohort: Cohort, case_id: str, predictions: Sequence[Path]
) -> tuple[dict[str, Mask], Mapping[str, Mask]]:
    """{class: mask (X, Y, Z) uint8} as predicted and as it is. The mask of several models: where their mean probability is above
    the threshold."""
    grid, names = cohort.project.pool.grid(case_id), cohort.scale.classes
    truth, folders = truth_of(cohort.truth, case_id, names, grid), [one / case_id for one in predictions]
    if len(folders) == 1:
        return read_masks(folders[0], grid), truth
    masks, level = {}, cohort.project.config.inference.threshold * 255
    for one in read_crops(folders, grid, names, floor=1, clear=False):
        masks[one.name] = np.zeros(grid.shape, dtype=np.uint8)
        masks[one.name][one.box] = one.p > level
    return masks, truth


def _recipe(
    cohort: Cohort, recipe: str, predictions: Sequence[Path], out: Path, on_progress: OnProgress
) -> dict[str, Any]:
    # Timed as `ctune score` does it; maps of each class, which regions are counted in, are asked for apart.
    timed = out.with_name(f"{out.name}-timed")
    _, seconds = score_candidates(cohort, recipe, predictions, timed, on_progress)
    scores, _ = score_candidates(cohort, recipe, predictions, out, on_progress, per_class=True)
    counted = {name: Regions() for name in cohort.scale.classes}
    for case_id in cohort.candidates:
        for name, found in regions_of_case(cohort, case_id, predictions, out).items():
            counted[name] += found
    return {
        "regions": {name: asdict(found) for name, found in counted.items()},
        "score": {one.case_id: one.score for one in scores},
        "entropy": {one.case_id: entropy_of(one) for one in scores},
        "cpu_seconds": round(seconds, 3),
    }


def entropy_of(one: CaseImportance) -> float:
    """The plain baseline: entropy summed over voxels and classes."""
    return float(sum(found.uncertain for found in one.classes.values()))


def regions_of_case(
    cohort: Cohort, case_id: str, predictions: Sequence[Path], maps: Path
) -> dict[str, Regions]:
    """{class: what its attention found in one case}."""
    grid, out = cohort.project.pool.grid(case_id), {}
    found, truth = predicted_and_true(cohort, case_id, predictions)
    for name in cohort.scale.classes:
        attended = _attention(maps / case_id / f"{name}.nii.gz", found[name].shape)
        out[name] = count_regions(found[name] > 0, truth[name] > 0, attended, grid)
    return out


def _attention(path: Path, shape: tuple[int, ...]) -> Any:
    import nibabel as nib

    image = nib.load(path)
    return np.asarray(image.dataobj).reshape(shape) > 0


def ranking(
    score: Mapping[str, float], dice: Mapping[str, Mapping[str, float | None]]
) -> dict[str, float | None]:
    """Spearman of the score with 1 - mean Dice, and the share of the worst tenth that the first fifth of the queue holds."""
    from scipy.stats import spearmanr

    ids = sorted(score)
    wrong = {case: 1.0 - mean_of(list(dice[case].values())) for case in ids}
    rho = float(spearmanr([score[c] for c in ids], [wrong[c] for c in ids]).statistic)
    worst = sorted(ids, key=lambda c: (-wrong[c], c))[: max(1, round(0.1 * len(ids)))]
    first = sorted(ids, key=lambda c: (-score[c], c))[: max(1, round(0.2 * len(ids)))]
    share = len(set(worst) & set(first)) / len(worst)
    return {"spearman": rho if np.isfinite(rho) else None, "worst_tenth_in_first_fifth": share}


def mean_of(values: Sequence[float | None]) -> float:
    """Mean of those that there are; 1, nothing to find, when there are none."""
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else 1.0
