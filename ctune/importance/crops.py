"""What scoring keeps of a class: probabilities in steps of 1/255, in the box outside which nothing is.

A case of any number of classes is then about as large as its organs, and every measure can look a value up in a table of 256.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ctune.errors import DataError
from ctune.types import Grid, Prediction

Levels = npt.NDArray[np.uint8]
"""(X, Y, Z) uint8, in steps of 1/255."""
Booleans = npt.NDArray[np.bool_]
Box = tuple[slice, slice, slice]
_AT_ONCE = 2**20


@dataclass(frozen=True, eq=False)
class Crop:
    """One class of one case in its box. p: (x, y, z) uint8; spread: its inconsistency or None; members: those of several
    models, of which p is then the mean. network_mm: side of a voxel of the grid on which the network worked (the cube root of
    its volume), the largest of several models'; 0 where that is not known."""

    name: str
    box: Box
    p: Levels
    spread: Levels | None = None
    members: tuple[Levels, ...] = ()
    network_mm: float = 0.0

    @property
    def start(self) -> tuple[int, int, int]:
        """The grid's index of the box's first voxel."""
        x, y, z = self.box
        return x.start, y.start, z.start


def crop(
    name: str,
    members: Sequence[Levels],
    spread: Levels | None,
    floor: int,
    clear: bool = True,
    network_mm: float = 0.0,
) -> Crop:
    """The class in the box of what is at least `floor` in any volume.

    members: at least one volume (X, Y, Z). network_mm: see ``Crop``. clear: what is below the floor counts as 0; else the faint haze that a network
    leaves over a whole body would weigh more than any organ.
    """
    volumes = [*members, *([spread] if spread is not None else [])]
    box = _around(volumes, floor)
    # In the order of a file, X fastest, whatever came.
    kept = [np.array(v[box].T, order="C").T for v in volumes]
    for volume in kept if clear else []:
        np.multiply(volume, volume >= floor, out=volume)
    models = tuple(kept[: len(members)])
    found = kept[-1] if spread is not None else None
    if len(models) == 1:
        return Crop(name, box, models[0], found, network_mm=network_mm)
    stack = np.stack(models)
    mean = np.rint(stack.mean(axis=0, dtype=np.float32)).astype(np.uint8, order="F")
    deviation = np.rint(stack.std(axis=0, dtype=np.float32)).astype(np.uint8, order="F")
    spreads = deviation if found is None else np.maximum(found, deviation)
    return Crop(name, box, mean, spreads, models, network_mm)


def crops(predictions: Sequence[Prediction], names: Sequence[str], floor: int, clear: bool) -> list[Crop]:
    """Of predictions in memory: one model's, or several models' of the same case. Raises DataError for values that are no
    probabilities."""
    out, network_mm = [], max(side_mm(p.network_spacing_mm) for p in predictions)
    for name in names:
        at = [p.classes.index(name) for p in predictions]
        for prediction, k in zip(predictions, at, strict=True):
            check_finite(prediction.probabilities[k], prediction.case_id, name)
        members = [levels(p.probabilities[k]) for p, k in zip(predictions, at, strict=True)]
        spreads = [
            p.inconsistency[k] for p, k in zip(predictions, at, strict=True) if p.inconsistency is not None
        ]
        spread = levels(np.maximum.reduce(spreads)) if spreads else None
        out.append(crop(name, members, spread, floor, clear, network_mm))
    return out


def check_finite(values: npt.NDArray[np.float32], case_id: str, name: str) -> None:
    """Raise DataError for a value that is no number: as a byte it would be a sure background."""
    if odd := int(values.size - np.isfinite(values).sum()):
        raise DataError(
            f"case {case_id}, {name}: expected probabilities, got {odd} values that are not finite; the model's head has "
            "diverged: predict with another version of it"
        )


def side_mm(spacing_mm: Sequence[float] | None) -> float:
    """Of a cube as large as a voxel; 0 for a grid that is not known."""
    return math.prod(spacing_mm) ** (1 / 3) if spacing_mm else 0.0


def levels(values: npt.NDArray[np.float32]) -> Levels:
    """float32 in [0, 1] -> uint8 in steps of 1/255, as a prediction's file holds it."""
    return np.asarray(np.rint(values * np.float32(255.0)), dtype=np.uint8)


def histogram(values: Levels) -> npt.NDArray[np.int64]:
    """How many voxels have each of the 256 levels, (X, Y, Z) uint8 -> (256,).

    Most of a box is nothing: eight voxels that are all 0 are one comparison, and only the others are counted one by one.
    """
    flat = np.ascontiguousarray(values.T).reshape(-1)
    eights = flat[: flat.size // 8 * 8].view(np.uint64)
    some = np.concatenate([eights[eights != 0].view(np.uint8), flat[eights.size * 8 :]])
    out = np.zeros(256, dtype=np.int64)
    # Some at a time: bincount makes eight bytes of each.
    for start in range(0, some.size, _AT_ONCE):
        out += np.bincount(some[start : start + _AT_ONCE], minlength=256)
    out[0] += flat.size - some.size
    return out


def occupied(values: npt.NDArray[np.bool_]) -> Box:
    """The box of what is there, of any three axes; empty where nothing is. Quick for an array in the order of memory."""
    if not values.size:
        return slice(0, 0), slice(0, 0), slice(0, 0)
    rest = np.logical_or.reduce(values, axis=0)
    lines = (values.reshape(len(values), -1).any(axis=1), rest.any(axis=1), rest.any(axis=0))
    at = [np.flatnonzero(line) for line in lines]
    z, y, x = (slice(int(a[0]), int(a[-1]) + 1) if len(a) else slice(0, 0) for a in at)
    return z, y, x


def claimed_twice(masks: Sequence[Booleans], found: Sequence[Crop], grid: Grid) -> Iterator[Booleans]:
    """Of each class, the voxels of its mask that the mask of another class holds too. masks: (x, y, z) bool in the boxes."""
    claims = empty(grid)
    for mask, crop in zip(masks, found, strict=True):
        claims[crop.box] += mask
    for mask, crop in zip(masks, found, strict=True):
        yield mask & (claims[crop.box] > 1)


def put(target: Levels, values: Levels, box: Box) -> None:
    """Raise `target` (X, Y, Z) to `values` in the box."""
    np.maximum(target[box], values, out=target[box])


def empty(grid: Grid) -> Levels:
    """A volume of zeros in the order of a NIfTI file, X fastest."""
    return np.zeros(grid.shape[::-1], dtype=np.uint8).T


def _around(volumes: Sequence[Levels], floor: int) -> Box:
    hot = [np.zeros(n, dtype=bool) for n in volumes[0].shape]
    for volume in volumes:
        # Seen along the last axis first, the slowest in memory: two passes over the volume instead of three.
        seen = volume.max(axis=2, initial=0)
        hot[0] |= seen.max(axis=1, initial=0) >= floor
        hot[1] |= seen.max(axis=0, initial=0) >= floor
        hot[2] |= volume.max(axis=(0, 1), initial=0) >= floor
    found = []
    for line in hot:
        at = np.flatnonzero(line)
        found.append(slice(int(at[0]), int(at[-1]) + 1) if len(at) else slice(0, 0))
    return found[0], found[1], found[2]
