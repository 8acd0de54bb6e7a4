"""Scan an anatomy: smooth deformation, Hounsfield units, texture, blur and noise on a voxel grid.

Everything about the patient is drawn before the first voxel, so each size shows the same patient. Volumes are made slab by
slab: memory holds one volume, one label map and a slab's positions, whatever the size.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from ctune.classes import NINE_ORGANS
from ctune.data.phantom.anatomy import Anatomy, draw_anatomy
from ctune.data.phantom.paint import Slab, paint
from ctune.data.phantom.shapes import Field, Vector
from ctune.data.phantom.tissue import PHASES, draw_intensities
from ctune.errors import UsageError
from ctune.types import Case, Grid, Mask, Volume

SIZES: Mapping[str, tuple[tuple[int, int, int], tuple[float, float, float]]] = {
    "small": ((48, 40, 40), (7.0, 7.0, 7.0)),
    "medium": ((128, 112, 112), (2.6, 2.5, 2.5)),
    "ct": ((512, 512, 200), (0.7, 0.7, 1.4)),
}
"""Shape in voxels (X, Y, Z) and spacing in mm; all three see about the same part of the body."""

_SLAB = 20
_EXTENT_MM = (380.0, 380.0, 300.0)


class LabelMasks(Mapping[str, Mask]):
    """{class: mask} over one label map, each mask made when asked for: nine masks of a CT would be half a gigabyte."""

    def __init__(self, labels: Mask) -> None:
        self.labels = labels

    def __getitem__(self, name: str) -> Mask:
        if name not in NINE_ORGANS:
            raise KeyError(name)
        mask: Mask = (self.labels == NINE_ORGANS.index(name) + 1).astype(np.uint8)
        return mask

    def __iter__(self) -> Iterator[str]:
        return iter(NINE_ORGANS)

    def __len__(self) -> int:
        return len(NINE_ORGANS)


@dataclass(frozen=True, eq=False)
class Phantom:
    """A synthetic case with its truth.

    masks: {class: (X, Y, Z) uint8} of all nine organs, disjoint; the mask of an organ that the patient lacks is empty.
    phase: native, arterial or portal.
    """

    case: Case
    masks: Mapping[str, Mask]
    phase: str


def make_phantom(seed: int, case_index: int, size: str = "small", orientation: str = "RAS") -> Phantom:
    """Case `case_index` of the cohort `seed`; it does not depend on how many cases there are.

    `orientation` is the order in which voxels are stored, as axis codes ("LPS": x towards the patient's left); the
    patient stays where it is in world space. Raises UsageError for an unknown size or orientation.

    >>> phantom = make_phantom(0, 0)
    >>> phantom.case.volume.shape, sorted(phantom.masks)[0]
    ((48, 40, 40), 'aorta')
    """
    if size not in SIZES:
        raise UsageError(f"expected a size of {', '.join(SIZES)}; got {size!r}")
    shape, spacing = SIZES[size]
    rng = np.random.default_rng([seed, case_index])
    anatomy, phase = draw_anatomy(rng), int(rng.integers(len(PHASES)))
    volume, labels = _scan(rng, anatomy, draw_intensities(rng, phase), shape, spacing)
    volume, labels, affine = _reorient(volume, labels, _affine(shape, spacing), orientation)
    case = Case(f"phantom_{case_index:04d}", volume, Grid(volume.shape, affine))
    return Phantom(case, LabelMasks(labels), PHASES[phase])


def _scan(
    rng: np.random.Generator,
    anatomy: Anatomy,
    hu: Mapping[str, float],
    shape: tuple[int, int, int],
    spacing: tuple[float, float, float],
) -> tuple[Volume, Mask]:
    warp, grain = _Warp(rng), _nodes(rng, (30, 30, 26))
    noise_hu = np.float32(rng.uniform(13, 25))
    volume = np.empty(shape, dtype=np.float32)
    labels = np.empty(shape, dtype=np.uint8)
    axes: list[Vector] = [
        (np.arange(n, dtype=np.float64) - (n - 1) / 2) * s for n, s in zip(shape, spacing, strict=True)
    ]
    for start in range(0, shape[2], _SLAB):
        part = np.s_[:, :, start : start + _SLAB]
        where = [axes[0], axes[1], axes[2][start : start + _SLAB]]
        volume[part], labels[part] = paint(anatomy, warp.slab(where), smooth_field(grain, where), hu)
    # A scanner's blur in mm, and at least that of a voxel, which sees the mean of what it covers.
    ndimage.gaussian_filter(volume, [max(0.9 / s, 0.45) for s in spacing], output=volume)
    for start in range(0, shape[2], _SLAB):
        slab = volume[:, :, start : start + _SLAB]
        slab += noise_hu * rng.standard_normal(slab.shape, dtype=np.float32)
    np.clip(volume, -1024, 3071, out=volume)
    return np.rint(volume, out=volume), labels


class _Warp:
    """Where a voxel lies in the anatomy: build and breathing at a coarse scale, irregular surfaces at a fine one."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.scale = rng.uniform(0.94, 1.06, 3)
        self.shift = rng.normal(0, (3, 3, 8))
        self.coarse = [_nodes(rng, (7, 7, 6)) * np.float32(5.5) for _ in range(3)]
        self.fine = [_nodes(rng, (17, 17, 14)) * np.float32(3.2) for _ in range(3)]

    def slab(self, axes: list[Vector]) -> Slab:
        """The slab of voxels at the positions `axes` (mm)."""
        base = [self.scale[i] * axes[i] + self.shift[i] for i in range(3)]
        lattice = np.meshgrid(*(b.astype(np.float32) for b in base), indexing="ij", sparse=True)
        coarse = [smooth_field(nodes, axes) for nodes in self.coarse]
        # The trunk moves less than the organs in it, and its skin is smooth.
        x, y, z = (lattice[i] + np.float32(0.4) * coarse[i] for i in range(3))
        for i in range(3):
            coarse[i] += smooth_field(self.fine[i], axes)
        reach = np.array([float(np.abs(moved).max()) for moved in coarse])
        ox, oy, oz = (lattice[i] + coarse[i] for i in range(3))
        return Slab(trunk=(x, y, z), organs=(ox, oy, oz), axes=base, reach=reach)


def _nodes(rng: np.random.Generator, shape: tuple[int, int, int]) -> Field:
    # 2.9: a spline through independent nodes keeps about a third of their standard deviation.
    return rng.standard_normal(shape, dtype=np.float32) * np.float32(2.9)


def smooth_field(nodes: Field, axes: list[Vector]) -> Field:
    """A uniform cubic B-spline with the control values `nodes`, spread over the body, at the positions `axes` (mm)."""
    field: npt.NDArray[Any] = nodes
    for i in range(3):
        weights = _spline_weights(axes[i], nodes.shape[i], _EXTENT_MM[i])
        field = np.moveaxis(np.tensordot(weights, field, axes=(1, i)), 0, i)
    return np.ascontiguousarray(field)


def _spline_weights(at: Vector, count: int, extent: float) -> Field:
    u = np.clip((at / extent + 0.5) * (count - 3), 0, count - 3 - 1e-6)
    first = np.floor(u).astype(int)
    t = u - first
    basis = np.stack([(1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3]) / 6
    weights = np.zeros((len(at), count), dtype=np.float32)
    for k in range(4):
        weights[np.arange(len(at)), first + k] = basis[k]
    return weights


def _affine(shape: tuple[int, int, int], spacing: tuple[float, float, float]) -> npt.NDArray[np.float64]:
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = [-s * (n - 1) / 2 for n, s in zip(shape, spacing, strict=True)]
    return affine


def _reorient(
    volume: Volume, labels: Mask, affine: npt.NDArray[np.float64], codes: str
) -> tuple[Volume, Mask, npt.NDArray[np.float64]]:
    if codes == "RAS":
        return volume, labels, affine
    from nibabel import orientations

    if sorted(codes.translate(str.maketrans("LPI", "RAS"))) != sorted("RAS"):
        raise UsageError(f"expected an orientation of three axis codes such as RAS or LPS, got {codes!r}")
    change = orientations.axcodes2ornt(tuple(codes))
    turned = [np.ascontiguousarray(orientations.apply_orientation(a, change)) for a in (volume, labels)]
    return turned[0], turned[1], affine @ orientations.inv_ornt_aff(change, volume.shape)
