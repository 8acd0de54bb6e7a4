"""What may be said of a difference: intervals over cases, tests that know how many were made, non-inferiority with a margin.

Everything is paired: a difference is ours less theirs on the same case. A difference that was not found is never said to be
none: the text says the margin, the interval and the number of cases.

- Interval: percentile bootstrap over cases (Efron and Tibshirani 1993, chapter 13). With several seeds the cases of one seed
  share a training. Where each seed has its own test cases, whole seeds are drawn first and then cases within each (Davison
  and Hinkley 1997, section 3.8). Where all seeds share their test cases (`shared`), seeds and cases are drawn crosswise
  (Owen 2007, "The pigeonhole bootstrap", Annals of Applied Statistics 1(2)). Of few seeds a bootstrap gives intervals that are
  too short (Cameron, Gelbach and Miller 2008, Review of Economics and Statistics 90(3)): of three, 95 % hold in about 80 %.
  Student's interval over the means of the seeds, with one degree of freedom less than there are, holds in 95 %; of both, the
  lower end and the higher one count, as far as Dice and its differences can go.
- Test: Wilcoxon's signed ranks (1945), two-sided, zeros left out, by scipy. A case that several seeds measured is one case,
  with its mean over the seeds. Where seeds have their own cases the test takes the trainings as given: it speaks of other
  cases, not of other trainings; the interval speaks of both. Several comparisons by Holm (1979).
- Non-inferiority: the lower end of the two-sided 95 % interval is above minus the margin (ICH E9, section 3.3.2).
"""

from __future__ import annotations

import math
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
    """A mean and the ends of its two-sided 95 % interval.

    cases: different test cases behind it; seeds: trainings; shared: each case was measured in every seed.
    """

    mean: float
    low: float
    high: float
    cases: int
    seeds: int
    shared: bool = False

    def document(self) -> dict[str, float]:
        """As the figures of a result."""
        return asdict(self)

    @property
    def n(self) -> str:
        """How many cases and seeds, in words."""
        cases = f"n = {self.cases} case{'s' if self.cases > 1 else ''}"
        if self.seeds == 1:
            return f"{cases}, one seed"
        return f"{cases}, each in {self.seeds} seeds" if self.shared else f"{cases} of {self.seeds} seeds"

    def __str__(self) -> str:
        return f"{self.mean:+.3f}, 95 % interval {self.low:+.3f} to {self.high:+.3f}, {self.n}"


def paired_interval(
    differences: Differences, seed: int = 0, shared: bool = False, positive: bool = False
) -> Interval:
    """Mean of all differences and its interval: bootstrap or, where that is wider, Student's over the means of the seeds.

    shared: the seeds have the same test cases, in the same order. positive: they are no differences, and go from 0 to 1. Raises
    ValueError when there is no difference, and when shared seeds have different numbers of cases.

    >>> paired_interval([[0.1, 0.1, 0.1]])
    Interval(mean=0.1, low=0.1, high=0.1, cases=3, seeds=1, shared=False)
    """
    groups = [np.asarray(cases, dtype=np.float64) for cases in differences if len(cases)]
    if not groups:
        raise ValueError("expected at least one difference, got none; measure some cases first")
    crossed = shared and len(groups) > 1
    rng = np.random.default_rng(seed)
    means = _crossed(_matrix(groups), rng) if crossed else _bootstrap(groups, rng)
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    every = np.concatenate(groups)
    if len(groups) > 1:
        half = _half_width([float(cases.mean()) for cases in groups])
        lowest = -1.0 if every.min() < 0 or not positive else 0.0
        low = min(low, max(every.mean() - half, lowest))
        high = max(high, min(every.mean() + half, 1.0))
    # Sums of floats differ in the last bit by their order: what is 0.1 everywhere has a mean of 0.1.
    mean, low, high = (round(float(value), 12) for value in (every.mean(), low, high))
    cases = len(groups[0]) if crossed else len(every)
    return Interval(mean, low, high, cases=cases, seeds=len(groups), shared=crossed)


def mean_interval(values: Differences, seed: int = 0, shared: bool = False) -> Interval:
    """Mean of figures of cases (Dice, say) and its interval, for points and bands of plots; as ``paired_interval``.

    >>> mean_interval([[0.8, 0.8], [0.8]]).n
    'n = 3 cases of 2 seeds'
    """
    return paired_interval(values, seed, shared, positive=True)


def shares_cases(data: Mapping[str, str], of: str = "cohort") -> bool:
    """Whether several seeds were measured on one cohort. data: ``result.data``; of: the part of its names that is asked for.

    Names of cases do not tell it: every seed's phantoms begin at phantom_0000.

    >>> shares_cases({"cohort, seed 0": "ab", "cohort, seed 1": "ab"})
    True
    >>> shares_cases({"cohort, seed 0": "ab", "cohort, seed 1": "cd"})
    False
    """
    found = [digest for name, digest in data.items() if of in name.split(", ")]
    return len(found) > 1 and len(set(found)) == 1


