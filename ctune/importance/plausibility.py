"""Is the mask that of such an organ at all? Its volume against the pool's, and paired organs on the wrong side."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from ctune.types import Grid

ENOUGH_CASES = 8
"""Fewer tell nothing of what is usual."""

_SIDES = {"right": "left", "left": "right"}
_LEAST_SPREAD = 0.1
"""Of log volume: organs of a pool that happen to be alike do not make a tenth more or less implausible."""

_AS_LARGE, _APART_MM = 1 / 3, 60.0
"""Two organs of a pair are about as large as each other, and farther apart than the halves of a torn one."""


@dataclass(frozen=True)
class Usual:
    """How large a class is in the pool: median of ln(mL) and its spread, 1.4826 times the median absolute deviation.

    found: share of the cases in which it is there at all; cases: how many were looked at.
    """

    median: float
    spread: float
    found: float
    cases: int


def usual_volumes(volumes: Iterable[Mapping[str, float]]) -> dict[str, Usual]:
    """{class: Usual} from {class: mL} of each case of the pool; classes that fewer than 8 cases have are left out.

    Robust, so that the failures that are looked for do not set the scale (Leys et al., 2013).
    """
    found: dict[str, list[float]] = {}
    for case in volumes:
        for name, ml in case.items():
            found.setdefault(name, []).append(ml)
    out = {}
    for name, every in found.items():
        logs = np.log([ml for ml in every if ml > 0])
        if len(logs) >= ENOUGH_CASES:
            median = float(np.median(logs))
            spread = 1.4826 * float(np.median(np.abs(logs - median)))
            out[name] = Usual(median, max(spread, _LEAST_SPREAD), len(logs) / len(every), len(every))
    return out


def usual_in_pool(
    predicted: Mapping[str, Mapping[str, float]], judged: Mapping[str, Mapping[str, float]]
) -> dict[str, Usual]:
    """{class: Usual} from {case: {class: mL}} of predictions and of masks that people drew.

    Where people drew a class in 8 cases or more their masks alone say what is usual: a base that never finds an organ says
    that it is usually not there. Below that both count together, a case's judged mask in place of its prediction.
    """
    people = usual_volumes(judged.values())
    cases = sorted({*predicted, *judged})
    both = usual_volumes({**predicted.get(case, {}), **judged.get(case, {})} for case in cases)
    return {**both, **people}


def odd_volume(volume_ml: float, usual: Usual | None) -> float:
    """How implausible a volume is, in [0, 1]: 0 within two spreads of the median of ln(mL), 1 beyond six; 0 without `usual`.

    An organ that is not there is as implausible as it is usual: the share of the pool that has it.

    >>> odd_volume(100.0, Usual(math.log(100), 0.5, 1.0, 20)), odd_volume(0.0, Usual(math.log(100), 0.5, 0.9, 20))
    (0.0, 0.9)
    """
    if usual is None:
        return 0.0
    if volume_ml <= 0:
        return usual.found
    away = abs(math.log(volume_ml) - usual.median) / usual.spread
    return min(1.0, max(0.0, (away - 2.0) / 4.0))


def partner(name: str) -> str | None:
    """The class on the other side of the body, None for one without a side.

    >>> partner("kidney_right"), partner("liver")
    ('kidney_left', None)
    """
    words = name.split("_")
    other = [_SIDES.get(word, word) for word in words]
    return "_".join(other) if other != words else None


def on_both_sides(
    mask: npt.NDArray[np.bool_], start: tuple[int, int, int], grid: Grid, right: bool
) -> npt.NDArray[np.bool_]:
    """Of a class with a side whose partner was not found: its part on the other side, (x, y, z) bool like the mask.

    That is one organ of each side under one name. Only where two parts, 26-connected, are the largest, the smaller at least
    `_AS_LARGE` of the other, and their middles at least `_APART_MM` apart from left to right; else nothing.
    """
    labels, count = ndimage.label(mask, np.ones((3, 3, 3), dtype=bool))
    nothing = np.zeros_like(mask)
    if count < 2:
        return nothing
    sizes = np.bincount(labels.ravel())[1:]
    largest = np.argsort(-sizes, kind="stable")[:2] + 1
    if sizes[largest[1] - 1] < _AS_LARGE * sizes[largest[0] - 1]:
        return nothing
    middles = [
        float(grid.affine[0, :3] @ (np.array(at) + start) + grid.affine[0, 3])
        for at in ndimage.center_of_mass(mask, labels, largest)
    ]
    if abs(middles[0] - middles[1]) < _APART_MM:
        return nothing
    return wrong_side(mask, start, grid, sum(middles) / 2, right)


def is_right(name: str) -> bool:
    """Whether a class with a side is that of the patient's right."""
    return "right" in name.split("_")


def wrong_side(
    mask: npt.NDArray[np.bool_], start: tuple[int, int, int], grid: Grid, middle_x: float, right: bool
) -> npt.NDArray[np.bool_]:
    """Voxels of `mask` beyond the middle of the body, (x, y, z) bool like the mask.

    start: the grid's index of the mask's first voxel. middle_x: world millimetres of the middle; the patient's right lies
    at larger x (RAS+).
    """
    x: npt.NDArray[np.float64] = np.full((1, 1, 1), grid.affine[0, 3])
    for axis, (count, first) in enumerate(zip(mask.shape, start, strict=True)):
        # Along an axis that does not cross the body nothing varies, and nothing is spread out.
        if grid.affine[0, axis] != 0:
            steps = grid.affine[0, axis] * (np.arange(count) + first)
            x = x + steps.reshape([-1 if a == axis else 1 for a in range(3)])
    return np.asarray(mask & (x < middle_x if right else x > middle_x))
