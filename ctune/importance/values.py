"""What scoring gives: per class, per case, with the attention map and without it; and how scores lie on disk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ctune.data.files import read_json, write_json
from ctune.errors import DataError

Attention = npt.NDArray[np.uint8]
"""(X, Y, Z) uint8 on the CT's grid: 0 where nothing calls for a look, to 255 where most does."""

ATTENDED = "attended"
"""The measure of a class that its case's score is the sum of, where that is not the sum of the classes' scores."""


@dataclass(frozen=True)
class ClassImportance:
    """One class in one case; volumes in mL (ctune) or voxels (aa8k). reason: why, in words.

    measures: the value of each measure that went into the score, by name. expected_ml: how much of the mask an expert is
    expected to change. minutes: what that is expected to take, opening the case left out. soft_ml: sum of the probabilities;
    wrong_side_ml: of the mask. With these a score can follow the pool without the voxels.
    """

    score: float
    uncertain: float
    inconsistent: float
    overlapping: float
    components: int
    volume_ml: float
    reason: str
    measures: Mapping[str, float] = field(default_factory=dict)
    expected_ml: float = 0.0
    minutes: float = 0.0
    soft_ml: float = 0.0
    wrong_side_ml: float = 0.0


@dataclass(frozen=True)
class CaseImportance:
    """An importance without its map: what selection needs, small enough for a pool of thousands.

    minutes: what revising every class is expected to take.
    """

    case_id: str
    score: float
    classes: Mapping[str, ClassImportance]
    minutes: float = 0.0

    @property
    def order(self) -> list[str]:
        """The classes, most in need first; equal scores by name."""
        return sorted(self.classes, key=lambda name: (-self.classes[name].score, name))


@dataclass(frozen=True, eq=False)
class Importance:
    """One case: score (larger is revised earlier), classes by name, attention: the maximum over the classes' maps.

    maps: the attention of each class where it was asked for.
    """

    case_id: str
    score: float
    classes: Mapping[str, ClassImportance]
    attention: Attention
    maps: Mapping[str, Attention] = field(default_factory=dict)
    minutes: float = 0.0

    def summary(self) -> CaseImportance:
        """Everything but the attention map."""
        return CaseImportance(self.case_id, self.score, dict(self.classes), self.minutes)


def write_importances(path: Path, importances: Sequence[CaseImportance]) -> None:
    """Keep scores (not maps) as JSON."""
    write_json(path, [as_record(one) for one in importances])


def read_importances(path: Path) -> list[CaseImportance]:
    """What ``write_importances`` wrote. Raises DataError where there is none, or one that is cut short."""
    try:
        return [of_record(record) for record in read_json(path)]
    except FileNotFoundError:
        raise DataError(
            f"expected scores in {path}, found no such file; run `ctune score` first, or name the folder that it wrote"
        ) from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"expected scores in {path}, got a file that is cut short or damaged ({type(error).__name__}: {error}); "
            "score again"
        ) from None


def as_record(one: CaseImportance) -> dict[str, Any]:
    """One case as JSON has it."""
    return {**asdict(one), "classes": {name: asdict(found) for name, found in one.classes.items()}}


def of_record(record: Mapping[str, Any]) -> CaseImportance:
    """What ``as_record`` gave; what earlier versions did not write is 0."""
    classes = {name: ClassImportance(**found) for name, found in record["classes"].items()}
    return CaseImportance(record["case_id"], record["score"], classes, record.get("minutes", 0.0))
