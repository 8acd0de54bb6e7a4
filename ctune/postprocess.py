"""Clean predicted masks, class by class: within a host organ, without small parts, the largest parts, without holes.

Every function takes a mask and returns a new one. Nothing is done that ``[postprocess.CLASS]`` does not ask for: the largest
part alone is wrong for what comes in several, and a hole may be a vessel.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from ctune.config import Cleaning
from ctune.types import Grid, Mask

_CUBE = np.ones((3, 3, 3), dtype=bool)
"""26-connected neighbourhood."""


def clean(mask: Mask, rules: Cleaning, grid: Grid, host: Mask | None = None) -> Mask:
    """Apply the rules of one class to its mask (X, Y, Z) uint8 0 or 1, in the order in which ``Cleaning`` lists them.

    host: the mask of ``rules.within``, itself clean; None when it was not predicted.
    """
    if rules.within and host is not None and host.any():
        mask = keep_within(mask, host, grid.spacing_mm, rules.within_mm)
    if rules.min_ml:
        mask = drop_small(mask, rules.min_ml / grid.voxel_ml)
    if rules.largest:
        mask = keep_largest(mask, rules.largest)
    if rules.fill_holes:
        mask = fill_holes(mask)
    return mask.astype(np.uint8)


def clean_all(masks: Mapping[str, Mask], rules: Mapping[str, Cleaning], grid: Grid) -> dict[str, Mask]:
    """Clean every mask that has rules, hosts before what lies in them; the others come back as they are."""
    out = dict(masks)
    for name in in_order(masks, rules):
        out[name] = clean(out[name], rules[name], grid, out.get(rules[name].within))
    return out


def in_order(names: Iterable[str], rules: Mapping[str, Cleaning]) -> list[str]:
    """Those of `names` that have rules, each after its host."""
    return sorted((name for name in names if name in rules), key=lambda name: len(_hosts(name, rules)))


def needed(names: Iterable[str], rules: Mapping[str, Cleaning]) -> set[str]:
    """The classes whose masks cleaning looks at: those with rules, and their hosts."""
    known = list(names)
    cleaned = in_order(known, rules)
    return {*cleaned, *(rules[name].within for name in cleaned)} & set(known)


def _hosts(name: str, rules: Mapping[str, Cleaning]) -> list[str]:
    chain: list[str] = []
    while name in rules and (name := rules[name].within):
        chain.append(name)
    return chain


# One rule each --------------------------------------------------------------------------------------------------------


def keep_within(mask: Mask, host: Mask, spacing_mm: Sequence[float], within_mm: float) -> Mask:
    """Keep voxels of `mask` whose centre is at most `within_mm` from the centre of a voxel of `host`.

    >>> mask, host = np.ones((3, 1, 1), np.uint8), np.array([1, 0, 0], np.uint8).reshape(3, 1, 1)
    >>> keep_within(mask, host, (2.0, 2.0, 2.0), 2.0).ravel().tolist()
    [1, 1, 0]
    """

    def near(part: Mask, box: tuple[slice, ...]) -> Mask:
        inside = host[box] > 0
        if within_mm > 0 and inside.any():
            inside = ndimage.distance_transform_edt(~inside, sampling=spacing_mm) <= within_mm
        return part * inside

    margin = [int(within_mm // s) + 1 for s in spacing_mm]
    return _in_box(mask, margin, near)


def drop_small(mask: Mask, voxels: float) -> Mask:
    """Drop 26-connected parts of fewer than `voxels` voxels."""
    return _in_box(mask, (0, 0, 0), lambda part, _: _parts(part, lambda sizes: sizes >= voxels))


def keep_largest(mask: Mask, count: int = 1) -> Mask:
    """Keep the `count` largest 26-connected parts; of parts of one size, the first in memory order."""

    def largest(sizes: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        kept = np.zeros(len(sizes), dtype=bool)
        kept[np.argsort(-sizes, kind="stable")[:count]] = True
        return kept

    return _in_box(mask, (0, 0, 0), lambda part, _: _parts(part, largest))


def fill_holes(mask: Mask) -> Mask:
    """Fill the background that the mask encloses on all sides (6-connected)."""
    return _in_box(mask, (0, 0, 0), lambda part, _: ndimage.binary_fill_holes(part).astype(np.uint8))


def _parts(mask: Mask, keep: Callable[[npt.NDArray[np.int64]], npt.NDArray[np.bool_]]) -> Mask:
    """The parts that `keep` says True of, given the voxels of each."""
    labels, count = ndimage.label(mask, _CUBE)
    kept = np.zeros(count + 1, dtype=np.uint8)
    kept[1:] = keep(np.bincount(labels.ravel(), minlength=count + 1)[1:])
    return kept[labels]


def _in_box(mask: Mask, margin: Sequence[int], change: Callable[[Mask, tuple[slice, ...]], Mask]) -> Mask:
    """`change` the box that holds the mask's voxels and a margin: organs are small, and whole CTs are not."""
    out = np.zeros_like(mask)
    box = _box(mask, margin)
    if box is not None:
        out[box] = change(mask[box], box)
    return out


def _box(mask: Mask, margin: Sequence[int]) -> tuple[slice, ...] | None:
    found = []
    for axis, more in enumerate(margin):
        there = np.flatnonzero(mask.any(axis=tuple(a for a in range(3) if a != axis)))
        if not len(there):
            return None
        found.append(slice(max(0, int(there[0]) - more), int(there[-1]) + 1 + more))
    return tuple(found)
