"""Shapes in space: functions of positions in millimetres that are below 1 inside, with a box that holds the inside.

The box is what makes large volumes quick: a shape is only asked about the voxels near it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

Field: TypeAlias = npt.NDArray[np.float32]
"""(X, Y, Z) float32."""
Positions: TypeAlias = tuple[Field, Field, Field]
"""x, y and z in mm of every voxel."""
Point: TypeAlias = tuple[float, float, float]
Vector: TypeAlias = npt.NDArray[np.float64]


class Shape(Protocol):
    """Below 1 inside; about the square of the distance from the middle over that of the surface."""

    @property
    def box(self) -> tuple[Vector, Vector]:
        """Lowest and highest corner in mm; nothing outside it is inside the shape."""
        ...

    def __call__(self, at: Positions) -> Field: ...


@dataclass(frozen=True, eq=False)
class Ellipsoid:
    """turn: (3, 3) rotation, rows are the ellipsoid's own axes; radii in mm along them."""

    centre: Vector
    radii: Vector
    turn: Vector

    @property
    def box(self) -> tuple[Vector, Vector]:
        half = np.sqrt(((self.turn * self.radii[:, None]) ** 2).sum(axis=0))
        return self.centre - half, self.centre + half

    def __call__(self, at: Positions) -> Field:
        x, y, z = (at[i] - np.float32(self.centre[i]) for i in range(3))
        value = np.zeros_like(x)
        for row in (self.turn / self.radii[:, None]).astype(np.float32):
            value += np.square(row[0] * x + row[1] * y + row[2] * z)
        return value


@dataclass(frozen=True, eq=False)
class Tube:
    """A chain of capsules through `nodes` (N, 3) whose radius goes from one node's to the next's."""

    nodes: Vector
    radii: Vector

    @property
    def box(self) -> tuple[Vector, Vector]:
        r = self.radii[:, None]
        return (self.nodes - r).min(axis=0), (self.nodes + r).max(axis=0)

    def __call__(self, at: Positions) -> Field:
        value = self._capsule(at, 0)
        for i in range(1, len(self.nodes) - 1):
            np.minimum(value, self._capsule(at, i), out=value)
        return value

    def _capsule(self, at: Positions, i: int) -> Field:
        start = self.nodes[i].astype(np.float32)
        axis = (self.nodes[i + 1] - self.nodes[i]).astype(np.float32)
        r0, r1 = self.radii[i : i + 2].astype(np.float32)
        x, y, z = (at[j] - start[j] for j in range(3))
        along = np.clip((x * axis[0] + y * axis[1] + z * axis[2]) / np.float32(np.square(axis).sum()), 0, 1)
        value = np.square(x - along * axis[0])
        value += np.square(y - along * axis[1])
        value += np.square(z - along * axis[2])
        value /= np.square(r0 + along * (r1 - r0))
        return np.asarray(value, dtype=np.float32)


@dataclass(frozen=True, eq=False)
class Union:
    """What lies in any of the parts."""

    parts: Sequence[Shape]

    @property
    def box(self) -> tuple[Vector, Vector]:
        boxes = [part.box for part in self.parts]
        return np.min([b[0] for b in boxes], axis=0), np.max([b[1] for b in boxes], axis=0)

    def __call__(self, at: Positions) -> Field:
        value = self.parts[0](at)
        for part in self.parts[1:]:
            np.minimum(value, part(at), out=value)
        return value


@dataclass(frozen=True, eq=False)
class Cut:
    """`whole` without what lies beyond a plane: normal . position > offset_mm."""

    whole: Shape
    normal: Vector
    offset_mm: float

    @property
    def box(self) -> tuple[Vector, Vector]:
        return self.whole.box

    def __call__(self, at: Positions) -> Field:
        n = self.normal.astype(np.float32)
        beyond = n[0] * at[0] + n[1] * at[1] + n[2] * at[2] - np.float32(self.offset_mm)
        # 25 mm: how soft the edge is in the value; where the surface lies does not depend on it.
        return np.asarray(np.maximum(self.whole(at), 1 + beyond / np.float32(25)), dtype=np.float32)


def rotation(angles: Vector) -> Vector:
    """(3, 3) rotation by `angles` (radians) about x, y and z."""
    (ca, cb, cc), (sa, sb, sc) = np.cos(angles), np.sin(angles)
    rx = np.array([[1, 0, 0], [0, ca, -sa], [0, sa, ca]])
    ry = np.array([[cb, 0, sb], [0, 1, 0], [-sb, 0, cb]])
    rz = np.array([[cc, -sc, 0], [sc, cc, 0], [0, 0, 1]])
    return np.asarray(rx @ ry @ rz)
