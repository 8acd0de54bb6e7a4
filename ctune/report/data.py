"""What a report shows, as plain values: the page is drawn from these alone, without a project, a registry or torch.

Classes are numbered from 1 in the order of ``ReportData.classes``; the number stands beside the class in tables, plots and
pictures, so that nothing hangs on colour.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from ctune.evaluate import ClassSummary, mean_dice
from ctune.report.views import View


@dataclass(frozen=True)
class SelectedCase:
    """One row of the expert's list. seconds and changed_ml: what the revision took and changed, None where none came."""

    rank: int
    case_id: str
    score: float
    reason: str
    seconds: float | None = None
    changed_ml: float | None = None


@dataclass(frozen=True)
class RoundSummary:
    """One round: what was selected and why, what the expert did, what the tuning did.

    losses: {class: mean loss of each epoch}. seconds: {arrow: seconds}; cache_seconds of the tuning went into features of
    the frozen base. max_abs_logit_change: of all classes that were not revised, None when the settings let more than heads
    train. simulated: the expert's minutes come from a model of time, not from a clock. revised_masks: handed in for it.
    """

    number: int
    name: str
    revised_classes: tuple[str, ...]
    strategy: str
    selected: tuple[SelectedCase, ...]
    expert: str
    simulated: bool
    revised_masks: int
    expert_seconds: float
    changed_ml: float
    losses: Mapping[str, Sequence[float]]
    seconds: Mapping[str, float]
    cache_seconds: float
    max_abs_logit_change: float | None
    compared_logits: int


@dataclass(frozen=True)
class HeadFacts:
    """One head of the last model. annotations: {source: how many trained it}; round 0 is the training of the base."""

    class_name: str
    digest: str
    kind: str
    round: int
    annotations: Mapping[str, int]
    experts: tuple[str, ...]


@dataclass(frozen=True)
class ModelFacts:
    """The model that the report ends with. reference: ``name:version``. base: digest of the base's record."""

    reference: str
    digest: str
    base: str
    fingerprint: str
    architecture: str
    heads: tuple[HeadFacts, ...]


@dataclass(frozen=True)
class ReportData:
    """Everything on the page.

    evaluations: {class: summary of the test scores} before the first round and after each, so one more than rounds; a
    class without a head yet is not in it. seconds: of everything, 0 when nobody took the time. views: pictures of cases
    as they were selected; tests: of test cases before the first round and after the last.
    """

    title: str
    classes: tuple[str, ...]
    base_classes: tuple[str, ...]
    evaluations: tuple[Mapping[str, ClassSummary], ...]
    rounds: tuple[RoundSummary, ...]
    model: ModelFacts
    cases: Mapping[str, int]
    seconds: float
    seed: int
    machine: Mapping[str, str]
    versions: Mapping[str, str]
    views: tuple[View, ...] = ()
    tests: tuple[View, ...] = ()
    nsd_tolerance_mm: float = 2.0
    bwt: Mapping[str, float] = field(default_factory=dict)
    """Backward transfer over "the base's classes" and over "all classes", where it is defined."""

    @property
    def stage_names(self) -> tuple[str, ...]:
        """Of `evaluations`, for people."""
        return ("before", *(f"round {r.number}" for r in self.rounds))

    @property
    def revised(self) -> tuple[str, ...]:
        """Classes that any round revised, in the order of `classes`."""
        return tuple(c for c in self.classes if any(c in r.revised_classes for r in self.rounds))

    @property
    def kept(self) -> tuple[str, ...]:
        """Classes of the base that no round revised: what must not have moved."""
        return tuple(c for c in self.base_classes if c not in self.revised)

    @property
    def largest_change(self) -> float | None:
        """Of a logit of an unrevised class in any round; None when a round let more than the heads train."""
        changes = [r.max_abs_logit_change for r in self.rounds]
        known = [c for c in changes if c is not None]
        return max(known, default=0.0) if len(known) == len(changes) else None

    @property
    def compared_logits(self) -> int:
        """How many logits of unrevised classes were compared, over all rounds."""
        return sum(r.compared_logits for r in self.rounds)

    @property
    def nothing_forgotten(self) -> bool:
        """No logit that had to stay moved, some were compared, and no class is worse than when it was first measured."""
        last = self.evaluations[-1]
        first = {
            n: s.dice for stage in reversed(self.evaluations) for n, s in stage.items() if s.dice is not None
        }
        fell = [n for n, dice in first.items() if n not in last or (last[n].dice or 0.0) < dice]
        return self.largest_change == 0 and self.compared_logits > 0 and not fell

    def means(self, classes: Iterable[str]) -> list[float | None]:
        """Mean over `classes` of their mean Dice, for each stage; None where none of them is measured."""
        names = tuple(classes)
        return [mean_dice(stage, names) for stage in self.evaluations]

    def number(self, name: str) -> int:
        """Of a class, from 1."""
        return self.classes.index(name) + 1
