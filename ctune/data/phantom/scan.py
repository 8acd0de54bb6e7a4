"""Scan an anatomy: smooth deformation, Hounsfield units by contrast phase, texture, blur and noise on a voxel grid.

Large volumes are made slab by slab, so memory holds one volume and its masks, whatever the size.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from ctune.classes import NINE_ORGANS
from ctune.data.phantom.anatomy import BODY_MM, Anatomy, Positions, draw_anatomy
from ctune.types import Case, Grid, Mask, Volume

Size: TypeAlias = Literal["small", "medium", "ct"]

SIZES: Mapping[str, tuple[tuple[int, int, int], tuple[float, float, float]]] = {
    "small": ((48, 40, 40), (7.0, 7.0, 7.0)),
    "medium": ((128, 112, 112), (2.6, 2.5, 2.5)),
    "ct": ((512, 512, 200), (0.7, 0.7, 1.5)),
}
"""Shape in voxels (X, Y, Z) and spacing in mm."""

PHASES = ("native", "arterial", "portal")
HU: Mapping[str, tuple[float, float, float]] = {
    "fat": (-100, -100, -98),
    "muscle": (52, 58, 64),
    "bone": (330, 330, 330),
    "bowel": (34, 48, 62),
    "liver": (56, 68, 108),
    "spleen": (48, 118, 116),
    "stomach": (36, 44, 52),
    "pancreas": (42, 96, 88),
    "kidney_right": (34, 150, 172),
    "kidney_left": (34, 150, 172),
    "postcava": (42, 84, 140),
    "aorta": (42, 290, 156),
    "gall_bladder": (10, 12, 14),
}
"""Mean intensity of each tissue in the native, arterial and portal venous phase."""
_GAS, _AIR = -820.0, -1000.0
_SLAB = 40


@dataclass(frozen=True, eq=False)
class Phantom:
    """A synthetic case with its truth: masks {class: (X, Y, Z) uint8} of all nine organs (an absent one is empty)."""

    case: Case
    masks: Mapping[str, Mask]
    phase: str


def make_phantom(seed: int, case_index: int, size: Size = "small") -> Phantom:
    """Case `case_index` of the cohort `seed`; it does not depend on how many cases there are.

    >>> make_phantom(0, 0).case.volume.shape
    (48, 40, 40)
    """
    rng = np.random.default_rng([seed, case_index])
    anatomy, phase = draw_anatomy(rng), int(rng.integers(len(PHASES)))
    shape, spacing = SIZES[size]
    hu = {tissue: values[phase] + rng.normal(0, 7) for tissue, values in HU.items()}
    warp = _Warp(rng)
    texture = rng.normal(0, 1, (24, 20, 20)).astype(np.float32)
    noise_hu = float(rng.uniform(16, 34))
    labels = np.zeros(shape, dtype=np.uint8)
    volume = np.empty(shape, dtype=np.float32)
    for start in range(0, shape[2], _SLAB):
        slab = slice(start, min(start + _SLAB, shape[2]))
        at = _positions(shape, spacing, slab)
        moved = warp(at)
        volume[:, :, slab], labels[:, :, slab] = _paint(anatomy, moved, hu)
        volume[:, :, slab] += 9 * _smooth_field(texture, at)
    sigma = [0.55 * min(1.0, 2.5 / s) + 0.35 for s in spacing]
    ndimage.gaussian_filter(volume, sigma, output=volume)
    for start in range(0, shape[2], _SLAB):
        part = volume[:, :, start : start + _SLAB]
        part += rng.normal(0, noise_hu, part.shape).astype(np.float32)
    np.clip(volume, -1024, 3071, out=volume)
    grid = Grid(shape, _affine(shape, spacing))
    masks = {name: (labels == i + 1).astype(np.uint8) for i, name in enumerate(NINE_ORGANS)}
    return Phantom(Case(f"phantom_{case_index:04d}", np.rint(volume), grid), masks, PHASES[phase])


def _affine(shape: tuple[int, int, int], spacing: tuple[float, float, float]) -> npt.NDArray[np.float64]:
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = [-s * (n - 1) / 2 for n, s in zip(shape, spacing, strict=True)]
    return affine


def _positions(shape: tuple[int, int, int], spacing: tuple[float, float, float], slab: slice) -> Positions:
    axes = [(np.arange(n) - (n - 1) / 2) * s for n, s in zip(shape, spacing, strict=True)]
    x, y, z = np.meshgrid(axes[0], axes[1], axes[2][slab], indexing="ij")
    return x.astype(np.float32), y.astype(np.float32), z.astype(np.float32)


class _Warp:
    """Smooth displacement in mm: breathing and build at a coarse scale, irregular surfaces at a fine one."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.coarse = [rng.normal(0, 9, (5, 5, 5)).astype(np.float32) for _ in range(3)]
        self.fine = [rng.normal(0, 4.2, (14, 12, 12)).astype(np.float32) for _ in range(3)]
        self.scale = rng.uniform(0.93, 1.07, 3).astype(np.float32)

    def __call__(self, at: Positions) -> Positions:
        x, y, z = (
            at[i] * self.scale[i] + _smooth_field(self.coarse[i], at) + _smooth_field(self.fine[i], at)
            for i in range(3)
        )
        return x, y, z


def _smooth_field(nodes: npt.NDArray[np.float32], at: Positions) -> npt.NDArray[np.float32]:
    """Cubic interpolation of node values spread over 360 x 300 x 320 mm."""
    extent = (360.0, 300.0, 320.0)
    where = [
        np.clip((p / np.float32(e) + np.float32(0.5)) * (n - 1), 0, n - 1)
        for p, e, n in zip(at, extent, nodes.shape, strict=True)
    ]
    return ndimage.map_coordinates(nodes, where, order=2, mode="nearest", output=np.float32)


def _paint(anatomy: Anatomy, at: Positions, hu: Mapping[str, float]) -> tuple[Volume, npt.NDArray[np.uint8]]:
    x, y, _ = at
    volume = np.full(x.shape, _AIR, dtype=np.float32)
    labels = np.zeros(x.shape, dtype=np.uint8)
    body = np.square(x / BODY_MM[0]) + np.square(y / BODY_MM[1])
    volume[body < 1] = hu["fat"]
    muscle_edge = (1 - anatomy.fat_mm / BODY_MM[1]) ** 2
    cavity_edge = (1 - (anatomy.fat_mm + 11) / BODY_MM[1]) ** 2
    volume[(body < muscle_edge) & (body >= cavity_edge)] = hu["muscle"]
    psoas = (np.abs(np.abs(x) - 38) < 17) & (np.abs(y + 66) < 16)
    volume[psoas & (body < cavity_edge)] = hu["muscle"]
    inside = body < cavity_edge
    for shape, gas_y in anatomy.bowel:
        loop = (shape(at) < 1) & inside
        volume[loop] = hu["bowel"]
        volume[loop & (y > gas_y)] = _GAS
    for name, shape in anatomy.organs.items():
        organ = (shape(at) < 1) & inside
        volume[organ] = hu[name]
        labels[organ] = NINE_ORGANS.index(name) + 1
    if anatomy.stomach_gas_y is not None:
        volume[(labels == NINE_ORGANS.index("stomach") + 1) & (y > anatomy.stomach_gas_y)] = _GAS
    spine = anatomy.spine(at) < 1
    volume[spine] = hu["bone"]
    labels[spine] = 0
    return volume, labels
