"""Blend windows along one axis of the network's grid, and let go of what nobody needs any more.

A voxel is the mean of the logits of the windows over it, weighted by a Gaussian, then a sigmoid: what MONAI's
``sliding_window_inference`` gives, in the memory of one window's depth. A voxel in no held window is air: probability 0.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby, pairwise

import numpy as np
import torch
from torch import Tensor

from ctune.inference.clock import Clock
from ctune.inference.runtime import Runtime, versions_of
from ctune.inference.windows import Layout, gaussian
from ctune.types import Volume


class Slabs:
    """Probabilities of one image, read plane by plane along `axis`, ascending, or descending when `backwards`.

    image: (X, Y, Z) float32 in [0, 1]. flip: an axis along which the network sees each window mirrored (its logits are
    mirrored back); `layout` must then be that of the mirrored volume.
    """

    def __init__(
        self,
        runtime: Runtime,
        image: Volume,
        layout: Layout,
        *,
        axis: int,
        backwards: bool,
        batch: int,
        flip: int | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._runtime, self._layout, self._clock = runtime, layout, clock or Clock()
        self._axis, self._backwards, self._flip, self._batch = axis, backwards, flip, batch
        pads = [
            n for b, a in zip(reversed(layout.before), reversed(layout.after), strict=True) for n in (b, a)
        ]
        plain = torch.from_numpy(image)
        with self._clock("accumulate"):
            self._image = torch.nn.functional.pad(plain, pads) if any(pads) else plain
        self._weight = gaussian(layout.size).to(runtime.device)
        # Made once: a window's depth and the step to the next, so that planes that stay are moved and not copied anew.
        with self._clock("accumulate"):
            self._sums = self._zeros(len(runtime.classes) * versions_of(runtime), self._depth())
            self._weights = self._zeros(1, self._depth())[0]
        # Planes are counted in the order in which they are read: `_start` is the first in memory and `_stop` the one after
        # the last that holds anything, those before `_ready` are probabilities, those before `_final` get no more windows.
        self._start = self._ready = self._final = self._stop = 0
        self._offset = (layout.after if backwards else layout.before)[axis]
        # A generator that waits holds this object, which holds it: its memory would stay until the next look for garbage.
        self._layers = iter(list(self._in_order()))

    def read(self, first: int, stop: int) -> Tensor:
        """Planes `first` up to `stop`, counted in reading order: (versions x K, stop - first, A, B) float32, `axis` first.

        A view that the next call may change. What lies before `first` is let go: ask in ascending order.
        """
        first, stop = first + self._offset, stop + self._offset
        while self._final < stop:
            at, corners = next(self._layers)
            with self._clock("accumulate"):
                self._make_room(min(first, at), at + self._layout.size[self._axis])
            while corners:
                batch = corners[: self._batch]
                if self._run(batch, at):
                    corners = corners[len(batch) :]
            self._final = self._next_layer(at)
        self._finish()
        return self._inside(self._sums)[:, first - self._start : stop - self._start]

    def _inside(self, planes: Tensor) -> Tensor:
        """(..., A, B) without the zeros around the volume."""
        a, b = (
            slice(before, before + n)
            for axis, (before, n) in enumerate(zip(self._layout.before, self._layout.shape, strict=True))
            if axis != self._axis
        )
        return planes[..., a, b]

    def _in_order(self) -> Iterator[tuple[int, list[tuple[int, int, int]]]]:
        """(first plane in reading order, held windows) of each layer of windows, in reading order."""
        held = set(self._layout.held)
        ordered = sorted(self._layout.corners, key=lambda c: (self._plane(c), c))
        for at, layer in groupby(ordered, key=self._plane):
            yield at, [c for c in layer if c in held]

    def _plane(self, corner: tuple[int, int, int]) -> int:
        at = corner[self._axis]
        return self._layout.padded[self._axis] - self._layout.size[self._axis] - at if self._backwards else at

    def _next_layer(self, at: int) -> int:
        later = [p for c in self._layout.corners if (p := self._plane(c)) > at]
        return min(later, default=self._layout.padded[self._axis])

    def _depth(self) -> int:
        starts = sorted({self._plane(corner) for corner in self._layout.corners})
        step = max((after - at for at, after in pairwise(starts)), default=0)
        return min(self._layout.padded[self._axis], self._layout.size[self._axis] + step)

    def _make_room(self, first: int, stop: int) -> None:
        """Have room for planes up to `stop`; those before `first` may go for it."""
        if stop - self._start > self._weights.shape[0]:
            kept, offset = max(0, self._stop - first), first - self._start
            planes = max(stop - first, self._weights.shape[0])
            self._sums = self._moved(self._sums, offset, kept, planes)
            self._weights = self._moved(self._weights[None], offset, kept, planes)[0]
            self._start, self._ready = first, max(self._ready, first)
        self._stop = max(self._stop, stop)

    def _moved(self, found: Tensor, offset: int, kept: int, planes: int) -> Tensor:
        """`kept` planes from `offset` on come first, zeros after them up to `planes`; in place where there is room."""
        out = found if planes == found.shape[1] else self._zeros(len(found), planes)
        for to, one in zip(out, found, strict=True):
            to[:kept] = one[offset : offset + kept].clone()
            to[kept:] = 0
        return out

    def _zeros(self, channels: int, planes: int) -> Tensor:
        """(channels, planes, A, B) with `axis` first, in memory in the order of the network's axes, as logits come."""
        shape = [planes if a == self._axis else n for a, n in enumerate(self._layout.padded)]
        device = self._runtime.device
        # NumPy asks the system for zeros, and none are written before a window comes.
        on_cpu = torch.from_numpy(np.zeros((channels, *shape), np.float32)) if device.type == "cpu" else None
        zeros = torch.zeros((channels, *shape), device=device) if on_cpu is None else on_cpu
        return zeros.movedim(1 + self._axis, 1)

    def _run(self, corners: list[tuple[int, int, int]], at: int) -> bool:
        """Run a batch of windows of one layer, and add their weighted logits; False when they do not fit into memory.

        Then nothing was added, and batches are half as large from now on.
        """
        boxes = [
            tuple(slice(c, c + s) for c, s in zip(corner, self._layout.size, strict=True))
            for corner in corners
        ]
        with self._clock("accumulate"):
            found = iter(self._runtime.logits(self._windows(boxes)))
        try:
            with self._clock("network"):
                logits = next(found, None)
        except torch.OutOfMemoryError:
            if len(corners) == 1:
                raise
            self._batch = -(-len(corners) // 2)
            return False
        weight, places = self._turned(self._weight), [self._place(box, at) for box in boxes]
        for sums in self._sums:
            assert logits is not None
            with self._clock("accumulate"):
                if self._flip is not None:
                    logits = logits.flip(1 + self._flip)
                for place, window in zip(places, logits, strict=True):
                    sums[place].addcmul_(self._turned(window), weight)
            with self._clock("network"):
                logits = next(found, None)
        with self._clock("accumulate"):
            for place in places:
                self._weights[place] += weight
        return True

    def _windows(self, boxes: list[tuple[slice, ...]]) -> Tensor:
        """(N, 1, x, y, z) on the runtime's device, mirrored where the network is to see them so."""
        windows = torch.stack([self._image[box] for box in boxes])[:, None].to(self._runtime.device)
        return windows if self._flip is None else windows.flip(2 + self._flip)

    def _place(self, box: tuple[slice, ...], at: int) -> tuple[slice, ...]:
        """Where a window of the layer that begins with plane `at` lies in the sums."""
        first = at - self._start
        across = [part for axis, part in enumerate(box) if axis != self._axis]
        return (slice(first, first + self._layout.size[self._axis]), *across)

    def _turned(self, window: Tensor) -> Tensor:
        """(x, y, z) -> `axis` first, in reading order."""
        turned = window.movedim(self._axis, 0)
        return turned.flip(0) if self._backwards else turned

    def _finish(self) -> None:
        """Make probabilities of all planes that get no more windows, in place."""
        if self._ready >= self._final:
            return
        fresh = slice(self._ready - self._start, self._final - self._start)
        with self._clock("accumulate"):
            weights = self._inside(self._weights[fresh])
            outside = weights == 0
            some = bool(outside.any())
        for sums in self._inside(self._sums[:, fresh]):
            with self._clock("accumulate"):
                sums.div_(weights)
            # What follows the mean of logits is the way back, here as in a pipeline of transforms.
            with self._clock("invert"):
                sums.sigmoid_()
                if some:
                    sums.masked_fill_(outside, 0.0)
        self._ready = self._final
