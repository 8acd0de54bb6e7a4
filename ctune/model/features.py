"""The frozen-feature cache: a frozen base gives the same features for the same window for ever, so compute them once.

A view is one window of one prepared case as the base sees it. Its features are kept as one safetensors file of float16
tensors, named after what they depend on (base fingerprint, case and preprocessing, window), and read by memory map:
a sub-patch touches only its own bytes. A file that cannot be read is computed again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from ctune.data.files import write_atomically
from ctune.errors import ModelError
from ctune.model.base import Base, Features

Corner = tuple[int, int, int]


@dataclass(frozen=True)
class View:
    """One window of one case. key: names the prepared case (CT, preprocessing); corner, size: voxels, network grid."""

    key: str
    corner: Corner
    size: Corner


def window_corners(shape: Corner, size: Corner, overlap: float) -> list[Corner]:
    """Corners of the windows that cover a volume, as the sliding window of prediction lays them.

    >>> window_corners((48, 40, 40), (40, 40, 40), 0.25)
    [(0, 0, 0), (8, 0, 0)]
    """
    axes = []
    for length, window in zip(shape, size, strict=True):
        last = max(0, length - window)
        step = max(1, int(window * (1 - overlap)))
        axes.append(sorted({min(start, last) for start in range(0, last + step, step)}))
    return [(x, y, z) for x in axes[0] for y in axes[1] for z in axes[2]]


def cut(volume: np.ndarray, corner: Corner, size: Corner, fill: float) -> np.ndarray:
    """The window of `size` at `corner` of (X, Y, Z); voxels beyond the volume's end are `fill`."""
    window = volume[tuple(slice(c, c + s) for c, s in zip(corner, size, strict=True))]
    missing = [(0, s - n) for s, n in zip(size, window.shape, strict=True)]
    return (
        np.pad(window, missing, constant_values=fill)
        if any(after for _, after in missing)
        else np.array(window)
    )


class FeatureCache:
    """Features of windows under one frozen base, computed on first use and kept in `folder`."""

    def __init__(self, folder: Path, base: Base, base_fingerprint: str, device: torch.device) -> None:
        self.folder, self.base, self.device = folder / base_fingerprint[:16], base, device
        self.folder.mkdir(parents=True, exist_ok=True)

    def path(self, view: View) -> Path:
        """Where the features of a view lie."""
        name = json.dumps([view.key, view.corner, view.size])
        return self.folder / f"{hashlib.sha256(name.encode()).hexdigest()[:32]}.safetensors"

    def open(self, view: View, image: Callable[[], np.ndarray]) -> CachedView:
        """The features of a view; `image()` gives its window (X, Y, Z) float32 when they must be computed."""
        path = self.path(view)
        if path.exists():
            try:
                return CachedView(path, view.size)
            except (SafetensorError, OSError):
                path.unlink(missing_ok=True)
        with torch.inference_mode():
            window = torch.from_numpy(np.ascontiguousarray(image(), dtype=np.float32))[None, None]
            features = self.base(window.to(self.device))
        with write_atomically(path) as temporary:
            save_file({k: v.half().cpu().contiguous() for k, v in features.tensors().items()}, temporary)
        return CachedView(path, view.size)


class CachedView:
    """The features of one window on disk, read in sub-patches."""

    def __init__(self, path: Path, size: Corner) -> None:
        self.size = size
        opened: Any = safe_open
        self._file = opened(path, framework="pt")
        self._names = sorted(self._file.keys())

    @property
    def stride(self) -> Corner:
        """Voxels of the window to one voxel of the coarsest features, along each axis."""
        shapes = [self._file.get_slice(name).get_shape() for name in self._names]
        spatial = [s[2:] for s in shapes if len(s) == 5]
        x, y, z = (max(whole // s[axis] for s in spatial) for axis, whole in enumerate(self.size))
        return x, y, z

    def aligned(self, corner: Sequence[int] | np.ndarray, size: Corner) -> Corner:
        """The corner nearest to `corner` that the stride allows, with the sub-patch inside the window.

        Raises ModelError when the sub-patch is larger than the window or not a multiple of the stride.
        """
        bad = [
            s for s, step, whole in zip(size, self.stride, self.size, strict=True) if s % step or s > whole
        ]
        if bad:
            raise ModelError(
                f"expected tune.patch_size in multiples of {self.stride} up to {self.size} for this base, got {size}; "
                "change it in ctune.toml"
            )
        x, y, z = (
            min(max(0, round(float(c) / step) * step), (whole - s) // step * step)
            for c, s, step, whole in zip(corner, size, self.stride, self.size, strict=True)
        )
        return x, y, z

    def read(self, corner: Corner, size: Corner) -> Features:
        """Features of the sub-patch at `corner`, float32 with N = 1; corner and size in voxels of the window.

        Both must be multiples of the base's stride. Features without a spatial extent come whole.
        """
        out = {}
        for name in self._names:
            part = self._file.get_slice(name)
            shape = part.get_shape()
            if len(shape) == 5:
                steps = [whole // n for whole, n in zip(self.size, shape[2:], strict=True)]
                x, y, z = (
                    slice(c // step, (c + s) // step) for c, s, step in zip(corner, size, steps, strict=True)
                )
                out[name] = part[:, :, x, y, z].float()
            else:
                out[name] = part[:].float()
        return Features.of(out)


def stack(features: Sequence[Features]) -> Features:
    """One batch of several single features of the same size."""
    parts = [f.tensors() for f in features]
    return Features.of({name: torch.cat([p[name] for p in parts]) for name in parts[0]})
