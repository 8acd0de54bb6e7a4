"""Validation: how good a class is on the cases that are kept for it, with what confidence, and whether it got worse.

Dice is taken on the network's grid, over windows laid as prediction lays them: no way back to the CT's grid, no surfaces,
so that a look costs seconds. The rule for empty masks is that of ``evaluate``: an organ that was missed or found where
there is none counts as 0, and a case where it rightly was not found is left out of the mean.

The intervals are percentile bootstraps over cases (Efron and Tibshirani 1993, chapter 13), seeded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ctune.types import UNLABELLED, Mask

CONFIDENCE = 0.95
SAMPLES = 10_000
_SEED = 0


@dataclass(frozen=True)
class CaseDice:
    """Dice of one class in one case, in [0, 1]; None where it is absent and was rightly not found."""

    case_id: str
    dice: float | None


@dataclass(frozen=True)
class ClassDice:
    """One class on the validation cases: mean Dice and the ends of its two-sided 95 % interval.

    All three are None when the class is in no case and was found in none.
    """

    cases: tuple[CaseDice, ...]
    mean: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Change:
    """A head against the one that it replaces, on the same cases.

    change: mean of the cases' differences, new less old. low, high: ends of its two-sided 95 % interval. A case where
    the class is absent counts as 1 when it was rightly not found, so that finding it there is a fall.
    """

    old: float
    new: float
    change: float
    low: float
    high: float
    cases: int

    @property
    def worse(self) -> bool:
        """True when even the upper end of the interval is a fall."""
        return self.high < 0


def refusal(class_name: str, change: Change) -> str:
    """Why a head that is worse than the one it replaces was not registered, and what to do."""
    cases = f"{change.cases} case" + ("" if change.cases == 1 else "s")
    return (
        f"{class_name}: expected a head no worse than the one it replaces, got Dice {change.new:.3f} after {change.old:.3f} "
        f"on {cases} kept for validation (change {change.change:+.3f}, 95 % interval {change.low:+.3f} to "
        f"{change.high:+.3f}); the old head stays; revise more cases, or register the new one with --force"
    )


HOW_TO_VALIDATE = (
    "keep cases for it with `ctune import SRC --validation N`, or import their masks of it again"
)
"""What to do for a class that no validation case annotates."""


def refusal_of_all(classes: Sequence[str], changes: Mapping[str, Change]) -> str:
    """Why the heads of `classes`, which are not worse, were refused too: the base moved under all of them."""

    def said(name: str) -> str:
        change = changes.get(name)
        return f"{name} ({f'{change.old:.3f} to {change.new:.3f}' if change else 'not compared'})"

    return (
        f"the whole version was refused, with {', '.join(map(said, classes))}: the base moved, so heads cannot be exchanged "
        "one by one; tune with --trainable heads, revise more cases, or register all of it with --force"
    )


def dice_of(predicted: Mask, truth: Mask) -> float | None:
    """2|A and B| / (|A| + |B|) over judged voxels; None where both are empty.

    predicted: (X, Y, Z) uint8 or bool, 0 or 1. truth: (X, Y, Z) uint8; UNLABELLED voxels are left out.
    """
    a, b = (predicted == 1) & (truth != UNLABELLED), truth == 1
    total = int(a.sum()) + int(b.sum())
    return 2.0 * int((a & b).sum()) / total if total else None


def class_dice(cases: Sequence[CaseDice]) -> ClassDice:
    """Mean and interval over the cases where there is something to measure.

    >>> class_dice([CaseDice("a", 0.5), CaseDice("b", 0.7), CaseDice("c", None)]).mean
    0.6
    """
    counted = np.array([c.dice for c in cases if c.dice is not None])
    if not len(counted):
        return ClassDice(tuple(cases), None, None, None)
    low, high = _interval(counted)
    return ClassDice(tuple(cases), float(counted.mean()), low, high)


def compare(old: ClassDice, new: ClassDice) -> Change | None:
    """The paired change from `old` to `new` over the cases of both; None when they have no case in common."""
    was, is_now = _scores(old), _scores(new)
    shared = sorted(was.keys() & is_now.keys())
    if not shared:
        return None
    before, after = (np.array([scores[c] for c in shared]) for scores in (was, is_now))
    low, high = _interval(after - before)
    return Change(
        float(before.mean()), float(after.mean()), float((after - before).mean()), low, high, len(shared)
    )


def _scores(dice: ClassDice) -> dict[str, float]:
    return {c.case_id: 1.0 if c.dice is None else c.dice for c in dice.cases}


def _interval(values: npt.NDArray[np.float64]) -> tuple[float, float]:
    """Two-sided interval of the mean of (n,) values."""
    rng = np.random.default_rng(_SEED)
    drawn = rng.multinomial(len(values), np.full(len(values), 1.0 / len(values)), size=SAMPLES)
    means = drawn @ values / len(values)
    low, high = np.quantile(means, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)
