"""Where everything lies: an abdomen of ellipsoids and tubes in millimetres, varied by case.

World axes are those of NIfTI: x towards the patient's right, y to the front, z upwards; 0 is the middle of the body.
A shape is a function of positions that is below 1 inside.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Positions: TypeAlias = tuple[npt.NDArray[np.float32], npt.NDArray[np.float32], npt.NDArray[np.float32]]
Shape: TypeAlias = Callable[[Positions], npt.NDArray[np.float32]]

BODY_MM = (150.0, 108.0)
"""Half width and half depth of the body."""


@dataclass(frozen=True, eq=False)
class Anatomy:
    """organs: {class: shape}, painted in this order. bowel: loops, each with the level above which it holds gas."""

    organs: Mapping[str, Shape]
    bowel: Sequence[tuple[Shape, float]]
    spine: Shape
    fat_mm: float
    stomach_gas_y: float | None


def draw_anatomy(rng: np.random.Generator) -> Anatomy:
    """A patient. The gall bladder is missing in one of seven; the stomach holds gas in two of five."""
    organs: dict[str, Shape] = {
        "liver": _union(
            _ellipsoid(rng, (66, 8, 52), (72, 70, 62), jitter=7, scale=0.12),
            _ellipsoid(rng, (2, 42, 66), (58, 32, 34), jitter=7, scale=0.15),
        ),
        "spleen": _ellipsoid(rng, (-98, -38, 62), (27, 42, 46), jitter=8, scale=0.2, tilt=0.35),
        "stomach": _union(
            _ellipsoid(rng, (-58, 22, 72), (36, 36, 38), jitter=9, scale=0.2),
            _tube([(-52, 34, 45), (-32, 50, 8), (14, 48, 4)], _scaled(rng, (27, 22, 14)), _shift(rng, 8)),
        ),
        "pancreas": _tube(
            [(44, 12, -18), (24, 14, 2), (-12, 18, 12), (-50, -4, 24), (-78, -22, 34)],
            _scaled(rng, (17, 13, 10, 10.5, 8.5)),
            _shift(rng, 7),
        ),
        "kidney_right": _ellipsoid(rng, (62, -52, -14), (27, 25, 50), jitter=8, scale=0.13, tilt=0.25),
        "kidney_left": _ellipsoid(rng, (-62, -52, 0), (27, 25, 50), jitter=8, scale=0.13, tilt=0.25),
        "postcava": _tube(
            [(20, -30, -150), (22, -28, 0), (26, -12, 90), (24, -8, 150)],
            _scaled(rng, (13, 13.5, 14, 14)),
            _shift(rng, 4),
        ),
        "aorta": _tube(
            [(-12, -34, -150), (-14, -34, 0), (-8, -38, 150)], _scaled(rng, (11, 12.5, 14)), _shift(rng, 4)
        ),
    }
    if rng.random() >= 1 / 7:
        organs["gall_bladder"] = _ellipsoid(rng, (58, 44, -6), (17, 17, 27), jitter=8, scale=0.22, tilt=0.4)
    bowel = []
    for _ in range(int(rng.integers(9, 14))):
        start = np.array([rng.uniform(-95, 95), rng.uniform(-5, 70), rng.uniform(-140, -30)])
        steps = [start + rng.normal(0, 28, 3) for _ in range(3)]
        bowel.append((_tube([start, *steps], rng.uniform(9, 17, 4), np.zeros(3)), rng.uniform(0, 70)))
    spine = _tube([(0, -70, -160), (0, -62, 0), (0, -72, 160)], (21, 21, 20), _shift(rng, 2))
    gas = float(rng.uniform(28, 48)) if rng.random() < 0.4 else None
    return Anatomy(organs, bowel, spine, float(rng.uniform(10, 26)), gas)


def _shift(rng: np.random.Generator, mm: float) -> npt.NDArray[np.float64]:
    return np.clip(rng.normal(0, mm, 3), -2 * mm, 2 * mm)


def _scaled(rng: np.random.Generator, radii: Sequence[float]) -> npt.NDArray[np.float64]:
    return np.array(radii) * rng.uniform(0.85, 1.18)


def _union(*shapes: Shape) -> Shape:
    def inside(at: Positions) -> npt.NDArray[np.float32]:
        value = shapes[0](at)
        for shape in shapes[1:]:
            value = np.minimum(value, shape(at))
        return value

    return inside


def _ellipsoid(
    rng: np.random.Generator,
    centre: Sequence[float],
    radii: Sequence[float],
    *,
    jitter: float,
    scale: float,
    tilt: float = 0.15,
) -> Shape:
    c = np.array(centre) + _shift(rng, jitter)
    r = np.array(radii) * rng.uniform(1 - scale, 1 + scale, 3)
    turn = _rotation(rng.normal(0, tilt, 3)) / r[:, None]

    def inside(at: Positions) -> npt.NDArray[np.float32]:
        x, y, z = (np.float32(-c[i]) + at[i] for i in range(3))
        value = np.zeros_like(x)
        for row in turn.astype(np.float32):
            value += np.square(row[0] * x + row[1] * y + row[2] * z)
        return value

    return inside


def _tube(
    points: Sequence[Sequence[float] | npt.NDArray[np.float64]],
    radii: Sequence[float] | npt.NDArray[np.float64],
    shift: npt.NDArray[np.float64],
) -> Shape:
    """A chain of capsules through `points` whose radius goes from one point's to the next's."""
    nodes = [np.asarray(p, dtype=np.float64) + shift for p in points]

    def inside(at: Positions) -> npt.NDArray[np.float32]:
        best: npt.NDArray[np.float32] | None = None
        for i in range(len(nodes) - 1):
            value = _capsule(at, nodes[i], nodes[i + 1], radii[i], radii[i + 1])
            best = value if best is None else np.minimum(best, value)
        assert best is not None
        return best

    return inside


def _capsule(
    at: Positions, a: npt.NDArray[np.float64], b: npt.NDArray[np.float64], ra: float, rb: float
) -> npt.NDArray[np.float32]:
    axis = (b - a).astype(np.float32)
    x, y, z = (at[i] - np.float32(a[i]) for i in range(3))
    along = np.clip((x * axis[0] + y * axis[1] + z * axis[2]) / np.float32(axis @ axis), 0, 1)
    radius = np.float32(ra) + along * np.float32(rb - ra)
    distance = (
        np.square(x - along * axis[0]) + np.square(y - along * axis[1]) + np.square(z - along * axis[2])
    )
    return np.asarray(distance / np.square(radius), dtype=np.float32)


def _rotation(angles: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    (ca, cb, cc), (sa, sb, sc) = np.cos(angles), np.sin(angles)
    rx = np.array([[1, 0, 0], [0, ca, -sa], [0, sa, ca]])
    ry = np.array([[cb, 0, sb], [0, 1, 0], [-sb, 0, cb]])
    rz = np.array([[cc, -sc, 0], [sc, cc, 0], [0, 0, 1]])
    return np.asarray(rx @ ry @ rz)
