"""Importance of one case by the recipe of the settings, from predictions in memory or from crops."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
from scipy import ndimage

from ctune.config import ImportanceConfig
from ctune.importance import own, published
from ctune.importance.crops import Booleans, Box, Crop, Levels, claimed_twice, crops, empty, put
from ctune.importance.measures import CUBE, one_sided_entropy
from ctune.importance.own import Pool, score_classes
from ctune.importance.plausibility import Usual
from ctune.importance.values import ATTENDED, ClassImportance, Importance
from ctune.importance.weights import Weights
from ctune.types import Grid, Prediction, Volume

_ONE_SIDED = one_sided_entropy(np.arange(256, dtype=np.float32) / np.float32(255))

Clean = Callable[[str, Booleans], Booleans]
"""(class, mask in its box (x, y, z) bool) -> the mask post-processed."""


def score_case(
    prediction: Prediction | Sequence[Prediction],
    settings: ImportanceConfig,
    threshold: float = 0.5,
    classes: Sequence[str] | None = None,
    *,
    usual: Mapping[str, Usual] | None = None,
    weights: Weights | None = None,
    per_class: bool = False,
    clean: Clean | None = None,
) -> Importance:
    """Importance of one prediction, or of several models' of the same case, by ``settings.recipe``.

    classes: all of the first prediction's by default. usual: the pool's volumes (``usual_volumes``); weights: of the
    measures (``learn``). per_class: also an attention map of each class. clean: how aa8k post-processes masks. Raises
    ValueError for a class that a prediction lacks.
    """
    predictions = [prediction] if isinstance(prediction, Prediction) else list(prediction)
    first = predictions[0]
    names = tuple(first.classes if classes is None else classes)
    floor, clear = floor_of(settings)
    return score_crops(
        first.case_id, crops(predictions, names, floor, clear), first.grid, settings, threshold,
        usual=usual, weights=weights, per_class=per_class, clean=clean,
    )  # fmt: skip


def floor_of(settings: ImportanceConfig) -> tuple[int, bool]:
    """(level of 255 below which a voxel is outside a class's box, whether such values inside it count as 0)."""
    # 2/255 is the largest level with -p ln p below .05: nothing below 3/255 can be attended.
    return (3, False) if settings.recipe == "aa8k" else (own.FLOOR, True)


def score_crops(
    case_id: str,
    found: Sequence[Crop],
    grid: Grid,
    settings: ImportanceConfig,
    threshold: float = 0.5,
    *,
    usual: Mapping[str, Usual] | None = None,
    weights: Weights | None = None,
    per_class: bool = False,
    clean: Clean | None = None,
) -> Importance:
    """The same from what ``crops`` or ``read_crops`` gave for these settings."""
    if settings.recipe == "aa8k":
        scored = _published(found, grid, clean)
    else:
        pool = Pool(usual or {}, weights or Weights())
        scored = ((one, heat, one.score) for one, heat in score_classes(found, grid, threshold, pool))
    attention, maps, classes, score = empty(grid), dict[str, Levels](), dict[str, ClassImportance](), 0.0
    for crop, (one, heat, part) in zip(found, scored, strict=True):
        classes[crop.name] = one
        score += part
        put(attention, heat, crop.box)
        if per_class:
            maps[crop.name] = empty(grid)
            put(maps[crop.name], heat, crop.box)
    minutes = sum(one.minutes for one in classes.values())
    return Importance(case_id, score, classes, attention, maps, minutes)


def _published(
    found: Sequence[Crop], grid: Grid, clean: Clean | None
) -> Iterator[tuple[ClassImportance, Levels, float]]:
    """Each class's importance, heat and attended voxels by the published recipe; scores and counts in voxels."""

    def members(crop: Crop) -> Volume:
        # (Z, Y, X) for each model, in the order of memory.
        return np.stack([m.T for m in crop.members or (crop.p,)]).astype(np.float32) / np.float32(255)

    def cleaner(_: int, mask: Booleans) -> Booleans:
        assert clean is not None
        return clean(name, mask.T).T

    used, masks = cleaner if clean is not None else None, list[Booleans]()
    for crop in found:
        name = crop.name
        alone = used is None and not crop.members[1:]
        masks.append(crop.p > 127 if alone else published.ensemble_mask(members(crop), 0, used).T)
    for k, (crop, overlap) in enumerate(zip(found, claimed_twice(masks, found, grid), strict=True)):
        name, models = crop.name, crop.members or (crop.p,)
        uncertain: Volume = sum((_ONE_SIDED[m.T] for m in models[1:]), _ONE_SIDED[models[0].T])
        uncertain /= np.float32(len(models))
        spread = published.spread_of(members(crop), 0, used) if len(models) > 1 else None
        result = published.of_class(uncertain, spread, overlap.T)
        attended = float(result.attention.sum())
        u, i, o = (int(part.sum()) for part in (result.uncertain, result.inconsistent, result.overlapping))
        one = ClassImportance(
            score=float(result.heat.sum(dtype=np.float64)),
            uncertain=float(u),
            inconsistent=float(i),
            overlapping=float(o),
            components=int(ndimage.label(masks[k].T, CUBE)[1]),
            volume_ml=float(masks[k].sum()) * grid.voxel_ml,
            reason=f"{name}: {u} voxels uncertain, {i} inconsistent, {o} overlap",
            measures={
                "uncertainty": float(u),
                "inconsistency": float(i),
                "overlap": float(o),
                ATTENDED: attended,
            },
        )
        heat = np.ceil(result.heat * np.float32(255)).astype(np.uint8).T
        yield one, heat, attended


__all__ = ["Box", "Clean", "floor_of", "score_case", "score_crops"]
