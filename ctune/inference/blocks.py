"""From slabs on the network's grid to blocks of whole planes on the CT's own, one class at a time.

Planes run along the CT's last axis, the slowest in a NIfTI file: blocks come in the order in which a file holds them. Only
the box in which a class can be above a level is interpolated: between voxels at or below it, linear gives nothing above it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from ctune.data.preprocess import Frame, Taps
from ctune.inference.clock import Clock
from ctune.inference.slabs import Slabs

BLOCK_VOXELS = 2**22
"""About how many voxels of the CT a block holds."""


@dataclass(frozen=True, eq=False)
class Block:
    """Values of one class in the CT's planes z to z + planes.

    values: (planes, y, x) float32 in [0, 1] on the runtime's device, the box that begins at row `y` and column `x`; None
    when there is nothing above the level. Outside the box nothing is.
    """

    channel: int
    kind: Literal["probability", "inconsistency"]
    z: int
    planes: int
    values: Tensor | None = None
    y: int = 0
    x: int = 0


class Inverse:
    """The way from the network's grid to the CT's for blocks of planes; ``preprocess.to_source`` says what it is."""

    def __init__(self, frame: Frame, device: torch.device) -> None:
        self.frame, self._device = frame, device
        taps = [frame.taps(axis) for axis in range(3)]
        if self.backwards:
            taps[2] = _counted_down(taps[2], frame.network.shape[self.axis] - 1)
        self._x, self._y, self._z = taps

    @property
    def axis(self) -> int:
        """The network's axis along the CT's last: the one to read slabs along."""
        return self.frame.network_axes[2]

    @property
    def backwards(self) -> bool:
        """Whether slabs are to be read from the network's last plane to its first."""
        return self.frame.flipped[2]

    def starts(self) -> range:
        """First planes of the blocks, one after the other."""
        x, y, z = self.frame.source.shape
        return range(0, z, max(1, BLOCK_VOXELS // (x * y)))

    def needed(self, z: int, stop: int) -> tuple[int, int]:
        """Planes of the slabs, first and one after the last, that the CT's planes z up to stop come from."""
        first, second = self._z.first[z:stop], self._z.second[z:stop]
        return int(np.minimum(first, second).min()), int(np.maximum(first, second).max()) + 1

    def block(
        self, planes: Tensor, first: int, z: int, stop: int, above: float
    ) -> tuple[Tensor, int, int] | None:
        """Interpolate one class: slab planes from `first` on, (planes, A, B) -> (stop - z, y, x), row and column.

        None when no voxel of them is above `above`.
        """
        # The axes left of a slab keep the network's order; rows are the CT's second axis, columns its first.
        turned = self.frame.network_axes[0] > self.frame.network_axes[1]
        found = planes if turned else planes.transpose(1, 2)
        hot = (found > above).any(dim=0)
        if not bool(hot.any()):
            return None
        (y0, y1), y_taps = _touching(self._y, hot.any(dim=1).cpu().numpy())
        (x0, x1), x_taps = _touching(self._x, hot.any(dim=0).cpu().numpy())
        found = found[:, y0:y1, x0:x1]
        for axis, taps, start, chosen in (
            (0, self._z, first, slice(z, stop)),
            (2, self._x, x0, x_taps),
            (1, self._y, y0, y_taps),
        ):
            found = self._interpolated(found, axis, taps, start, chosen)
        return found.clamp_(max=1.0), y_taps.start, x_taps.start

    def _interpolated(self, values: Tensor, axis: int, taps: Taps, start: int, chosen: slice) -> Tensor:
        shape = [-1 if a == axis else 1 for a in range(3)]
        out: Tensor | None = None
        for indices, weights in zip((taps.first, taps.second), taps.weights, strict=True):
            # A weight of 0 may stand at an index outside the box.
            index = np.clip(indices[chosen] - start, 0, values.shape[axis] - 1)
            part = values.index_select(axis, torch.from_numpy(index).to(self._device))
            weight = torch.from_numpy(weights[chosen]).to(self._device).view(shape)
            if out is None:
                out = part.mul_(weight)
            elif weights[chosen].any():
                out.addcmul_(part, weight)
        assert out is not None
        return out


def blocks(
    inverse: Inverse, plain: Slabs, mirrored: Sequence[Slabs], classes: int, above: float, clock: Clock
) -> Iterator[Block]:
    """Every block of every class, planes ascending, classes within them; with several members also their inconsistency.

    Members are the plain slabs and the mirrored ones, and each once more for every earlier version of the heads.
    Inconsistency is the population standard deviation over them; probabilities are those of the first.
    """
    depth = inverse.frame.source.shape[2]
    starts = inverse.starts()
    for z in starts:
        stop = min(depth, z + starts.step)
        first, after = inverse.needed(z, stop)
        read = [slabs.read(first, after) for slabs in (plain, *mirrored)]
        members = [part[at : at + classes] for part in read for at in range(0, len(part), classes)]
        for k in range(classes):
            with clock("invert"):
                yield _block(inverse, members[0][k], "probability", k, (first, z, stop), above)
            if len(members) > 1:
                with clock("invert"):
                    spread = _deviation([member[k] for member in members])
                    yield _block(inverse, spread, "inconsistency", k, (first, z, stop), above)


def _block(
    inverse: Inverse,
    planes: Tensor,
    kind: Literal["probability", "inconsistency"],
    channel: int,
    where: tuple[int, int, int],
    above: float,
) -> Block:
    first, z, stop = where
    found = inverse.block(planes, first, z, stop, above)
    if found is None:
        return Block(channel, kind, z, stop - z)
    return Block(channel, kind, z, stop - z, *found)


def _deviation(members: Sequence[Tensor]) -> Tensor:
    # Sums of differences to the plain pass, where single precision does not cancel.
    total, squares = torch.zeros_like(members[0]), torch.zeros_like(members[0])
    for member in members[1:]:
        difference = member - members[0]
        total += difference
        squares += difference**2
    count = len(members)
    return (squares / count - (total / count) ** 2).clamp_(min=0.0).sqrt_()


def _counted_down(taps: Taps, last: int) -> Taps:
    return Taps(last - taps.first, last - taps.second, taps.weights)


def _touching(taps: Taps, hot: np.ndarray) -> tuple[tuple[int, int], slice]:
    """The CT's voxels that any hot network voxel reaches, and the range of network voxels that they come from."""
    found = np.flatnonzero(hot)
    low, high = int(found[0]), int(found[-1])
    reached = np.zeros(len(taps.first), dtype=bool)
    for indices, weights in zip((taps.first, taps.second), taps.weights, strict=True):
        reached |= (indices >= low) & (indices <= high) & (weights > 0)
    voxels = np.flatnonzero(reached)
    chosen = slice(int(voxels[0]), int(voxels[-1]) + 1) if len(voxels) else slice(0, 0)
    # A voxel beside a hot one is not hot itself, but has its weight.
    return (max(0, low - 1), min(len(hot), high + 2)), chosen
