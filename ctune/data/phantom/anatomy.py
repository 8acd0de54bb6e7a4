"""Where everything lies: an abdomen of ellipsoids and tubes in millimetres, varied by patient.

World axes are those of NIfTI (RAS+): x towards the patient's right, y to the front, z upwards; 0 is the middle of the
body at about the second lumbar vertebra. Sizes and places follow textbook anatomy of adults, rounded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ctune.classes import NINE_ORGANS
from ctune.data.phantom.shapes import Cut, Ellipsoid, Point, Shape, Tube, Union, Vector, rotation

NO_GALL_BLADDER = 1 / 7
"""Share of patients whose gall bladder was taken out."""


@dataclass(frozen=True, eq=False)
class Structure:
    """One thing that is painted.

    tissue: what it is made of. core: what its middle is made of (where the shape's value is below `core_below`).
    gas_above_y: a supine patient's gas gathers in front of this (mm); None for no gas.
    """

    tissue: str
    shape: Shape
    core: str | None = None
    core_below: float = 0.0
    gas_above_y: float | None = None

    @property
    def label(self) -> int:
        """1 + position in NINE_ORGANS, 0 for what is none of them."""
        return NINE_ORGANS.index(self.tissue) + 1 if self.tissue in NINE_ORGANS else 0


@dataclass(frozen=True)
class Build:
    """The patient's trunk, in mm: half width and depth at the skin, layers of the wall, height of the diaphragm."""

    width: float
    depth: float
    fat: float
    muscle: float
    diaphragm: float
    rib_phase: float


@dataclass(frozen=True, eq=False)
class Anatomy:
    """A patient. structures are painted in order: the later one wins."""

    build: Build
    structures: Sequence[Structure]

    @property
    def classes(self) -> tuple[str, ...]:
        """The organs that this patient has, in the order of NINE_ORGANS."""
        present = {s.tissue for s in self.structures}
        return tuple(name for name in NINE_ORGANS if name in present)


def draw_anatomy(rng: np.random.Generator) -> Anatomy:
    """A patient. The gall bladder is missing in one of seven; the stomach holds gas in two of five."""
    build = Build(
        width=float(rng.uniform(142, 158)),
        depth=float(rng.uniform(98, 112)),
        fat=float(rng.uniform(8, 22)),
        muscle=float(rng.uniform(8, 12)),
        diaphragm=float(rng.uniform(104, 124)),
        rib_phase=float(rng.uniform(0, 1)),
    )
    return Anatomy(build, [*_bowel(rng), *_organs(rng), *_vessels(rng), *_gall_bladder(rng)])


def _organs(rng: np.random.Generator) -> list[Structure]:
    liver = Union(
        [
            _ellipsoid(rng, (58, 4, 52), (74, 76, 72), jitter=6, scale=0.1),
            _ellipsoid(rng, (-6, 40, 62), (58, 34, 36), jitter=7, scale=0.16),
        ]
    )
    underside = np.array([-0.35, -0.2, -0.91]) + rng.normal(0, 0.05, 3)
    stomach_gas = float(rng.uniform(18, 42)) if rng.random() < 0.4 else None
    stomach = Union(
        [
            _ellipsoid(rng, (-60, 0, 78), (34, 36, 34), jitter=6, scale=0.2),
            _tube(
                rng,
                [(-60, 12, 72), (-54, 36, 36), (-28, 46, 8), (10, 44, 4), (28, 36, 8)],
                (30, 27, 22, 15, 11),
                jitter=6,
            ),
        ]
    )
    pancreas = _tube(
        rng,
        [(38, 14, -16), (32, 14, -2), (12, 17, 4), (-16, 12, 14), (-46, -8, 26), (-74, -22, 36)],
        (15.5, 15.5, 10, 11, 10.5, 9),
        jitter=6,
    )
    structures = [
        Structure("liver", Cut(liver, underside, float(rng.normal(-13, 6)))),
        Structure("spleen", _ellipsoid(rng, (-89, -30, 50), (27, 41, 48), jitter=6, scale=0.2, tilt=0.3)),
        Structure("stomach", stomach, core="stomach_content", core_below=0.7, gas_above_y=stomach_gas),
    ]
    for side, name, z in ((1, "kidney_right", -12.0), (-1, "kidney_left", 2.0)):
        centre = (side * 61.0, -42.0, z)
        kidney = _ellipsoid(rng, centre, (25, 25, 51), jitter=6, scale=0.12, tilt=0.2)
        sinus = Ellipsoid(kidney.centre - (side * 18.0, -6.0, 0.0), np.array([14.0, 7.0, 16.0]), kidney.turn)
        structures += [
            Structure(name, kidney, core="medulla", core_below=0.45),
            Structure("fat", sinus),
        ]
    return [*structures, Structure("pancreas", pancreas)]


def _vessels(rng: np.random.Generator) -> list[Structure]:
    # Below the fork the vessels belong to the legs: the same blood, another name.
    fork = float(rng.uniform(-115, -85))
    aorta_foot, cava_foot = (-9.0, -24.0, fork), (17.0, -24.0, fork - 10)
    iliac = 8.0
    aorta = _tube(
        rng, [aorta_foot, (-11, -25, 0), (-10, -30, 90), (-12, -34, 170)], (9.5, 11, 12, 13), jitter=2
    )
    cava = _tube(
        rng,
        [cava_foot, (20, -22, 0), (24, -16, 50), (24, -4, 105), (20, 4, 150)],
        (11, 12, 13, 14, 14),
        jitter=2,
    )
    legs = [
        Structure(blood, _tube(rng, [foot, (side * 34, -22, -165)], (iliac, iliac), jitter=0))
        for blood, foot in (("artery", aorta_foot), ("vein", cava_foot))
        for side in (1, -1)
    ]
    portal = _tube(rng, [(9, 6, -70), (9, 6, -6), (18, 2, 14), (44, 10, 44)], (6, 6.5, 7.5, 7), jitter=2)
    splenic = _tube(
        rng, [(10, 4, 4), (-20, -2, 16), (-50, -20, 30), (-76, -32, 44)], (5, 4, 4, 3.5), jitter=3
    )
    return [
        *legs,
        Structure("vein", portal),
        Structure("vein", splenic),
        Structure("postcava", cava),
        Structure("aorta", aorta),
    ]


def _gall_bladder(rng: np.random.Generator) -> list[Structure]:
    missing = rng.random() < NO_GALL_BLADDER
    bladder = _ellipsoid(rng, (46, 40, 4), (13.5, 14, 25), jitter=7, scale=0.18, tilt=0.35)
    return [] if missing else [Structure("gall_bladder", bladder)]


def _bowel(rng: np.random.Generator) -> list[Structure]:
    loops = []
    for _ in range(int(rng.integers(9, 14))):
        start = np.array([rng.uniform(-75, 75), rng.uniform(-5, 60), rng.uniform(-140, -45)])
        nodes = np.cumsum([start, *rng.normal(0, 24, (3, 3))], axis=0)
        gas = float(rng.uniform(10, 75))
        loops.append(Structure("bowel", Tube(nodes, rng.uniform(9, 15, 4)), gas_above_y=gas))
    colon = _tube(
        rng,
        [(92, -6, -160), (90, 0, -50), (78, 34, -38), (28, 60, -42), (-34, 60, -22), (-84, 16, 14), (-94, -10, -50),
         (-92, -4, -160)],
        (21, 20, 18, 17, 17, 15, 14, 14),
        jitter=5,
    )  # fmt: skip
    duodenum = _tube(
        rng,
        [(28, 36, 8), (58, 22, 0), (60, 10, -30), (38, 6, -44), (-14, 8, -40)],
        (12, 12, 12, 12, 12),
        jitter=4,
    )
    oesophagus = _tube(rng, [(-14, -16, 170), (-16, -14, 105), (-42, 0, 84)], (9, 9, 10), jitter=2)
    return [
        *loops,
        Structure("colon", colon, gas_above_y=float(rng.uniform(20, 60))),
        Structure("bowel", duodenum),
        Structure("bowel", oesophagus),
    ]


def _shift(rng: np.random.Generator, mm: float) -> Vector:
    return np.clip(rng.normal(0, mm, 3), -2 * mm, 2 * mm) if mm else np.zeros(3)


def _ellipsoid(
    rng: np.random.Generator, centre: Point, radii: Point, *, jitter: float, scale: float, tilt: float = 0.12
) -> Ellipsoid:
    moved = np.array(centre) + _shift(rng, jitter)
    return Ellipsoid(
        moved, np.array(radii) * rng.uniform(1 - scale, 1 + scale, 3), rotation(rng.normal(0, tilt, 3))
    )


def _tube(rng: np.random.Generator, nodes: Sequence[Point], radii: Sequence[float], *, jitter: float) -> Tube:
    moved = np.array(nodes) + _shift(rng, jitter) + np.array([_shift(rng, jitter / 2) for _ in nodes])
    return Tube(moved, np.array(radii) * rng.uniform(0.88, 1.15))
