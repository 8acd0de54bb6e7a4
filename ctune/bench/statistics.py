"""What may be said of a difference: intervals over cases, tests that know how many were made, non-inferiority with a margin.

Everything is paired: a difference is ours less theirs on the same case. A difference that was not found is never said to be
none: the text says the margin, the interval and the number of cases.

- Interval: percentile bootstrap over cases (Efron and Tibshirani 1993, chapter 13). With several seeds the cases of one seed
  share a training, so whole seeds are drawn first and then cases within each (Davison and Hinkley 1997, section 3.8).
- Test: Wilcoxon's signed ranks (1945), two-sided, zeros left out, by scipy; several comparisons by Holm (1979).
- Non-inferiority: the lower end of the two-sided 95 % interval is above minus the margin (ICH E9, section 3.3.2).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

CONFIDENCE = 0.95
DRAWS = 10_000
SEEDS_ASKED = 3
"""Seeds below which nothing is decided: an interval over cases of one training says nothing of the next training."""

Differences = Sequence[Sequence[float]]
"""For each seed the difference of every case."""


@dataclass(frozen=True)
class Interval:
    """A mean difference and the ends of its two-sided 95 % interval; cases: differences behind it; seeds: trainings."""

    mean: float
    low: float
    high: float
    cases: int
    seeds: int

    def document(self) -> dict[str, float]:
        """As the figures of a result."""
        return asdict(self)

    def __str__(self) -> str:
        n = f"n = {self.cases} cases" + (f" of {self.seeds} seeds" if self.seeds > 1 else ", one seed")
        return f"{self.mean:+.3f}, 95 % interval {self.low:+.3f} to {self.high:+.3f}, {n}"


def paired_interval(differences: Differences, seed: int = 0) -> Interval:
    """Mean of all differences and its bootstrap interval. Raises ValueError when there is no difference.

    >>> paired_interval([[0.1, 0.1, 0.1]])
    Interval(mean=0.1, low=0.1, high=0.1, cases=3, seeds=1)
    """
    groups = [np.asarray(cases, dtype=np.float64) for cases in differences if len(cases)]
    if not groups:
        raise ValueError("expected at least one difference, got none; measure some cases first")
    means = _bootstrap(groups, np.random.default_rng(seed))
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    every = np.concatenate(groups)
    # Sums of floats differ in the last bit by their order: what is 0.1 everywhere has a mean of 0.1.
    mean, low, high = (round(float(value), 12) for value in (every.mean(), low, high))
    return Interval(mean, low, high, cases=len(every), seeds=len(groups))


def _bootstrap(
    groups: Sequence[npt.NDArray[np.float64]], rng: np.random.Generator
) -> npt.NDArray[np.float64]:
    """(DRAWS,) means: seeds drawn with replacement, then cases within each; one seed: cases alone."""
    # The same number of cases a seed everywhere, but a missing case is no reason to fail: sums over counts.
    sums = np.stack([_resampled(values, rng) for values in groups])
    chosen = rng.integers(len(groups), size=(len(groups), DRAWS))
    counts = np.array([len(values) for values in groups], dtype=np.float64)
    means: npt.NDArray[np.float64] = np.take_along_axis(sums, chosen, 0).sum(0) / counts[chosen].sum(0)
    return means


def _resampled(values: npt.NDArray[np.float64], rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """(DRAWS,) sums of as many values as there are, drawn with replacement."""
    found: npt.NDArray[np.float64] = rng.choice(values, (DRAWS, len(values))).sum(axis=1)
    return found


def case_differences(
    ours: Mapping[str, Mapping[str, float | None]],
    theirs: Mapping[str, Mapping[str, float | None]],
    classes: Sequence[str],
) -> list[float]:
    """For each case the mean over `classes` of ours less theirs.

    ours, theirs: {class: {case: Dice}}. None, an organ that is absent and was rightly not found, counts as 1: finding it there
    is a loss. Raises ValueError when both do not cover the same cases.
    """
    cases = [sorted(of[name]) for of in (ours, theirs) for name in classes]
    if not cases or any(found != cases[0] for found in cases):
        raise ValueError(
            "expected the same cases of every class on both sides; score both on the same test cases"
        )

    def known(value: float | None) -> float:
        return 1.0 if value is None else value

    return [
        float(np.mean([known(ours[n][case]) - known(theirs[n][case]) for n in classes])) for case in cases[0]
    ]


# Tests ----------------------------------------------------------------------------------------------------------------


def wilcoxon(differences: Differences) -> float:
    """Two-sided p of Wilcoxon's signed ranks over all differences; 1 where all are zero.

    >>> round(wilcoxon([[0.1, 0.2, 0.3, 0.4, 0.5]]), 4)
    0.0625
    """
    from scipy import stats

    every = np.concatenate([np.asarray(cases, dtype=np.float64) for cases in differences])
    if not np.any(every):
        return 1.0
    return float(stats.wilcoxon(every, zero_method="wilcox").pvalue)


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Each p with Holm's correction for all of them, in the order given.

    The smallest of m counts m times, the next m - 1 times and so on, never less than one before it, at most 1.

    >>> holm({"a": 0.01, "b": 0.04, "c": 0.03})
    {'a': 0.03, 'b': 0.06, 'c': 0.06}
    """
    order = sorted(p_values, key=lambda name: p_values[name])
    corrected, highest = {}, 0.0
    for place, name in enumerate(order):
        highest = max(highest, min(1.0, (len(order) - place) * p_values[name]))
        corrected[name] = round(highest, 12)
    return {name: corrected[name] for name in p_values}


