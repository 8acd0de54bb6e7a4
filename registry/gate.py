"""The gate of a promotion: no class may fall by more than a margin on the evaluation that both models share.

Non-inferiority by the paired bootstrap over cases (Efron and Tibshirani 1993, chapter 13): cases are drawn with replacement,
the same draw for both models and all classes; a class passes when the lower end of the one-sided confidence interval of its
mean change lies above -margin. Every class has to pass, so no correction for their number is due.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from registry.errors import GateError
from registry.records import EvaluationRecord

METRICS = ("dice", "nsd")
"""What a gate can look at: shares in [0, 1] that are better when they are more, so that a margin means a fall."""


@dataclass(frozen=True)
class Gate:
    """metric: one of METRICS. margin: the fall of a class's mean that is accepted. confidence: one-sided. samples: draws of the
    bootstrap. Raises GateError for another metric: one that is better when it is less would let every fall pass."""

    metric: str = "dice"
    margin: float = 0.02
    confidence: float = 0.95
    samples: int = 10_000
    seed: int = 0
    least_cases: int = 5

    def __post_init__(self) -> None:
        if self.metric not in METRICS:
            raise GateError(
                f"expected a gate on {' or '.join(METRICS)}, got {self.metric!r}; a fall of other scores cannot be told by a margin: "
                "choose one of them"
            )


@dataclass(frozen=True)
class ClassVerdict:
    """One class: its means over the shared cases, the change and the lower end of the change's interval."""

    class_name: str
    before: float
    after: float | None
    change: float | None
    lower: float | None
    cases: int
    passed: bool


@dataclass(frozen=True)
class Verdict:
    """What the gate says of a candidate, class by class; `split` and `cases` say on what."""

    split: str
    cases: int
    classes: tuple[ClassVerdict, ...]

    @property
    def passed(self) -> bool:
        return all(row.passed for row in self.classes)

    @property
    def fallen(self) -> tuple[ClassVerdict, ...]:
        """The classes that did not pass."""
        return tuple(row for row in self.classes if not row.passed)


def judge(before: EvaluationRecord, after: EvaluationRecord, gate: Gate = Gate()) -> Verdict:
    """Compare two evaluations on the cases that both have with the same data.

    Raises GateError when there are too few such cases to say anything.
    """
    shared = sorted(case for case, data in before.data.items() if after.data.get(case) == data)
    if before.split != after.split or len(shared) < gate.least_cases:
        raise GateError(
            f"expected at least {gate.least_cases} cases that both models were evaluated on with the same data, got "
            f"{len(shared) if before.split == after.split else 0} ({before.split}, {after.split}); evaluate both on the "
            "same cases, or lower the number of cases that the gate asks for"
        )
    was, is_now = _table(before, gate.metric), _table(after, gate.metric)
    draws = _draws(len(shared), gate)
    rows = [_class(name, was[name], is_now.get(name), shared, draws, gate) for name in sorted(was)]
    return Verdict(before.split, len(shared), tuple(row for row in rows if row is not None))


def shared_evaluation(
    before: Sequence[EvaluationRecord], after: Sequence[EvaluationRecord]
) -> tuple[EvaluationRecord, EvaluationRecord] | None:
    """The newest pair of evaluations on one split with the most cases in common; both sequences oldest first."""
    pairs = [
        (sum(new.data.get(case) == data for case, data in old.data.items()), i, j)
        for i, old in enumerate(before)
        for j, new in enumerate(after)
        if old.split == new.split and old.settings == new.settings
    ]
    if not pairs:
        return None
    _, i, j = max(pairs)
    return before[i], after[j]


def _table(evaluation: EvaluationRecord, metric: str) -> dict[str, dict[str, float]]:
    """{class: {case: score}}. A class that is rightly not found where it is absent counts as 1: finding it falsely is a fall."""
    table: dict[str, dict[str, float]] = {}
    for row in evaluation.scores:
        table.setdefault(str(row["class_name"]), {})[str(row["case_id"])] = _score(row, metric)
    return table


def _score(row: Mapping[str, Any], metric: str) -> float:
    if metric not in row:
        raise GateError(
            f"expected scores named {metric!r}, got {', '.join(sorted(map(str, row)))}; evaluate both models again"
        )
    score = 1.0 if row[metric] is None else row[metric]
    if not isinstance(score, int | float) or not -1e-6 <= score <= 1 + 1e-6:
        raise GateError(
            f"expected {metric} of {row['class_name']} in {row['case_id']} in [0, 1], got {score!r}; evaluate both models again"
        )
    return float(score)


def _draws(cases: int, gate: Gate) -> npt.NDArray[np.float64]:
    """(samples, cases): how often each case was drawn."""
    rng = np.random.default_rng(gate.seed)
    return rng.multinomial(cases, np.full(cases, 1.0 / cases), size=gate.samples).astype(np.float64)


def _class(
    name: str,
    was: Mapping[str, float],
    is_now: Mapping[str, float] | None,
    shared: Iterable[str],
    draws: npt.NDArray[np.float64],
    gate: Gate,
) -> ClassVerdict | None:
    used = [(i, case) for i, case in enumerate(shared) if case in was]
    if not used:
        return None
    old = np.array([was[case] for _, case in used])
    if is_now is None or any(case not in is_now for _, case in used):
        return ClassVerdict(name, float(old.mean()), None, None, None, len(used), False)
    new = np.array([is_now[case] for _, case in used])
    weights = draws[:, [i for i, _ in used]]
    # A draw without any case of this class says nothing about it.
    weights = weights[weights.sum(axis=1) > 0]
    changes = weights @ (new - old) / weights.sum(axis=1)
    lower = float(np.quantile(changes, 1.0 - gate.confidence))
    passed = lower >= -gate.margin - 1e-12
    return ClassVerdict(
        name, float(old.mean()), float(new.mean()), float((new - old).mean()), lower, len(used), passed
    )
