"""What each measure is worth: weights of the score, and the minutes a revision takes, both learned from revisions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ctune.data.files import read_json, write_json

MEASURES = ("doubt", "inconsistency", "disagreement", "overlap", "fragments", "volume", "side")
"""In the order of their weights."""

FALLBACK: Mapping[str, float] = {
    "doubt": 2.0, "inconsistency": 0.15, "disagreement": 0.15, "overlap": 0.3, "fragments": 0.3, "volume": 0.1, "side": 0.3,
}  # fmt: skip
"""Until there are enough revisions. Near what ``learn`` finds on phantoms with their truth for experts (docs/importance.md);
what phantoms hardly show, disagreement of models and sides that are swapped, by judgement."""

ENOUGH = 20
"""Revised classes (not cases) before anything is learned from them; until then the fallback stands."""

PRIOR = 20.0
"""How many revisions the fallback counts as beside the real ones."""

MINUTES = (0.5, 0.05)
"""Fallback of a + b mL: half a minute to look at a class, three seconds a changed mL. An assumption, not measured."""


@dataclass(frozen=True)
class Example:
    """One revised class: its measures when it was predicted, and what the expert did.

    changed: changed mL / (mL before + mL after), which is 1 - Dice of before and after. seconds: None when not taken.
    """

    measures: Mapping[str, float]
    changed: float
    changed_ml: float
    seconds: float | None = None


@dataclass(frozen=True)
class Weights:
    """score = sum of weight x measure. worth: Spearman's rank correlation of each measure alone with what was changed.

    revisions: how many taught the weights; 0 with the fallback. minutes: (a, b) of a + b x changed mL for a class; timed:
    how many revisions with a time taught them.
    """

    measures: Mapping[str, float] = field(default_factory=lambda: dict(FALLBACK))
    revisions: int = 0
    worth: Mapping[str, float] = field(default_factory=dict)
    minutes: tuple[float, float] = MINUTES
    timed: int = 0

    def score(self, measures: Mapping[str, float]) -> float:
        """Of a class: what share of it an expert is expected to change; only the order counts."""
        return float(sum(self.measures.get(name, 0.0) * value for name, value in measures.items()))

    def minutes_for(self, changed_ml: float) -> float:
        """Minutes to revise one class of one case."""
        return self.minutes[0] + self.minutes[1] * changed_ml

    def describe(self) -> str:
        """One line for people."""
        shown = ", ".join(f"{name} {weight:.2f}" for name, weight in self.measures.items() if weight > 0)
        if not self.revisions:
            return f"weights: {shown} (given; learned from {ENOUGH} revised classes on)"
        return f"weights: {shown} (learned from {self.revisions} revised classes)"


def learn(examples: Sequence[Example]) -> Weights:
    """Weights from revisions: least squares of what was changed on the measures, no weight below 0, drawn to the fallback.

    Non-negative (Lawson and Hanson, 1974) and ridge-regularised (Hoerl and Kennard, 1970), the fallback in the place of 0
    and as strong as `PRIOR` revisions. Fewer than `ENOUGH` examples: the fallback itself; likewise for minutes.
    """
    minutes, timed = _learn_minutes(examples)
    if len(examples) < ENOUGH:
        return Weights(minutes=minutes, timed=timed)
    x = np.array([[e.measures.get(name, 0.0) for name in MEASURES] for e in examples])
    y = np.array([e.changed for e in examples])
    fallback = np.array([FALLBACK[name] for name in MEASURES])
    found = _ridge(x, y, fallback)
    worth = {name: _spearman(x[:, k], y) for k, name in enumerate(MEASURES)}
    weights = {name: round(float(w), 4) for name, w in zip(MEASURES, found, strict=True)}
    return Weights(weights, len(examples), worth, minutes, timed)


def write_weights(path: Path, weights: Weights) -> None:
    """Keep weights beside the scores that they gave."""
    write_json(path, asdict(weights))


def read_weights(path: Path) -> Weights:
    """What ``write_weights`` wrote."""
    found = read_json(path)
    return Weights(**{**found, "minutes": tuple(found["minutes"])})


def _learn_minutes(examples: Sequence[Example]) -> tuple[tuple[float, float], int]:
    taken = [(e.changed_ml, e.seconds / 60.0) for e in examples if e.seconds is not None]
    if len(taken) < ENOUGH:
        return MINUTES, 0
    ml, minutes = np.array(taken).T
    a, b = _ridge(np.stack([np.ones_like(ml), ml], axis=1), minutes, np.array(MINUTES))
    return (round(float(a), 4), round(float(b), 5)), len(taken)


def _ridge(
    x: npt.NDArray[np.float64], y: npt.NDArray[np.float64], prior: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Non-negative least squares drawn to `prior`, each column in its own scale."""
    from scipy.optimize import nnls

    # A measure that was 0 in every revision keeps its weight: nothing was learned of it.
    scale = np.sqrt(PRIOR * np.maximum((x**2).mean(axis=0), 1e-6))
    found, _ = nnls(np.vstack([x, np.diag(scale)]), np.concatenate([y, scale * prior]))
    return np.asarray(found)


def _spearman(x: npt.NDArray[np.float64], y: npt.NDArray[np.float64]) -> float:
    from scipy.stats import rankdata

    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return 0.0
    return round(float(np.corrcoef(rankdata(x), rankdata(y))[0, 1]), 4)
