"""Select the next cases for the expert, in order, with the classes to revise in each, in order, and why.

importance    by score
uncertainty   by millilitres of entropy alone
random        seeded, the baseline
diverse       important and unlike what is known: greedily the largest product of the rank of importance (1 the most important,
              towards 0) and the distance to the nearest case that was annotated or chosen before, in the base's global features
              (the k-center greedy of Sener and Savarese, ICLR 2018, weighted)
stratified    the strata are the classes most in need: round robin over them, in each by score, so that no class takes all

Whatever the order, only the classes that are asked for count in it, and of these only those that nobody has judged in the case:
an original mask outranks a revision, so that the work would be thrown away. Where all asked classes are new, every class that
was scored counts.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from ctune.classes import canonical, nearest
from ctune.data.files import write_atomically
from ctune.errors import UnknownClassError, UsageError
from ctune.importance import CaseImportance
from ctune.importance.values import ATTENDED
from ctune.project import Project
from ctune.types import Source, Split

STRATEGIES = ("importance", "uncertainty", "random", "diverse", "stratified")
_COLUMNS = ("rank", "case", "score", "classes", "minutes", "reason")
OPENING_MINUTES = 1.0
"""To open a case and look at it, whatever is revised in it; and what a class is taken to need that has no prediction."""

Vector = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Budget:
    """What the expert has; None does not limit. annotations: classes in cases. minutes: as they are expected.

    A budget always buys one case with one class. Raises UsageError when nothing limits.
    """

    cases: int | None = None
    annotations: int | None = None
    minutes: float | None = None

    def __post_init__(self) -> None:
        limits = (self.cases, self.annotations, self.minutes)
        if all(limit is None for limit in limits) or any(
            limit is not None and limit <= 0 for limit in limits
        ):
            raise UsageError(f"expected a budget above 0 of cases, annotations or minutes, got {limits}")


@dataclass(frozen=True)
class Selected:
    """One row of the expert's list. classes: to revise, most in need first; those without a prediction come first.

    minutes: what revising them is expected to take, opening the case included.
    """

    rank: int
    case_id: str
    score: float
    classes: tuple[str, ...]
    reason: str
    minutes: float = 0.0


def check_strategy(strategy: str) -> None:
    """Raise UsageError for one that is none of `STRATEGIES`."""
    if strategy not in STRATEGIES:
        raise UsageError(f"expected a strategy of {', '.join(STRATEGIES)}; got {strategy!r}")


def select(
    candidates: Sequence[CaseImportance],
    *,
    classes: Sequence[str],
    cases: int | None = None,
    budget: Budget | None = None,
    strategy: str = "importance",
    seed: int = 0,
    features: Mapping[str, Vector] | None = None,
    annotated: Collection[str] = (),
    leased: Collection[str] = (),
    judged: Mapping[str, Collection[str]] = MappingProxyType({}),
) -> list[Selected]:
    """The candidates to revise first, as many as `budget` buys (`cases` is short for one of cases); fewer when there are fewer.

    Equal scores go by case id. features: {case: global features} of candidates and of `annotated` cases, for ``diverse``.
    leased: cases that an expert has open; they are not handed out twice. judged: {case: classes that somebody has annotated
    there}, which are not asked for again; a case with nothing left is not offered. ``candidates_of`` leaves out what must never
    be offered. Raises UsageError for an unknown strategy, no budget, and ``diverse`` without the features of a candidate.
    """
    check_strategy(strategy)
    wanted = {c.case_id: [n for n in classes if n not in judged.get(c.case_id, ())] for c in candidates}
    scored = [n for n in classes if any(n in c.classes for c in candidates)]
    free = sorted(
        (
            _only(c, [n for n in scored if n in wanted[c.case_id]]) if scored else c
            for c in candidates
            if c.case_id not in leased and wanted[c.case_id]
        ),
        key=lambda c: c.case_id,
    )
    by_score = sorted(free, key=lambda c: -c.score)
    if strategy == "random":
        order = [free[i] for i in np.random.default_rng(seed).permutation(len(free))]
    elif strategy == "uncertainty":
        order = sorted(free, key=lambda c: -sum(k.uncertain for k in c.classes.values()))
    elif strategy == "diverse":
        order = list(_diverse(by_score, features or {}, annotated))
    elif strategy == "stratified":
        order = list(_stratified(by_score))
    else:
        order = by_score
    return _bought((_row(c, wanted[c.case_id]) for c in order), budget or Budget(cases), _cut(order))


def _only(case: CaseImportance, names: Sequence[str]) -> CaseImportance:
    """What a case's score is of some of its classes alone."""
    classes = {name: case.classes[name] for name in names if name in case.classes}
    if len(classes) == len(case.classes):
        return case
    parts = (one.measures.get(ATTENDED, one.score) for one in classes.values())
    minutes = sum(one.minutes for one in classes.values())
    return CaseImportance(case.case_id, float(sum(parts)), classes, minutes)


