"""Importance: where the model is likely wrong, per case and class, and where in the image to look.

``ctune`` measures in millilitres, so neither spacing nor field of view decides. ``aa8k`` is the published recipe of
AbdomenAtlas-8K (Qu et al., NeurIPS 2023, section 3), kept for comparison.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from ctune.config import ImportanceConfig
from ctune.data.files import read_json, write_json
from ctune.types import Grid, Prediction, Volume

_CUBE = np.ones((3, 3, 3), dtype=bool)
"""26-connected neighbourhood."""


@dataclass(frozen=True)
class ClassImportance:
    """One class in one case; volumes in mL (ctune) or voxels (aa8k). reason: why, in words."""

    score: float
    uncertain: float
    inconsistent: float
    overlapping: float
    components: int
    volume_ml: float
    reason: str


@dataclass(frozen=True, eq=False)
class Importance:
    """One case: score (larger is revised earlier), classes by name, attention (X, Y, Z) uint8, 0 nothing to 255 most."""

    case_id: str
    score: float
    classes: Mapping[str, ClassImportance]
    attention: npt.NDArray[np.uint8]

    def summary(self) -> CaseImportance:
        """Everything but the attention map."""
        return CaseImportance(self.case_id, self.score, dict(self.classes))


@dataclass(frozen=True)
class CaseImportance:
    """An importance without its map: what selection needs, small enough for a pool of thousands."""

    case_id: str
    score: float
    classes: Mapping[str, ClassImportance]


# Measures -------------------------------------------------------------------------------------------------------------


def binary_entropy(p: Volume) -> Volume:
    """-p log2 p - (1 - p) log2(1 - p), any shape float32 in [0, 1] -> [0, 1] (Shannon 1948); 0 at p = 0 and 1.

    >>> float(binary_entropy(np.float32([0.5]))[0])
    1.0
    """
    q = 1.0 - p
    with np.errstate(divide="ignore", invalid="ignore"):
        h = -(p * np.log2(p)) - (q * np.log2(q))
    return np.asarray(np.nan_to_num(h, nan=0.0), dtype=np.float32)


def one_sided_entropy(p: Volume) -> Volume:
    """-p ln p, any shape float32 in [0, 1] -> [0, 1/e]: the uncertainty of AbdomenAtlas-8K."""
    with np.errstate(divide="ignore", invalid="ignore"):
        h = -(p * np.log(p))
    return np.asarray(np.nan_to_num(h, nan=0.0), dtype=np.float32)


def inconsistency(members: npt.NDArray[np.float32]) -> Volume:
    """Population standard deviation over the members of an ensemble, (M, ...) -> (...); 0 when M = 1."""
    return np.asarray(np.std(members, axis=0, dtype=np.float64), dtype=np.float32)


def overlaps(masks: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """(K, X, Y, Z) bool -> the same: voxels of each class that another class claims too."""
    crowded = masks.sum(axis=0, dtype=np.uint8) > 1
    return np.asarray(masks & crowded)


# The recipe of ctune --------------------------------------------------------------------------------------------------


def score_case(
    prediction: Prediction,
    settings: ImportanceConfig,
    threshold: float = 0.5,
    classes: Sequence[str] | None = None,
) -> Importance:
    """Importance of one prediction over `classes` (all of its own by default), by ``settings.recipe``.

    Raises ValueError for a class that the prediction lacks.
    """
    names = tuple(prediction.classes if classes is None else classes)
    channels = [prediction.classes.index(name) for name in names]
    probabilities = prediction.probabilities[channels]
    spread = prediction.inconsistency[channels] if prediction.inconsistency is not None else None
    if settings.recipe == "aa8k":
        return _aa8k_case(prediction, names, probabilities[None])
    masks = probabilities > threshold
    crowded = overlaps(masks)
    found, attention = {}, np.zeros(prediction.grid.shape, dtype=np.float32)
    for k, name in enumerate(names):
        found[name], heat = _ctune_class(
            name,
            probabilities[k],
            spread[k] if spread is not None else None,
            masks[k],
            crowded[k],
            prediction.grid,
        )
        np.maximum(attention, heat, out=attention)
    score = float(sum(c.score for c in found.values()))
    return Importance(prediction.case_id, score, found, np.rint(attention * 255).astype(np.uint8))


def _ctune_class(
    name: str,
    p: Volume,
    spread: Volume | None,
    mask: npt.NDArray[np.bool_],
    crowded: npt.NDArray[np.bool_],
    grid: Grid,
) -> tuple[ClassImportance, Volume]:
    entropy = binary_entropy(p)
    # The standard deviation of values in [0, 1] is at most 1/2.
    varying = np.minimum(2.0 * spread, 1.0) if spread is not None else np.zeros_like(p)
    ml = grid.voxel_ml
    uncertain, inconsistent = float(entropy.sum()) * ml, float(varying.sum()) * ml
    overlapping, volume = float(crowded.sum()) * ml, float(mask.sum()) * ml
    components = int(ndimage.label(mask, _CUBE)[1])
    # Every organ has an uncertain rim: what counts is how much there is for an organ of this size. The surface of a body
    # grows with volume^(2/3); 1 mL keeps the quotient finite for an organ that was not found at all.
    score = (uncertain + inconsistent + overlapping) / (volume ** (2 / 3) + 1.0)
    reason = _reason(name, uncertain, inconsistent, overlapping, components, volume)
    heat = np.maximum(np.maximum(entropy, varying), crowded)
    return ClassImportance(score, uncertain, inconsistent, overlapping, components, volume, reason), heat


def _reason(
    name: str, uncertain: float, inconsistent: float, overlapping: float, components: int, volume: float
) -> str:
    if volume == 0:
        return f"{name}: not found, {uncertain:.1f} mL uncertain"
    parts = [f"{uncertain:.1f} of {volume:.1f} mL uncertain"]
    if inconsistent > 0.1 * volume:
        parts.append(f"{inconsistent:.1f} mL change when mirrored")
    if overlapping > 0:
        parts.append(f"{overlapping:.1f} mL overlap other classes")
    if components > 1:
        parts.append(f"{components} components")
    return f"{name}: " + ", ".join(parts)


# The published recipe -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class AA8K:
    """attention: (K, X, Y, Z) bool. heat: (K, X, Y, Z) float32 in [0, 1]. uncertain, inconsistent, overlapping: bool."""

    attention: npt.NDArray[np.bool_]
    heat: npt.NDArray[np.float32]
    uncertain: npt.NDArray[np.bool_]
    inconsistent: npt.NDArray[np.bool_]
    overlapping: npt.NDArray[np.bool_]


def aa8k(members: npt.NDArray[np.float32], overlap_classes: Sequence[int] | None = None) -> AA8K:
    """The attention of AbdomenAtlas-8K from probabilities (M, K, X, Y, Z) of M models.

    hard_mk = p_mk > 0.5; soft_mk = p_mk within a 26-connected dilation of hard_mk by one voxel, else 0.
    Inconsistency I_k: standard deviation over m of soft_mk, kept where opening(I_k > 0.1) holds (two erosions, two
    dilations). Uncertainty U_k: mean over m of -p ln p, kept where opening(U_k > 0.05) holds. Overlap O_k: where the mask
    (mean soft > 0.5) of k meets that of another class in `overlap_classes` (channels; all by default). Attention: any of
    the three. Heat: (I + U + O) / its maximum in the case, 0 where there is no attention at all. No post-processing of hard masks.
    """
    soft = np.where(
        np.stack([[_dilated(h) for h in member] for member in members > 0.5]), members, np.float32(0)
    )
    inconsistent, uncertain = inconsistency(soft), one_sided_entropy(members).mean(axis=0, dtype=np.float32)
    keep_i = np.stack([_opened(i > 0.1) for i in inconsistent])
    keep_u = np.stack([_opened(u > 0.05) for u in uncertain])
    ensemble = soft.mean(axis=0) > 0.5
    listed = np.zeros(len(ensemble), dtype=bool)
    listed[list(range(len(ensemble)) if overlap_classes is None else overlap_classes)] = True
    crowd = ensemble[listed].sum(axis=0, dtype=np.uint8)
    others = crowd[None] - np.where(listed[:, None, None, None], ensemble, False)
    overlap = ensemble & (others > 0)
    total = inconsistent * keep_i + uncertain * keep_u + overlap
    peak = float(total.max(initial=0.0))
    heat = (total / peak if peak > 0 else total).astype(np.float32)
    return AA8K(keep_i | keep_u | overlap, heat, keep_u, keep_i, overlap)


def _dilated(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    return np.asarray(ndimage.binary_dilation(mask, _CUBE))


def _opened(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    return np.asarray(ndimage.binary_opening(mask, _CUBE, iterations=2))


def _aa8k_case(prediction: Prediction, names: Sequence[str], members: npt.NDArray[np.float32]) -> Importance:
    result = aa8k(members)
    ml, found = prediction.grid.voxel_ml, {}
    for k, name in enumerate(names):
        u, i, o = (
            float(part[k].sum()) for part in (result.uncertain, result.inconsistent, result.overlapping)
        )
        mask = members.mean(axis=0)[k] > 0.5
        found[name] = ClassImportance(
            score=float(result.heat[k].sum()),
            uncertain=u,
            inconsistent=i,
            overlapping=o,
            components=int(ndimage.label(mask, _CUBE)[1]),
            volume_ml=float(mask.sum()) * ml,
            reason=f"{name}: {u:.0f} voxels uncertain, {i:.0f} inconsistent, {o:.0f} overlap",
        )
    attention = np.rint(result.heat.max(axis=0, initial=0.0) * 255).astype(np.uint8)
    return Importance(prediction.case_id, float(result.attention.sum()), found, attention)


# On disk --------------------------------------------------------------------------------------------------------------


def write_importances(path: Path, importances: Sequence[CaseImportance]) -> None:
    """Keep scores (not maps) as JSON."""
    write_json(
        path, [{**asdict(i), "classes": {n: asdict(c) for n, c in i.classes.items()}} for i in importances]
    )


def read_importances(path: Path) -> list[CaseImportance]:
    """What ``write_importances`` wrote."""
    return [
        CaseImportance(i["case_id"], i["score"], {n: ClassImportance(**c) for n, c in i["classes"].items()})
        for i in read_json(path)
    ]
