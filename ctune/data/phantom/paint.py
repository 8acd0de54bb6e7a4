"""Paint an anatomy on a slab of voxels: the trunk from the skin inwards, then every structure where it lies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ctune.data.phantom.anatomy import Anatomy, Build, Structure
from ctune.data.phantom.shapes import Field, Positions, Shape, Vector
from ctune.data.phantom.tissue import AIR, GAS, GRAIN, GRAIN_ELSEWHERE
from ctune.types import Mask, Volume

_Where = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Slab:
    """A slab of voxels: their positions (mm) in the trunk and, moved further, among the organs.

    axes: unmoved positions along x, y, z. reach: the largest move among the organs along each (mm).
    """

    trunk: Positions
    organs: Positions
    axes: list[Vector]
    reach: Vector

    def near(self, shape: Shape) -> tuple[slice, slice, slice]:
        """The block of voxels that may lie in `shape`."""
        low, high = shape.box
        x, y, z = (
            slice(*np.searchsorted(self.axes[i], (low[i] - self.reach[i], high[i] + self.reach[i])))
            for i in range(3)
        )
        return x, y, z


def paint(anatomy: Anatomy, slab: Slab, grain: Field, hu: Mapping[str, float]) -> tuple[Volume, Mask]:
    """Volume (X, Y, Z) float32 in HU and label map uint8 of a slab; `grain` is texture of standard deviation 1."""
    canvas = _Canvas(grain, hu)
    room = _paint_trunk(canvas, anatomy.build, slab.trunk)
    for structure in anatomy.structures:
        _paint_structure(canvas, structure, slab, room)
    _paint_spine(canvas, slab.trunk)
    return canvas.volume, canvas.labels


class _Canvas:
    def __init__(self, grain: Field, hu: Mapping[str, float]) -> None:
        self.grain, self.hu = grain, hu
        self.volume = np.full(grain.shape, AIR, dtype=np.float32)
        self.labels = np.zeros(grain.shape, dtype=np.uint8)

    def fill(self, where: _Where, tissue: str, block: tuple[slice, ...] = (), label: int = 0) -> None:
        """Fill the voxels `where` (a mask of `block`) with a tissue and its texture."""
        coarse = np.float32(GRAIN.get(tissue, GRAIN_ELSEWHERE))
        self.volume[block][where] = np.float32(self.hu[tissue]) + coarse * self.grain[block][where]
        self.labels[block][where] = label

    def gas(self, where: _Where, block: tuple[slice, ...]) -> None:
        self.volume[block][where] = GAS


def _paint_trunk(canvas: _Canvas, build: Build, at: Positions) -> _Where:
    """Skin, fat, wall, ribs, lungs, heart, back; returns the room that organs may take (below the diaphragm, in the wall)."""
    x, y, z = at
    canvas.fill(_within(at, build, 0), "fat")
    wall = _within(at, build, build.fat)
    canvas.fill(wall, "muscle")
    cavity = _within(at, build, build.fat + build.muscle)
    # Ribs slope down towards the front, in the outer half of the wall, above the lowest one.
    rung = np.abs(((z + 0.5 * y) / np.float32(34) + np.float32(build.rib_phase)) % 1 - np.float32(0.5))
    ribs = (
        wall
        & ~_within(at, build, build.fat + 0.7 * build.muscle)
        & (rung < 0.16)
        & (z + 0.9 * np.abs(y) > 12)
    )
    canvas.fill(ribs & (np.abs(x) > 34), "bone")
    canvas.fill(cavity, "fat")
    dome = _dome(at, build)
    lung = cavity & (z > dome) & ((np.abs(x) > 26) | (y > 10))
    canvas.fill(lung, "lung")
    heart = np.square((x + 18) / 62) + np.square((y - 28) / 44) + np.square((z - 148) / 46) < 1
    canvas.fill(heart & lung, "heart")
    back = wall & (np.square((np.abs(x) - 31) / 36) + np.square((y + 88) / 22) < 1)
    # The psoas widens downwards from the first lumbar vertebra.
    width = np.clip(14 - 0.12 * z, 0.1, 24)
    psoas = cavity & (np.square((np.abs(x) - 36) / width) + np.square((y + 56) / (width + 3)) < 1) & (z < 60)
    canvas.fill(psoas | back, "muscle")
    return cavity & ~back & ((z < dome - 3) | (np.abs(x) <= 26))


def _within(at: Positions, build: Build, inset: float) -> _Where:
    """Inside the trunk's outline, `inset` mm below the skin; the back is flatter than the belly."""
    wide, front = np.float32(build.width - inset), np.float32(build.depth - inset)
    across = np.square(np.abs(at[0]) / wide)
    # Fat is thin and muscle is thick in the back: the outline moves in by half.
    back = np.float32(build.depth - 0.8 * inset)
    along = np.where(at[1] > 0, np.square(at[1] / front), np.square(at[1] / back) ** np.float32(1.5))
    inside: _Where = across + along < 1
    return inside


def _dome(at: Positions, build: Build) -> Field:
    """Height (mm) of the diaphragm: two domes, the right one higher."""
    x, y, _ = at
    right = build.diaphragm - 55 * (np.square((x - 52) / 78) + np.square((y - 8) / 74))
    left = build.diaphragm - 10 - 45 * (np.square((x + 58) / 72) + np.square((y - 8) / 74))
    return np.asarray(np.maximum(right, left), dtype=np.float32)


def _paint_structure(canvas: _Canvas, structure: Structure, slab: Slab, room: _Where) -> None:
    block = slab.near(structure.shape)
    if not room[block].size:
        return
    x, y, z = (p[block] for p in slab.organs)
    value = structure.shape((x, y, z))
    inside = (value < 1) & room[block]
    canvas.fill(inside, structure.tissue, block, structure.label)
    if structure.core is not None:
        canvas.fill(inside & (value < structure.core_below), structure.core, block, structure.label)
    if structure.gas_above_y is not None:
        canvas.gas(inside & (value < 0.8) & (slab.trunk[1][block] > structure.gas_above_y), block)


def _paint_spine(canvas: _Canvas, at: Positions) -> None:
    x, y, z = at
    # Discs every 36 mm; the body of a vertebra is waisted between them.
    level = np.abs((z / np.float32(36)) % 1 - np.float32(0.5)) * 2
    body = np.square(x / 23) + np.square((y + 58) / 18)
    canvas.fill(body < 1, "muscle")
    bone = (body < 0.86 + 0.14 * level) & (level < 0.8)
    canvas.fill(bone, "bone")
    canvas.fill(bone & (body < 0.62), "marrow")
    arch = (np.square(x / 15) + np.square((y + 84) / 13) < 1) | (
        (np.abs(x) < 4) & (np.abs(y + 97) < 10) & (level < 0.6)
    )
    arch |= (np.abs(y + 82) < 4) & (np.abs(x) < 38) & (level < 0.35)
    canvas.fill(arch, "bone")
    canvas.fill(np.square(x / 10) + np.square((y + 83) / 8) < 1, "bowel")