def _matrix(groups: Sequence[npt.NDArray[np.float64]]) -> npt.NDArray[np.float64]:
    """(seeds, cases)."""
    counts = [len(values) for values in groups]
    if len(set(counts)) > 1:
        raise ValueError(
            f"expected the same cases in every seed, got {', '.join(map(str, counts))} of them; leave out shared"
        )
    return np.stack(groups)


def _half_width(means: Sequence[float]) -> float:
    """Half of Student's two-sided 95 % interval of a mean of several seeds.

    >>> round(_half_width([0.0, 0.1, 0.2]), 3)  # 4.303 times .1 over the root of 3
    0.248
    """
    from scipy.special import stdtrit

    spread = float(np.std(means, ddof=1)) / math.sqrt(len(means))
    return float(stdtrit(len(means) - 1, (1 + CONFIDENCE) / 2)) * spread


def _crossed(values: npt.NDArray[np.float64], rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """(DRAWS,) means over seeds drawn with replacement and, apart from them, cases drawn with replacement."""
    seeds, cases = values.shape
    often = [rng.multinomial(n, np.full(n, 1 / n), size=DRAWS) for n in (seeds, cases)]
    means: npt.NDArray[np.float64] = ((often[0] @ values) * often[1]).sum(axis=1) / (seeds * cases)
    return means


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


def wilcoxon(differences: Differences, shared: bool = False) -> float:
    """Two-sided p of Wilcoxon's signed ranks over the cases; 1 where all are zero.

    shared: the seeds have the same test cases, in the same order; each counts once, with its mean over the seeds. Otherwise
    the cases of all seeds are taken together and the trainings as given (see above).

    >>> round(wilcoxon([[0.1, 0.2, 0.3, 0.4, 0.5]]), 4)
    0.0625
    >>> round(wilcoxon([[0.1, 0.2, 0.3, 0.4, 0.5]] * 3, shared=True), 4)
    0.0625
    """
    from scipy import stats

    groups = [np.asarray(cases, dtype=np.float64) for cases in differences if len(cases)]
    every = _matrix(groups).mean(axis=0) if shared and len(groups) > 1 else np.concatenate(groups)
    # Means of equal numbers differ in the last bit: they are ties, and of zeros they are zero.
    every = np.round(every, 12)
    if not np.any(every):
        return 1.0
    return float(stats.wilcoxon(every, zero_method="wilcox").pvalue)


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Each p with Holm's correction for all of them, in the order given.

    The smallest of m counts m times, the next m - 1 times and so on, never less than one before it, at most 1. What stands
    side by side is one family: a table's rows together, not each alone.

    >>> holm({"a": 0.01, "b": 0.04, "c": 0.03})
    {'a': 0.03, 'b': 0.06, 'c': 0.06}
    """
    order = sorted(p_values, key=lambda name: p_values[name])
    corrected, highest = {}, 0.0
    for place, name in enumerate(order):
        highest = max(highest, min(1.0, (len(order) - place) * p_values[name]))
        corrected[name] = highest
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


def non_inferior(differences: Differences, margin: float, seed: int = 0, shared: bool = False) -> Verdict:
    """Ours less theirs against a margin that was stated before. Raises ValueError for a margin that is not above 0.

    >>> print(non_inferior([[0.0, 0.02]] * 3, margin=0.01))
    non-inferior (margin 0.01; +0.010, 95 % interval +0.000 to +0.020, n = 6 cases of 3 seeds)
    """
    if not margin > 0:
        raise ValueError(f"expected a margin above 0, got {margin}; state what difference would matter")
    return Verdict(paired_interval(differences, seed, shared), margin)


def comparisons(
    against: Mapping[str, Differences], margin: float, shared: bool = False
) -> dict[str, dict[str, Any]]:
    """Ours less each of several others: interval, p as it is and by Holm over all of them, and what may be said.

    against: {name of the other: differences}; shared: as in ``wilcoxon``. `p_over` says of what the test speaks.
    """
    raw = {name: wilcoxon(differences, shared) for name, differences in against.items()}
    corrected = holm(raw)
    out = {}
    for name, differences in against.items():
        verdict = non_inferior(differences, margin, shared=shared)
        out[name] = {
            **verdict.interval.document(), "p": raw[name], "p_holm": corrected[name], "p_over": _tested(verdict.interval),
            "family": len(against), "margin": margin, "non_inferior": verdict.non_inferior, "said": str(verdict),
        }  # fmt: skip
    return out


def _tested(interval: Interval) -> str:
    if interval.shared:
        return f"{interval.cases} cases, each with its mean over {interval.seeds} seeds"
    return f"{interval.cases} cases, the {'training' if interval.seeds == 1 else 'trainings'} as given"
