"""The features of a frozen base: the same window gives the same features for ever, so compute them once.

A view is one window of one prepared case as the base sees it, as it is or turned and shifted in intensity. ``FeatureCache``
keeps its features as float16 on disk (``model.feature_files``), and in memory or on the GPU where they fit.
``LiveFeatures`` gives the same without keeping anything: a pass of the base each time, as the paper does it.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ctune.errors import ModelError
from ctune.model.base import Base, Features
from ctune.model.feature_files import FeatureFiles

Corner = tuple[int, int, int]
ReadImage = Callable[[], np.ndarray]


@dataclass(frozen=True)
class View:
    """One window of one case. key: names the prepared case (CT, preprocessing); corner, size: voxels, network grid.

    turns: quarter turns about the body's axis. shift: added to the intensity. Never a flip: left stays left.
    """

    key: str
    corner: Corner
    size: Corner
    turns: int = 0
    shift: float = 0.0

    def of_image(self, volume: np.ndarray) -> np.ndarray:
        """What the base sees of (X, Y, Z) float32."""
        return self._turned(cut(volume, self.corner, self.size, 0.0)) + np.float32(self.shift)

    def of_labels(self, mask: np.ndarray, fill: int) -> np.ndarray:
        """The labels of the same voxels, uint8; beyond the volume `fill`."""
        return self._turned(cut(mask, self.corner, self.size, fill))

    def _turned(self, window: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(np.rot90(window, self.turns, axes=(0, 1))) if self.turns else window


def augmented(plain: View, number: int, seed: int, shift: float) -> View:
    """View `number` of a window: 0 is as it is; the others are turned, and shifted by up to `shift`, by seed and case.

    The published augmentation, drawn once. A window that is not square in the axial plane is not turned.
    """
    if number == 0:
        return plain
    about = json.dumps([seed, number, plain.key, plain.corner, plain.size])
    rng = np.random.default_rng(int.from_bytes(hashlib.sha256(about.encode()).digest()[:8], "big"))
    turns = int(rng.integers(4)) if plain.size[0] == plain.size[1] else 0
    return View(plain.key, plain.corner, plain.size, turns, float(np.float32(rng.uniform(-shift, shift))))


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


# The features of one window -------------------------------------------------------------------------------------------


class WindowFeatures:
    """The features of one window, read in sub-patches. stride: voxels to one voxel of the coarsest features, by axis."""

    def __init__(self, size: Corner, stride: Corner) -> None:
        self.size, self.stride = size, stride

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
        raise NotImplementedError


class KeptFeatures(WindowFeatures):
    """Features that were computed before: float16 tensors or slices of a file, by name."""

    def __init__(self, parts: Mapping[str, Any], size: Corner, file: Any = None) -> None:
        self._parts, self._file = parts, file
        self._shapes = {
            n: tuple(p.shape if isinstance(p, Tensor) else p.get_shape()) for n, p in parts.items()
        }
        spatial = [shape[2:] for shape in self._shapes.values() if len(shape) == 5]
        x, y, z = (max(whole // s[axis] for s in spatial) for axis, whole in enumerate(size))
        super().__init__(size, (x, y, z))

    def read(self, corner: Corner, size: Corner) -> Features:
        out = {}
        for name, part in self._parts.items():
            shape = self._shapes[name]
            if len(shape) == 5:
                steps = [whole // n for whole, n in zip(self.size, shape[2:], strict=True)]
                x, y, z = (
                    slice(c // step, (c + s) // step) for c, s, step in zip(corner, size, steps, strict=True)
                )
                out[name] = part[:, :, x, y, z].float()
            else:
                out[name] = part[:].float()
        return Features.of(out)


class PassedFeatures(WindowFeatures):
    """Features that a pass of the base gives, a new one at each reading. half: rounded as the cache rounds them."""

    def __init__(
        self, base: Base, view: View, image: ReadImage, device: torch.device, half: bool = False
    ) -> None:
        super().__init__(view.size, (base.stride,) * 3)
        self._base, self._image, self._device, self._half = base, image, device, half

    def read(self, corner: Corner, size: Corner) -> Features:
        whole = run_base(self._base, self._image(), self._device)
        part = whole.crop([slice(c, c + s) for c, s in zip(corner, size, strict=True)])
        return part.apply(lambda t: t.half().float()) if self._half else part


def run_base(base: Base, window: np.ndarray, device: torch.device) -> Features:
    """One pass of the base over a window (X, Y, Z) float32, without gradients."""
    # no_grad, not inference_mode: what a head multiplies its weights with must be usable in its backward pass.
    with torch.no_grad():
        batch = torch.from_numpy(np.ascontiguousarray(window, dtype=np.float32))[None, None]
        features: Features = base(batch.to(device))
    return features


def stack(features: Sequence[Features]) -> Features:
    """One batch of several single features of the same size."""
    parts = [f.tensors() for f in features]
    return Features.of({name: torch.cat([p[name] for p in parts]) for name in parts[0]})


# Where features come from ---------------------------------------------------------------------------------------------


class FeatureSource(Protocol):
    """Gives the features of views under one frozen base."""

    def open(self, view: View, image: ReadImage) -> WindowFeatures:
        """The features of a view; `image()` gives what the base sees, (X, Y, Z) float32, when it must run."""
        ...


class LiveFeatures:
    """Nothing is kept: each reading is a pass of the base, in float32."""

    def __init__(self, base: Base, device: torch.device) -> None:
        self.base, self.device = base, device

    def open(self, view: View, image: ReadImage) -> WindowFeatures:
        """See ``FeatureSource``."""
        return PassedFeatures(self.base, view, image, self.device)


class FeatureCache:
    """Features of windows under one frozen base, computed on first use and kept below `folder`.

    Kinds of device (CPU, GPU) have folders apart: each tunes from its own features, wherever the folder was before.
    limit_gb: bound on all files below `folder`, those of other bases too (10^9 bytes); the least recently used go first, at
    once when the cache is opened with a lower bound. A window that finds no room beside those that are open is computed again at each reading, rounded as if it were kept.
    memory_gb: how much is also held in memory, or on the GPU, as float16; None takes what ``memory_bound`` says.
    pin: False where windows are read seldom, as in validation: nothing of them stays open, and any may be evicted.
    """

    def __init__(
        self,
        folder: Path,
        base: Base,
        base_fingerprint: str,
        device: torch.device,
        *,
        limit_gb: float = 20.0,
        memory_gb: float | None = None,
        pin: bool = True,
    ) -> None:
        # Kinds of device round differently: features of one would quietly change what is tuned on another.
        name = f"{base_fingerprint[:16]}-{device.type}"
        self.files = FeatureFiles(folder, name, int(limit_gb * 1e9), pin=pin)
        self.base, self.device, self._lock = base, device, threading.Lock()
        memory = memory_bound(device) if memory_gb is None else int(memory_gb * 1e9)
        self._room = memory if pin else 0
        self._opened: dict[View, WindowFeatures] | None = {} if pin else None

    def path(self, view: View) -> Path:
        """Where the features of a view lie."""
        name = json.dumps([view.key, view.corner, view.size, view.turns, view.shift])
        return self.files.folder / f"{hashlib.sha256(name.encode()).hexdigest()[:32]}.safetensors"

    def open(self, view: View, image: ReadImage) -> WindowFeatures:
        """See ``FeatureSource``. A file is checked against its checksum when it is opened first, and made again if damaged."""
        with self._lock:
            if self._opened is None:
                return self._open(view, image)
            if view not in self._opened:
                self._opened[view] = self._open(view, image)
            return self._opened[view]

    def _open(self, view: View, image: ReadImage) -> WindowFeatures:
        path = self.path(view)
        if not self.files.use(path):
            features = run_base(self.base, image(), self.device)
            tensors = {k: v.half().cpu().contiguous() for k, v in features.tensors().items()}
            if not self.files.keep(path, tensors):
                return PassedFeatures(self.base, view, image, self.device, half=True)
        try:
            return self._kept(path, view.size)
        except (OSError, SafetensorError):  # another process has just evicted it
            return PassedFeatures(self.base, view, image, self.device, half=True)

    def _kept(self, path: Path, size: Corner) -> KeptFeatures:
        opened: Any = safe_open
        file, nbytes = opened(path, framework="pt"), path.stat().st_size
        names = sorted(file.keys())
        if nbytes <= self._room:
            self._room -= nbytes
            return KeptFeatures({n: file.get_tensor(n).to(self.device) for n in names}, size)
        return KeptFeatures({n: file.get_slice(n) for n in names}, size, file)


def memory_bound(device: torch.device) -> int:
    """Bytes of features that are held in memory: half of what is free on a GPU, nothing on a CPU.

    On a CPU the memory map is as fast (docs/method.md), and memory follows a sub-patch.
    """
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free // 2
    return 0
