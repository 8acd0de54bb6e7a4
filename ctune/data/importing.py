"""Bring found cases into the pool: each is checked before any of it is kept; refusals never stop the rest."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from ctune.classes import canonical, nearest
from ctune.data.files import sha256_of
from ctune.data.foreign import as_nifti
from ctune.data.found import FoundCase, FoundMasks, notes_of
from ctune.data.nifti import read_grid
from ctune.data.pool import Pool
from ctune.data.splits import Splits
from ctune.errors import DataError, LabelError, PoolError, UnknownClassError, UsageError
from ctune.types import Mask, OnProgress, Progress, Source, Split, silent

Outcome = Literal["imported", "added", "already there", "refused"]


@dataclass(frozen=True)
class CaseOutcome:
    """What became of one case.

    outcome: imported as new, annotations added to it, already there, or refused for `reason`.
    classes: of which annotations were written. notes: oddities of the CT's header.
    """

    id: str
    outcome: Outcome
    split: Split | None = None
    classes: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    reason: str = ""


@dataclass(frozen=True)
class ImportReport:
    """What an import did.

    cases: what became of each, in order. skipped: {class that nobody asked for: number of cases that came in
    without it}. unnamed: {number in label maps that no table names: in how many cases}.
    """

    cases: tuple[CaseOutcome, ...]
    skipped: Mapping[str, int]
    unnamed: Mapping[int, int]

    def of(self, outcome: Outcome) -> list[CaseOutcome]:
        """The cases with one outcome."""
        return [case for case in self.cases if case.outcome == outcome]

    @property
    def refused(self) -> list[CaseOutcome]:
        return self.of("refused")


@dataclass
class Import:
    """One import: what is wanted, and what was left out on the way."""

    pool: Pool
    classes: Sequence[str] | None
    """Names as ctune writes them; None for all."""
    aliases: Mapping[str, str]
    source: Source | None
    author: str | None
    splits: Mapping[str, Split]
    strict: bool
    skipped: Counter[str] = field(default_factory=Counter)
    unnamed: Counter[int] = field(default_factory=Counter)

    def take(self, case: FoundCase) -> CaseOutcome:
        """Import one case; every fault of its files becomes a refusal."""
        try:
            if case.problem:
                raise DataError(f"case {case.id}: {case.problem}")
            wanted, left = self._wanted(case)
            with as_nifti(case) as ready:
                take = self._add if case.id in self.pool else self._new
                outcome, masks = take(ready, wanted)
            self.skipped.update(own for own, name in left.items() if masks.holds(name))
            self.unnamed.update(masks.unnamed)
            return outcome
        except (DataError, PoolError, OSError, MemoryError) as error:
            return CaseOutcome(
                case.id, "refused", reason=" ".join(str(error).split()) or type(error).__name__
            )

    def _new(self, case: FoundCase, wanted: Mapping[str, str]) -> tuple[CaseOutcome, FoundMasks]:
        if case.image is None:
            raise PoolError(
                f"case {case.id}: expected a CT for a new case, got masks alone; import its CT first"
            )
        masks = FoundMasks(case, wanted, read_grid(case.image, case.id))
        origin = {"data set": case.data_set, "image": str(case.origin)}
        record = self.pool.add_case(
            case.id, case.image, self.splits[case.id], masks, source=self._source(case),
            author=self._author(case), origin=origin, notes=notes_of(case, wanted),
        )  # fmt: skip
        return CaseOutcome(case.id, "imported", record.split, tuple(wanted), record.notes), masks

    def _add(self, case: FoundCase, wanted: Mapping[str, str]) -> tuple[CaseOutcome, FoundMasks]:
        record = self.pool.case(case.id)
        if case.image is not None and (digest := sha256_of(_there(case.image, case.id))) != record.sha256:
            raise PoolError(
                f"case {case.id}: expected the CT that the pool holds (sha256 {record.sha256[:12]}), got "
                f"another ({digest[:12]}) in {case.origin}; give the new CT another id"
            )
        if self.strict and record.split != self.splits[case.id]:
            raise PoolError(
                f"case {case.id}: expected split {record.split}, which it has for good, "
                f"got {self.splits[case.id]}; leave --split out for cases that are there"
            )
        masks = FoundMasks(case, wanted, record.grid)
        # All masks are read before the first is kept, so that a refused case leaves nothing behind.
        missing = [name for name, mask in masks.items() if not self._has(case, name, mask)]
        notes = notes_of(case, wanted)
        for name in missing:
            self.pool.annotate(
                case.id,
                name,
                masks[name],
                source=self._source(case),
                author=self._author(case),
                note=notes[name],
            )
        outcome: Outcome = "added" if missing else "already there"
        return CaseOutcome(case.id, outcome, record.split, tuple(missing), record.notes), masks

    def _has(self, case: FoundCase, name: str, mask: Mask) -> bool:
        """Whether the pool holds this very mask. Raises PoolError for another original: they never change."""
        source = self._source(case)
        known = [r for r in self.pool.annotations(case.id, name) if r.source == source]
        if any(np.array_equal(self.pool.read(r).mask, mask) for r in reversed(known)):
            return True
        if known and source == Source.ORIGINAL:
            raise PoolError(
                f"case {case.id}, {name}: expected the original annotation of {known[-1].created[:10]} by "
                f"{known[-1].author}, which never changes, got another mask; import it with --source revised"
            )
        return False

    def _wanted(self, case: FoundCase) -> tuple[dict[str, str], dict[str, str]]:
        """{class: its name in the data set} of the classes that were asked for, and of the others."""
        wanted: dict[str, str] = {}
        left: dict[str, str] = {}
        for name in case.names:
            try:
                own = canonical(name, self.aliases)
            except UnknownClassError:
                left[name] = name
                continue
            if self.classes is not None and own not in self.classes:
                left[own] = name
            elif own in wanted:
                raise LabelError(
                    f"case {case.id}: expected one mask of {own}, got {wanted[own]!r} and {name!r}; "
                    "keep one of them"
                )
            else:
                wanted[own] = name
        return wanted, left

    def _source(self, case: FoundCase) -> Source:
        return self.source or case.source

    def _author(self, case: FoundCase) -> str:
        return self.author or case.data_set or "import"


def import_cases(
    pool: Pool,
    found: Sequence[FoundCase],
    *,
    classes: Sequence[str] | None = None,
    aliases: Mapping[str, str] | None = None,
    splits: Splits | None = None,
    source: Source | None = None,
    author: str | None = None,
    on_progress: OnProgress = silent,
) -> ImportReport:
    """Bring `found` cases into the pool with their masks of `classes` (all when None, under ctune's names).

    `aliases` are the project's own names. `source` and `author` (by default what the data set says and its
    name) stand in every annotation. A case with a fault in any of its files is refused and leaves nothing
    behind; the rest goes on. A case that is there with the same bytes gets the annotations that it lacks.
    Peak memory: one CT, or one label map and one mask. Raises UsageError for impossible splits,
    UnknownClassError for a class that no case has.
    """
    splits = splits or Splits()
    _check_any(found, classes, aliases or {})
    drawn = splits.of({case.id for case in found})
    work = Import(pool, classes, aliases or {}, source, author, drawn, splits.strict)
    outcomes = []
    for number, case in enumerate(found):
        outcomes.append(work.take(case))
        on_progress(Progress("import", number + 1, len(found), case.id))
    return ImportReport(
        tuple(outcomes), dict(sorted(work.skipped.items())), dict(sorted(work.unnamed.items()))
    )


def choose_cases(
    found: Sequence[FoundCase], ids: Sequence[str] | None = None, limit: int | None = None
) -> list[FoundCase]:
    """Those of the `found` cases that have these ids, and of them the first `limit`.

    Raises UsageError for an id that no case has.
    """
    known = {case.id for case in found}
    for case_id in ids or ():
        if case_id not in known:
            hint = nearest(case_id, known)
            raise UsageError(
                f"expected ids of the {len(found)} cases found, got {case_id!r}"
                + (f"; did you mean {hint!r}?" if hint else "; leave it out")
            )
    return [case for case in found if ids is None or case.id in ids][:limit]


def known_classes(found: Sequence[FoundCase], aliases: Mapping[str, str] | None = None) -> list[str]:
    """The classes of which `found` cases have masks, as ctune writes them, sorted."""
    names = set()
    for name in {name for case in found for name in case.names}:
        with suppress(UnknownClassError):
            names.add(canonical(name, aliases))
    return sorted(names)


def check_classes(found: Sequence[FoundCase], classes: Sequence[str], aliases: Mapping[str, str]) -> None:
    """Raise UnknownClassError, with the nearest one that is there, for a class that no case has a mask of.

    Where no case's labels read, nothing is known of their classes, and nothing is raised: each is refused with its reason.
    """
    known = known_classes(found, aliases)
    if not known and any(case.problem for case in found):
        return
    for name in classes:
        if name not in known:
            hint = nearest(name, known)
            raise UnknownClassError(
                f"expected classes of this data set ({', '.join(known) or 'it has none'}), got {name!r}; "
                + (f"did you mean {hint!r}?" if hint else "leave it out")
            )


def _check_any(found: Sequence[FoundCase], classes: Sequence[str] | None, aliases: Mapping[str, str]) -> None:
    known = known_classes(found, aliases)
    if classes is not None and known and not set(classes) & set(known):
        raise UnknownClassError(
            f"expected a class of this data set ({', '.join(known)}) among {', '.join(classes)}, got none; "
            "name some with --classes, or take all with `--classes all`"
        )


def _there(path: Path, case_id: str) -> Path:
    if not path.is_file():
        raise DataError(f"case {case_id}: expected an image, found no file {path}; check the path")
    return path
