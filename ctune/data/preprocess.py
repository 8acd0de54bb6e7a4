"""From the CT's grid to the network's and back: axes to RAS, spacing, intensity window, crop; and each undone.

Only axes are permuted, flipped and rescaled: an oblique CT stays oblique, so nothing is interpolated that need not be.
The centres of both fields of view coincide.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import nibabel as nib
import numpy as np
import numpy.typing as npt
from scipy import ndimage

from ctune.config import HUWindow, PercentileWindow, Preprocessing
from ctune.types import Case, Grid, Mask, Probabilities, Volume

Triple: TypeAlias = tuple[int, int, int]


@dataclass(frozen=True, eq=False)
class Taps:
    """Linear interpolation along one axis: value i is weights[0][i] * x[first[i]] + weights[1][i] * x[second[i]].

    first, second: (n,) int64. weights: two of (n,) float32, both 0 where a voxel lies outside the crop.
    """

    first: npt.NDArray[np.int64]
    second: npt.NDArray[np.int64]
    weights: tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]


@dataclass(frozen=True, eq=False)
class Frame:
    """How one case lies in the network's space, both ways.

    source: the CT's grid. network: the grid that the network sees. orientation: nibabel's (3, 2) axis map to RAS.
    scale, offset: RAS voxel = scale * resampled voxel + offset. corner: of the crop in the resampled volume.
    """

    source: Grid
    network: Grid
    orientation: npt.NDArray[np.float64]
    ras_shape: Triple
    resampled_shape: Triple
    scale: tuple[float, float, float]
    offset: tuple[float, float, float]
    corner: Triple

    @property
    def keeps_spacing(self) -> bool:
        """True when nothing is interpolated either way."""
        return self.scale == (1.0, 1.0, 1.0) and self.offset == (0.0, 0.0, 0.0)

    @property
    def crop(self) -> tuple[slice, ...]:
        return tuple(slice(c, c + n) for c, n in zip(self.corner, self.network.shape, strict=True))

    @property
    def network_axes(self) -> Triple:
        """The network's axis that runs along each axis of the CT."""
        x, y, z = (int(axis) for axis in self.orientation[:, 0])
        return x, y, z

    @property
    def flipped(self) -> tuple[bool, bool, bool]:
        """Which of the CT's axes run against the network's."""
        x, y, z = (bool(sign < 0) for sign in self.orientation[:, 1])
        return x, y, z

    def taps(self, axis: int) -> Taps:
        """How values along one of the CT's axes come from those along the network's: ``to_source`` is three of these."""
        n, network = self.source.shape[axis], self.network_axes[axis]
        ras = np.arange(n)[:: -1 if self.flipped[axis] else 1]
        # Beyond the centres of the outermost voxels their value goes on, as in ``to_network``.
        last = self.resampled_shape[network] - 1
        place = np.clip((ras - self.offset[network]) / self.scale[network], 0, last)
        first = np.floor(place).astype(np.int64)
        weight = (place - first).astype(np.float32)
        second = np.where(weight > 0, np.minimum(first + 1, last), first)
        size, corner = self.network.shape[network], self.corner[network]
        weights, indices = [], []
        for index, part in ((first - corner, 1 - weight), (second - corner, weight)):
            inside = (index >= 0) & (index < size)
            weights.append(np.where(inside, part, np.float32(0)))
            indices.append(np.clip(index, 0, size - 1))
        return Taps(indices[0], indices[1], (weights[0], weights[1]))


def to_network(case: Case, settings: Preprocessing) -> tuple[Volume, Frame]:
    """The case as the network sees it: (X', Y', Z') float32 in [0, 1] on RAS axes, and the way back."""
    orientation = nib.orientations.io_orientation(case.grid.affine)
    ras = nib.orientations.apply_orientation(case.volume, orientation)
    ras_affine = case.grid.affine @ nib.orientations.inv_ornt_aff(orientation, case.grid.shape)
    shape, scale, offset = _resampling(Grid(ras.shape, ras_affine), settings.spacing_mm)
    resampled = _interpolate(ras, shape, scale, offset, order=1)
    windowed = _window(resampled, settings.window)
    corner, size = _foreground_box(windowed) if settings.crop_foreground else ((0, 0, 0), windowed.shape)
    step = np.eye(4)
    step[:3, :3], step[:3, 3] = np.diag(scale), np.array(offset) + np.array(scale) * corner
    frame = Frame(
        source=case.grid,
        network=Grid(size, ras_affine @ step),
        orientation=orientation,
        ras_shape=ras.shape,
        resampled_shape=shape,
        scale=scale,
        offset=offset,
        corner=corner,
    )
    return np.ascontiguousarray(windowed[frame.crop]), frame