def asked_classes(
    names: Iterable[str], known: Iterable[str], aliases: Mapping[str, str], what: str
) -> tuple[str, ...]:
    """The classes that a person named, as ctune writes them, each once. known: what they may be, `what` in words.

    Raises UnknownClassError for another, with the nearest known one.

    >>> asked_classes(["Spleen", "spleen", "IVC"], ["spleen", "postcava"], {}, "those of the project")
    ('spleen', 'postcava')
    """
    wanted, there = tuple(dict.fromkeys(canonical(name, aliases) for name in names)), list(known)
    for name in wanted:
        if name not in there:
            hint = nearest(name, there)
            raise UnknownClassError(
                f"expected classes among {what}, got {name!r}; "
                + (
                    f"did you mean {hint}?"
                    if hint
                    else f"there are {', '.join(there[:12])}" + ", ..." * (len(there) > 12)
                )
            )
    return wanted


def judged_classes(project: Project) -> dict[str, set[str]]:
    """{case of the pool's split: the classes that somebody annotated there, original or revised}."""
    pool = project.pool
    return {
        case.id: {
            project.class_of(record)
            for record in pool.annotations(case.id)
            if record.source != Source.PREDICTED
        }
        for case in pool.cases(Split.POOL)
    }


def lacking(project: Project, classes: Collection[str]) -> list[str]:
    """The cases of the pool's split in which nobody has judged at least one of `classes`."""
    return [case for case, known in judged_classes(project).items() if not set(classes) <= known]


def candidates_of(
    project: Project, importances: Sequence[CaseImportance], classes: Collection[str]
) -> list[CaseImportance]:
    """Those that an expert may be asked about `classes`: ``lacking``. Test and validation cases are never offered."""
    asked = set(lacking(project, classes))
    return [one for one in importances if one.case_id in asked]


def _diverse(
    ranked: Sequence[CaseImportance], features: Mapping[str, Vector], annotated: Collection[str]
) -> Iterator[CaseImportance]:
    lacking = [c.case_id for c in ranked if c.case_id not in features]
    if lacking:
        raise UsageError(f"expected global features of every candidate for diverse, got none of {lacking[0]}")
    if not ranked:
        return
    known = [name for name in sorted(annotated) if name in features]
    names = [*(c.case_id for c in ranked), *known]
    table = np.stack([features[name] for name in names]).astype(np.float64)
    spread = table.std(axis=0)
    table = (table - table.mean(axis=0)) / np.where(spread > 0, spread, 1.0)
    own, others = table[: len(ranked)], table[len(ranked) :]
    weight = 1.0 - np.arange(len(ranked)) / len(ranked)
    distance = np.full(len(ranked), np.inf)
    for other in others:
        distance = np.minimum(distance, np.linalg.norm(own - other, axis=1))
    left = np.ones(len(ranked), dtype=bool)
    while left.any():
        # Nothing known yet: all are as far.
        value = np.where(left, weight * (distance if np.isfinite(distance).all() else 1.0), -1.0)
        best = int(value.argmax())
        left[best] = False
        distance = np.minimum(distance, np.linalg.norm(own - own[best], axis=1))
        yield ranked[best]


