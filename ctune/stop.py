"""When to stop: does the top of the queue still hold real errors?

The judgement is of what experts changed so far. A revision is major when Dice between the mask that stood before and the
expert's is below `MAJOR_DICE`, or when it made or removed the organ. Of the newest revisions, taken in the order of the
queue, the share of major ones is estimated with the exact binomial interval of Clopper and Pearson (1934).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

MAJOR_DICE = 0.9
WINDOW = 20
TOLERABLE = 0.2
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Change:
    """What an expert did to one class of one case. before_ml 0: nothing had been predicted; volumes in mL."""

    case_id: str
    class_name: str
    before_ml: float
    after_ml: float
    changed_ml: float

    @property
    def dice(self) -> float:
        """Dice of before and after: 1 - changed / (before + after); 1 when both are empty."""
        total = self.before_ml + self.after_ml
        return 1.0 - self.changed_ml / total if total > 0 else 1.0

    @property
    def major(self) -> bool:
        """Whether the model had really been wrong."""
        return self.dice < MAJOR_DICE


@dataclass(frozen=True)
class Advice:
    """Of the last `looked_at` revisions `major` were major; low, high: ends of the two-sided interval of their share.

    stop: even the upper end is below what is tolerable. text: the same in words.
    """

    looked_at: int
    major: int
    low: float
    high: float
    stop: bool
    text: str


def advise(
    changes: Sequence[Change],
    *,
    window: int = WINDOW,
    tolerable: float = TOLERABLE,
    confidence: float = CONFIDENCE,
) -> Advice | None:
    """Whether to go on, from all `changes` so far, oldest first; None before the first.

    >>> advise([Change(f"case{i}", "liver", 100.0, 100.0, 1.0) for i in range(20)]).text
    '0 of the last 20 needed a major revision (95 % interval 0 % to 17 %): stop here'
    """
    newest = list(changes)[-window:]
    if not newest:
        return None
    major, count = sum(change.major for change in newest), len(newest)
    low, high = interval(major, count, confidence)
    stop = high < tolerable
    text = (
        f"{major} of the last {count} needed a major revision ({confidence:.0%} interval {low:.0%} to {high:.0%}): "
    ).replace("%", " %") + ("stop here" if stop else "go on")
    return Advice(count, major, low, high, stop, text)


def interval(successes: int, trials: int, confidence: float) -> tuple[float, float]:
    """Clopper-Pearson interval of a share, both ends in [0, 1]. Raises ValueError unless 0 <= successes <= trials > 0."""
    from scipy.stats import beta

    if not 0 <= successes <= trials or trials == 0:
        raise ValueError(f"expected 0 <= successes <= trials and a trial, got {successes} of {trials}")
    tail = (1.0 - confidence) / 2
    low = float(beta.ppf(tail, successes, trials - successes + 1)) if successes else 0.0
    high = float(beta.ppf(1.0 - tail, successes + 1, trials - successes)) if successes < trials else 1.0
    return low, high