def labels_to_network(mask: Mask, frame: Frame) -> Mask:
    """A mask on the CT's grid (X, Y, Z) uint8 -> on the network's, by the nearest voxel; UNLABELLED stays."""
    ras = nib.orientations.apply_orientation(mask, frame.orientation)
    resampled = _interpolate(ras, frame.resampled_shape, frame.scale, frame.offset, order=0)
    return np.ascontiguousarray(resampled[frame.crop])


def to_source(probabilities: Probabilities, frame: Frame) -> Probabilities:
    """(K, X', Y', Z') float32 on the network's grid -> (K, X, Y, Z) on the CT's; linear, 0 outside the crop."""
    out = np.empty((len(probabilities), *frame.source.shape), dtype=np.float32)
    inverse_scale = tuple(1.0 / s for s in frame.scale)
    inverse_offset = tuple(-o / s for o, s in zip(frame.offset, frame.scale, strict=True))
    for k, channel in enumerate(probabilities):
        whole = np.zeros(frame.resampled_shape, dtype=np.float32)
        whole[frame.crop] = channel
        ras = _interpolate(whole, frame.ras_shape, inverse_scale, inverse_offset, order=1)
        out[k] = _unorient(ras, frame.orientation)
    return out


def _unorient(ras: npt.NDArray[Any], orientation: npt.NDArray[np.float64]) -> npt.NDArray[Any]:
    inverse = nib.orientations.ornt_transform(_identity(), orientation)
    return np.asarray(nib.orientations.apply_orientation(ras, inverse))


def _identity() -> npt.NDArray[np.float64]:
    return np.array([[0, 1], [1, 1], [2, 1]], dtype=np.float64)


def _resampling(
    ras: Grid, spacing_mm: tuple[float, float, float] | str
) -> tuple[Triple, tuple[float, float, float], tuple[float, float, float]]:
    if isinstance(spacing_mm, str):
        return ras.shape, (1.0, 1.0, 1.0), (0.0, 0.0, 0.0)
    scale = [wanted / have for wanted, have in zip(spacing_mm, ras.spacing_mm, strict=True)]
    # Spacings come from float headers: what equals up to rounding must not be interpolated.
    scale = [1.0 if abs(s - 1.0) < 1e-4 else s for s in scale]
    shape = [max(1, round(n / s)) for n, s in zip(ras.shape, scale, strict=True)]
    offset = [
        0.0 if s == 1.0 else ((n - 1) - s * (m - 1)) / 2
        for n, m, s in zip(ras.shape, shape, scale, strict=True)
    ]
    return (shape[0], shape[1], shape[2]), (scale[0], scale[1], scale[2]), (offset[0], offset[1], offset[2])


def _interpolate(
    volume: npt.NDArray[Any],
    shape: Triple,
    scale: tuple[float, ...],
    offset: tuple[float, ...],
    order: Literal[0, 1],
) -> npt.NDArray[Any]:
    if volume.shape == shape and all(s == 1.0 for s in scale) and all(o == 0.0 for o in offset):
        return volume
    return np.asarray(
        ndimage.affine_transform(
            volume,
            np.array(scale, dtype=np.float64),
            np.array(offset, dtype=np.float64),
            output_shape=shape,
            order=order,
            mode="nearest",
        )
    )


def _window(volume: Volume, window: HUWindow | PercentileWindow) -> Volume:
    low, high = window.low, window.high
    if isinstance(window, PercentileWindow):
        inside = volume[volume != 0]
        low, high = (float(v) for v in np.percentile(inside, [low, high])) if inside.size else (0.0, 1.0)
        high = high if high > low else low + 1.0
    scaled = (volume - np.float32(low)) * np.float32(1.0 / (high - low))
    return np.clip(scaled, 0.0, 1.0, out=scaled)


def _foreground_box(windowed: Volume) -> tuple[Triple, Triple]:
    """Corner and size of the box of voxels above 0; the whole volume when there are none."""
    corner, size = [], []
    inside = windowed > 0
    for axis in range(3):
        found = np.flatnonzero(inside.any(axis=tuple(a for a in range(3) if a != axis)))
        first, last = (int(found[0]), int(found[-1])) if found.size else (0, windowed.shape[axis] - 1)
        corner.append(first)
        size.append(last - first + 1)
    return (corner[0], corner[1], corner[2]), (size[0], size[1], size[2])