def _stratified(ranked: Sequence[CaseImportance]) -> Iterator[CaseImportance]:
    strata: dict[str, list[CaseImportance]] = {}
    for case in ranked:
        strata.setdefault(case.order[0] if case.classes else "", []).append(case)
    # The stratum whose worst case is worst goes first.
    while queues := [cases for cases in strata.values() if cases]:
        for cases in queues:
            yield cases.pop(0)


def _row(case: CaseImportance, classes: Sequence[str]) -> Selected:
    known = sorted((n for n in classes if n in case.classes), key=lambda n: -case.classes[n].score)
    new = [n for n in classes if n not in case.classes]
    reasons = [f"{n}: new class" for n in new] + [case.classes[n].reason for n in known]
    if not known:
        worst = sorted(case.classes, key=lambda n: -case.classes[n].score)[:2]
        reasons += [case.classes[n].reason for n in worst]
    names = (*new, *known)
    return Selected(0, case.case_id, case.score, names, "; ".join(reasons), minutes_of(case, names))


def minutes_of(case: CaseImportance, classes: Sequence[str]) -> float:
    """Minutes to open a case and revise `classes` of it, as scoring expects them."""
    each = [case.classes[n].minutes if n in case.classes else OPENING_MINUTES for n in classes]
    return OPENING_MINUTES + sum(each)


_Cut = Callable[[Selected, int], Selected]


def _cut(cases: Sequence[CaseImportance]) -> _Cut:
    by_id = {case.case_id: case for case in cases}

    def cut(row: Selected, count: int) -> Selected:
        kept = row.classes[:count]
        return replace(row, classes=kept, minutes=minutes_of(by_id[row.case_id], kept))

    return cut


def _bought(rows: Iterator[Selected], budget: Budget, cut: _Cut) -> list[Selected]:
    """Rows in order as far as they fit, one that does not fit whole for its first classes alone; at least one class of one
    case. A case that takes more minutes than are left is passed over: shorter ones may come."""
    out, first = list[Selected](), None
    annotations, minutes = 0, 0.0
    for row in rows:
        first = first or row
        count = len(row.classes)
        if budget.annotations is not None:
            count = min(count, budget.annotations - annotations)
        if count == 0 or len(out) == budget.cases:
            break
        if budget.minutes is not None:
            while count > 0 and minutes + cut(row, count).minutes > budget.minutes:
                count -= 1
        if count > 0:
            bought = cut(row, count) if count < len(row.classes) else row
            out.append(replace(bought, rank=len(out) + 1))
            annotations, minutes = annotations + count, minutes + bought.minutes
    return out or ([replace(cut(first, 1), rank=1)] if first else [])


def write_csv(path: Path, rows: Sequence[Selected]) -> None:
    """Write ``selection.csv``: rank, case, score, classes (with blanks between), minutes, reason."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_COLUMNS)
    writer.writerows(
        (r.rank, r.case_id, repr(r.score), " ".join(r.classes), repr(r.minutes), r.reason) for r in rows
    )
    with write_atomically(path) as temporary:
        temporary.write_text(text.getvalue(), encoding="utf-8")


def read_csv(path: Path) -> list[Selected]:
    """What ``write_csv`` wrote; lists of earlier versions say nothing of minutes."""
    with path.open(newline="", encoding="utf-8") as file:
        return [
            Selected(
                int(r["rank"]), r["case"], float(r["score"]), tuple(r["classes"].split()), r["reason"],
                float(r.get("minutes") or 0.0),
            )
            for r in csv.DictReader(file)
        ]  # fmt: skip
