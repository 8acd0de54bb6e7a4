"""Select the next cases for the expert, in order, with the classes to revise in each, in order, and why."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ctune.data.files import write_atomically
from ctune.errors import UsageError
from ctune.importance import CaseImportance

STRATEGIES = ("importance", "uncertainty", "random")
_COLUMNS = ("rank", "case", "score", "classes", "reason")


@dataclass(frozen=True)
class Selected:
    """One row of the expert's list. classes: to revise, most in need first; those without a prediction come first."""

    rank: int
    case_id: str
    score: float
    classes: tuple[str, ...]
    reason: str


def select(
    candidates: Sequence[CaseImportance],
    *,
    classes: Sequence[str],
    cases: int,
    strategy: str = "importance",
    seed: int = 0,
) -> list[Selected]:
    """The `cases` candidates to revise first; fewer when there are fewer.

    importance: by score. uncertainty: by millilitres of entropy alone. random: seeded, the baseline. Equal scores go by
    case id. Candidates come from the pool split alone: test and validation cases are never offered here. Raises UsageError
    for an unknown strategy.
    """
    if strategy not in STRATEGIES:
        raise UsageError(f"expected a strategy of {', '.join(STRATEGIES)}; got {strategy!r}")
    ordered = sorted(candidates, key=lambda c: c.case_id)
    if strategy == "random":
        chosen = [ordered[i] for i in np.random.default_rng(seed).permutation(len(ordered))]
    elif strategy == "uncertainty":
        chosen = sorted(ordered, key=lambda c: -sum(k.uncertain for k in c.classes.values()))
    else:
        chosen = sorted(ordered, key=lambda c: -c.score)
    return [_selected(rank + 1, c, classes) for rank, c in enumerate(chosen[:cases])]


def _selected(rank: int, case: CaseImportance, classes: Sequence[str]) -> Selected:
    known = sorted((n for n in classes if n in case.classes), key=lambda n: -case.classes[n].score)
    new = [n for n in classes if n not in case.classes]
    reasons = [f"{n}: new class" for n in new] + [case.classes[n].reason for n in known]
    if not known:
        worst = sorted(case.classes, key=lambda n: -case.classes[n].score)[:2]
        reasons += [case.classes[n].reason for n in worst]
    return Selected(rank, case.case_id, case.score, (*new, *known), "; ".join(reasons))


def write_csv(path: Path, rows: Sequence[Selected]) -> None:
    """Write ``selection.csv``: rank, case, score, classes (with blanks between), reason."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_COLUMNS)
    writer.writerows((r.rank, r.case_id, repr(r.score), " ".join(r.classes), r.reason) for r in rows)
    with write_atomically(path) as temporary:
        temporary.write_text(text.getvalue(), encoding="utf-8")


def read_csv(path: Path) -> list[Selected]:
    """What ``write_csv`` wrote."""
    with path.open(newline="", encoding="utf-8") as file:
        return [
            Selected(int(r["rank"]), r["case"], float(r["score"]), tuple(r["classes"].split()), r["reason"])
            for r in csv.DictReader(file)
        ]