# What may be said -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Verdict:
    """Whether ours may be called non-inferior to theirs. margin: how much lower it may be, above 0."""

    interval: Interval
    margin: float

    @property
    def decided(self) -> bool:
        """Enough seeds to say anything of the way, and not of one training."""
        return self.interval.seeds >= SEEDS_ASKED

    @property
    def non_inferior(self) -> bool:
        """Only when decided."""
        return self.decided and self.interval.low > -self.margin

    def __str__(self) -> str:
        if not self.decided:
            seeds = f"{self.interval.seeds} seed{'s' if self.interval.seeds > 1 else ''}"
            said = f"not decided: {seeds}, {SEEDS_ASKED} are asked for"
        elif self.interval.low > 0:
            said = "better, and so non-inferior"
        elif self.non_inferior:
            said = "non-inferior"
        elif self.interval.high < -self.margin:
            said = "inferior"
        else:
            said = "non-inferiority was not shown"
        return f"{said} (margin {self.margin:g}; {self.interval})"


def non_inferior(differences: Differences, margin: float, seed: int = 0) -> Verdict:
    """Ours less theirs against a margin that was stated before. Raises ValueError for a margin that is not above 0.

    >>> print(non_inferior([[0.0, 0.02]] * 3, margin=0.01))
    non-inferior (margin 0.01; +0.010, 95 % interval +0.000 to +0.020, n = 6 cases of 3 seeds)
    """
    if not margin > 0:
        raise ValueError(f"expected a margin above 0, got {margin}; state what difference would matter")
    return Verdict(paired_interval(differences, seed), margin)


def comparisons(against: Mapping[str, Differences], margin: float) -> dict[str, dict[str, Any]]:
    """Ours less each of several others: interval, p as it is and by Holm over all of them, and what may be said.

    against: {name of the other: differences}.
    """
    raw = {name: wilcoxon(differences) for name, differences in against.items()}
    corrected = holm(raw)
    out = {}
    for name, differences in against.items():
        verdict = non_inferior(differences, margin)
        out[name] = {
            **verdict.interval.document(), "p": raw[name], "p_holm": corrected[name], "margin": margin,
            "non_inferior": verdict.non_inferior, "said": str(verdict),
        }  # fmt: skip
    return out
