"""Where windows lie, as MONAI's ``sliding_window_inference`` lays them, and which of them hold body."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage
from torch import Tensor

from ctune.config import HUWindow, Preprocessing
from ctune.data.preprocess import Triple
from ctune.model.features import window_corners
from ctune.types import Volume

BODY_HU = -300.0
"""Above it are fat and all that is denser; air and lungs are below, and lungs lie within the body."""
MARGIN_MM = 20.0
_COARSE_MM = 8.0
_PART = 0.05


@dataclass(frozen=True)
class Layout:
    """Windows over a volume (X, Y, Z) on the network's grid.

    size: of each window. before, after: planes of zeros around a volume that is smaller than a window. corners: of all
    windows, in voxels of the padded volume. held: those that hold body, the ones that run.
    """

    shape: Triple
    size: Triple
    before: Triple
    after: Triple
    corners: tuple[Triple, ...]
    held: tuple[Triple, ...]

    @property
    def padded(self) -> Triple:
        """Shape with the zeros around it."""
        x, y, z = (b + n + a for b, n, a in zip(self.before, self.shape, self.after, strict=True))
        return x, y, z


def layout(
    shape: Triple,
    size: Triple,
    overlap: float,
    body: Body | None = None,
    *,
    mirrored: int | None = None,
    shift: Triple = (0, 0, 0),
) -> Layout:
    """Windows of `size` over a volume of `shape`; those without any of `body` are not held.

    A volume smaller than a window is padded by zeros, half on either side, as MONAI does. mirrored: an axis; the windows
    are those of the volume mirrored along it, where they lie in the volume as it is. shift: the volume lies so many voxels
    an axis further in the windows, zeros before it; less than 0 the other way, with one more window before it. A volume that a
    window holds whole goes as far as it can in it, and is cut by none.
    """
    missing = [max(0, s - n) for s, n in zip(size, shape, strict=True)]
    before = [_zeros_before(m, d, s) for m, d, s in zip(missing, shift, size, strict=True)]
    after = [max(0, s - n - b) for s, n, b in zip(size, shape, before, strict=True)]
    padded = [b + n + a for b, n, a in zip(before, shape, after, strict=True)]
    corners = window_corners(_triple(padded), size, overlap)
    if mirrored is not None:
        before[mirrored], after[mirrored] = after[mirrored], before[mirrored]
        corners = [
            _triple([padded[a] - size[a] - c if a == mirrored else c for a, c in enumerate(corner)])
            for corner in corners
        ]
    held = [c for c in corners if body is None or body.meets(np.subtract(c, before), size)]
    return Layout(shape, size, _triple(before), _triple(after), tuple(corners), tuple(held))


def _zeros_before(missing: int, shift: int, size: int) -> int:
    within = min(max(missing // 2 + shift, 0), missing)
    # Where there is no room that way, the image lies elsewhere only across two windows.
    return within if within != missing // 2 else (missing // 2 + shift) % size


@dataclass(frozen=True, eq=False)
class Body:
    """Where there is body, coarsely: found (x, y, z) bool, a voxel of it covers `step` voxels of the volume an axis."""

    found: npt.NDArray[np.bool_]
    step: Triple

    def meets(self, corner: npt.NDArray[np.int_], size: Sequence[int]) -> bool:
        """Whether a box of the volume, in voxels, holds any body."""
        box = tuple(
            slice(max(0, int(c)) // step, max(0, -(-(int(c) + s) // step)))
            for c, s, step in zip(corner, size, self.step, strict=True)
        )
        return bool(self.found[box].any())


def find_body(image: Volume, spacing_mm: Sequence[float], settings: Preprocessing) -> Body | None:
    """The body in an image (X, Y, Z) as the network sees it, or None where intensities do not tell (no HU window).

    At about 8 mm: the mean above -300 HU (or the window's low end), the parts of at least a twentieth of the largest (a
    table top or a mark beside the patient is less, an arm or a leg is more), and 20 mm around them. Air alone: all False.
    """
    window = settings.window
    if not isinstance(window, HUWindow):
        return None
    level = max(0.0, (BODY_HU - window.low) / (window.high - window.low))
    step = _triple(
        [min(n, max(1, round(_COARSE_MM / s))) for n, s in zip(image.shape, spacing_mm, strict=True)]
    )
    coarse = torch.nn.functional.avg_pool3d(torch.from_numpy(image)[None], step, ceil_mode=True)[0].numpy()
    parts, _ = ndimage.label(coarse > level)
    sizes = np.bincount(parts.ravel())
    sizes[0] = 0
    body = (sizes >= max(1, _PART * sizes.max()))[parts]
    around = [2 * math.ceil(MARGIN_MM / (s * n)) + 1 for s, n in zip(spacing_mm, step, strict=True)]
    return Body(np.asarray(ndimage.maximum_filter(body, size=around, mode="constant")), step)


@lru_cache(maxsize=8)
def gaussian(size: Triple) -> Tensor:
    """(x, y, z) float32 weights of a window, MONAI's: exp(-d^2 / 2 s^2), s an eighth of each side, at least 0.001.

    Not taken from MONAI itself, whose import takes longer than the windows of a small CT.
    """
    weights = torch.ones(())
    for side in size:
        places = torch.arange(side, dtype=torch.float32) - (side - 1) / 2
        line = torch.exp(places**2 / (-2 * (side * 0.125) ** 2))
        weights = weights.unsqueeze(-1) * line
    return weights.clamp_(min=max(float(weights.min()), 1e-3))


def _triple(values: Sequence[int]) -> Triple:
    x, y, z = values
    return x, y, z
