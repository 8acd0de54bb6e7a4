"""The words of ctune as frozen values; shape, axis order and unit stand in the type.

Arrays of a case are (X, Y, Z) in the order of the file, never reoriented: the affine says where a voxel lies
(millimetres, RAS+ world space as in NIfTI). Leading axes: K classes, M members of an ensemble.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

Volume: TypeAlias = npt.NDArray[np.float32]
"""(X, Y, Z) float32; HU for CT."""
Mask: TypeAlias = npt.NDArray[np.uint8]
"""(X, Y, Z) uint8: 0 background, 1 the class, UNLABELLED where nobody has judged."""
Probabilities: TypeAlias = npt.NDArray[np.float32]
"""(K, X, Y, Z) float32 in [0, 1], one sigmoid channel a class (classes may overlap)."""
Affine: TypeAlias = npt.NDArray[np.float64]
"""(4, 4) float64: voxel index -> world millimetres (RAS+)."""
Axis: TypeAlias = Literal["x", "y", "z"]
"""Of the network's grid: R, A, S."""
View: TypeAlias = Axis | tuple[int, int, int]
"""Another look at an image, for consistency: mirrored along an axis, or moved by voxels of the network's grid."""

UNLABELLED = 255
"""Mask value of a voxel that nobody has judged for this class: it never trains, neither as class nor as background."""


class Source(StrEnum):
    """Where an annotation comes from; the default order in which labels win is the order here."""

    ORIGINAL = "original"
    REVISED = "revised"
    PREDICTED = "predicted"


class Split(StrEnum):
    """What a case is for, fixed for the life of the project."""

    POOL = "pool"
    VALIDATION = "validation"
    TEST = "test"


@dataclass(frozen=True, eq=False)
class Grid:
    """The voxel grid of an image.

    shape: (X, Y, Z) voxels. affine: (4, 4) float64, voxel index -> world millimetres (RAS+).
    """

    shape: tuple[int, int, int]
    affine: Affine

    def __post_init__(self) -> None:
        affine = np.array(self.affine, dtype=np.float64)
        affine.setflags(write=False)
        object.__setattr__(self, "affine", affine)
        object.__setattr__(self, "shape", tuple(int(n) for n in self.shape))

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Edge lengths of a voxel along X, Y, Z in millimetres."""
        sx, sy, sz = np.sqrt((self.affine[:3, :3] ** 2).sum(axis=0))
        return float(sx), float(sy), float(sz)

    @property
    def voxel_ml(self) -> float:
        """Volume of one voxel in millilitres, sheared grids included."""
        return abs(float(np.linalg.det(self.affine[:3, :3]))) / 1000.0

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Grid)
            and self.shape == other.shape
            and bool(np.array_equal(self.affine, other.affine))
        )

    def __hash__(self) -> int:
        return hash((self.shape, self.affine.tobytes()))

    def matches(self, other: Grid, tolerance_mm: float = 1e-2) -> bool:
        """True when both grids put every corner voxel within `tolerance_mm` of the same world position."""
        if self.shape != other.shape:
            return False
        corners = np.array(
            [
                [x, y, z, 1.0]
                for x in (0, self.shape[0] - 1)
                for y in (0, self.shape[1] - 1)
                for z in (0, self.shape[2] - 1)
            ]
        )
        return float(np.abs((corners @ (self.affine - other.affine).T)[:, :3]).max()) <= tolerance_mm

    def describe(self) -> str:
        """One line for messages: shape, spacing, origin and axis codes."""
        import nibabel as nib

        codes = "".join(c or "?" for c in nib.orientations.aff2axcodes(self.affine))
        spacing = "x".join(f"{s:.4g}" for s in self.spacing_mm)
        origin = ", ".join(f"{v:.2f}" for v in self.affine[:3, 3])
        return f"shape {'x'.join(map(str, self.shape))}, spacing {spacing} mm, origin ({origin}) mm, axes {codes}"


@dataclass(frozen=True, eq=False)
class Case:
    """One CT: volume (X, Y, Z) float32 in HU on `grid`."""

    id: str
    volume: Volume
    grid: Grid


@dataclass(frozen=True)
class AnnotationRecord:
    """What is known of one annotation: the mask of one class in one case, with its source.

    sha256 is the digest of the mask file's bytes and the annotation's identity; `path` is relative to the pool.
    `round` is 0 before the first round. `model` is the digest of the predicting model for predicted annotations.
    """

    case_id: str
    class_name: str
    source: Source
    author: str
    created: str
    round: int
    sha256: str
    path: str
    model: str | None = None
    seconds: float | None = None
    note: str = ""


@dataclass(frozen=True, eq=False)
class Annotation:
    """An annotation with its mask (X, Y, Z) uint8 on the CT's grid: 0, 1 or UNLABELLED."""

    record: AnnotationRecord
    mask: Mask


@dataclass(frozen=True, eq=False)
class Prediction:
    """Per-class probabilities of one case on the CT's own grid.

    probabilities: (K, X, Y, Z) float32 in [0, 1], channel k is classes[k].
    inconsistency: (K, X, Y, Z) float32, population standard deviation over the members of an ensemble (views, models,
    or heads of earlier rounds), or None when there was one member.
    network_spacing_mm: of the grid on which the network worked, None where that is not known.
    """

    case_id: str
    classes: tuple[str, ...]
    probabilities: Probabilities
    grid: Grid
    model: str
    inconsistency: Probabilities | None = None
    network_spacing_mm: tuple[float, float, float] | None = None


@dataclass(frozen=True, eq=False)
class Revision:
    """What an expert handed in for one case: {class: mask (X, Y, Z) uint8}, who, and how long it took."""

    case_id: str
    masks: Mapping[str, Mask]
    expert: str
    seconds: float
    note: str = ""


@dataclass(frozen=True, eq=False)
class HybridAnnotation:
    """The merged labels of one case.

    masks: {class: (X, Y, Z) uint8}, UNLABELLED where no annotation covers the voxel.
    origin: {class: (X, Y, Z) uint8}: 0 where unlabelled, else 1 + index into records[class].
    records: {class: the annotations that took part, strongest first}.
    """

    case_id: str
    masks: Mapping[str, Mask]
    origin: Mapping[str, npt.NDArray[np.uint8]]
    records: Mapping[str, tuple[AnnotationRecord, ...]]


@dataclass(frozen=True)
class Progress:
    """One step of something long: `done` of `total` in `stage`; `detail` is for people, `figures` for machines."""

    stage: str
    done: int
    total: int
    detail: str = ""
    figures: Mapping[str, Any] = field(default_factory=dict)


OnProgress: TypeAlias = Callable[[Progress], None]


def silent(_: Progress) -> None:
    """The default listener: a library does not print."""
