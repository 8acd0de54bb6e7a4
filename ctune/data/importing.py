"""Bring found cases into the pool: each is checked whole before any of it is kept, and a refusal never stops the rest."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from ctune.classes import canonical, nearest
from ctune.data.files import sha256_of
from ctune.data.layouts import FoundCase
from ctune.data.nifti import check_whole, read_grid, read_labels, read_mask
from ctune.data.pool import Pool
from ctune.errors import DataError, LabelError, PoolError, UnknownClassError, UsageError
from ctune.types import UNLABELLED, Grid, Mask, OnProgress, Progress, Source, Split, silent

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
    """cases: what became of each, in order. skipped: {class that nobody asked for: in how many cases it was left out}.
    unnamed: {number in label maps that no table names: in how many cases}."""

    cases: tuple[CaseOutcome, ...]
    skipped: Mapping[str, int]
    unnamed: Mapping[int, int]

    def of(self, outcome: Outcome) -> list[CaseOutcome]:
        """The cases with one outcome."""
        return [case for case in self.cases if case.outcome == outcome]

    @property
    def refused(self) -> list[CaseOutcome]:
        return self.of("refused")


@dataclass(frozen=True)
class Splits:
    """Which cases of an import are kept for testing and validation.

    `test` and `validation` cases are drawn by a hash of `seed` and the id: the same whatever their order. `rest` gets the
    others; `strict` refuses a case that the pool holds in another split.
    """

    test: int = 0
    validation: int = 0
    seed: int = 0
    rest: Split = Split.POOL
    strict: bool = False

    def of(self, case_ids: Collection[str]) -> dict[str, Split]:
        """{id: split}. Raises UsageError when there are fewer cases than are to be kept."""
        if self.test + self.validation > len(case_ids):
            raise UsageError(
                f"expected at least {self.test + self.validation} cases to keep {self.test} for testing and "
                f"{self.validation} for validation, got {len(case_ids)}; keep fewer"
            )
        drawn = sorted(case_ids, key=lambda c: hashlib.sha256(f"{self.seed}:{c}".encode()).digest())
        out = dict.fromkeys(drawn, self.rest)
        out.update(dict.fromkeys(drawn[: self.test], Split.TEST))
        out.update(dict.fromkeys(drawn[self.test : self.test + self.validation], Split.VALIDATION))
        return out


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
            wanted = self._wanted(case)
            if case.id in self.pool:
                return self._add(case, wanted)
            return self._new(case, wanted)
        except (DataError, PoolError, OSError, MemoryError) as error:
            return CaseOutcome(case.id, "refused", reason=" ".join(str(error).split()) or type(error).__name__)

    def _new(self, case: FoundCase, wanted: Mapping[str, str]) -> CaseOutcome:
        if case.image is None:
            raise PoolError(f"case {case.id}: expected a CT for a new case, got masks alone; import its CT first")
        masks = _Masks(case, wanted, read_grid(case.image, case.id))
        origin = {"data set": case.data_set, "image": str(case.image)}
        record = self.pool.add_case(
            case.id, case.image, self.splits[case.id], masks, source=self._source(case), author=self._author(case),
            origin=origin, notes=_notes(case, wanted),
        )  # fmt: skip
        self.unnamed.update(masks.unnamed)
        return CaseOutcome(case.id, "imported", record.split, tuple(wanted), record.notes)

    def _add(self, case: FoundCase, wanted: Mapping[str, str]) -> CaseOutcome:
        record = self.pool.case(case.id)
        if case.image is not None and (digest := sha256_of(_there(case.image, case.id))) != record.sha256:
            raise PoolError(
                f"case {case.id}: expected the CT that the pool holds (sha256 {record.sha256[:12]}), got another "
                f"({digest[:12]}) in {case.image}; give the new CT another id"
            )
        if self.strict and record.split != self.splits[case.id]:
            raise PoolError(
                f"case {case.id}: expected split {record.split}, which it has for good, got {self.splits[case.id]}; "
                "leave --split out for cases that are there"
            )
        masks = _Masks(case, wanted, record.grid)
        # All masks are read before the first is kept, so that a refused case leaves nothing behind.
        missing = [name for name, mask in masks.items() if not self._has(case, name, mask)]
        notes = _notes(case, wanted)
        for name in missing:
            self.pool.annotate(
                case.id, name, masks[name], source=self._source(case), author=self._author(case), note=notes[name]
            )
        self.unnamed.update(masks.unnamed)
        return CaseOutcome(case.id, "added" if missing else "already there", record.split, tuple(missing), record.notes)

    def _has(self, case: FoundCase, name: str, mask: Mask) -> bool:
        """Whether the pool holds this very mask. Raises PoolError for another original: originals do not change."""
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

    def _wanted(self, case: FoundCase) -> dict[str, str]:
        """{class: its name in the data set}, of the classes that were asked for."""
        wanted: dict[str, str] = {}
        for name in case.names:
            try:
                own = canonical(name, self.aliases)
            except UnknownClassError:
                self.skipped[name] += 1
                continue
            if self.classes is not None and own not in self.classes:
                self.skipped[own] += 1
            elif own in wanted:
                raise LabelError(
                    f"case {case.id}: expected one mask of {own}, got {wanted[own]!r} and {name!r}; keep one of them"
                )
            else:
                wanted[own] = name
        return wanted

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

    `aliases` are the project's own names. `source` and `author` (by default what the data set says and its name) stand in
    every annotation. A case with a fault in any of its files is refused and leaves nothing behind; the rest goes on. A
    case that is there with the same bytes gets the annotations that it lacks. Peak memory: one CT, or one label map and
    one mask. Raises UsageError for impossible splits, UnknownClassError for a class that no case has.
    """
    splits = splits or Splits()
    _check_classes(found, classes, aliases or {})
    drawn = splits.of({case.id for case in found})
    work = Import(pool, classes, aliases or {}, source, author, drawn, splits.strict)
    outcomes = []
    for number, case in enumerate(found):
        outcomes.append(work.take(case))
        on_progress(Progress("import", number + 1, len(found), case.id))
    return ImportReport(tuple(outcomes), dict(sorted(work.skipped.items())), dict(sorted(work.unnamed.items())))


def known_classes(found: Sequence[FoundCase], aliases: Mapping[str, str] | None = None) -> list[str]:
    """The classes of which `found` cases have masks, as ctune writes them, sorted."""
    names = set()
    for name in {name for case in found for name in case.names}:
        try:
            names.add(canonical(name, aliases))
        except UnknownClassError:
            continue
    return sorted(names)


def _check_classes(found: Sequence[FoundCase], classes: Sequence[str] | None, aliases: Mapping[str, str]) -> None:
    known = known_classes(found, aliases)
    if classes is None or not known or set(classes) & set(known):
        return
    hint = nearest(classes[0], known) if len(classes) == 1 else None
    advice = f"did you mean {hint!r}?" if hint else "choose some of them with --classes, or `--classes all`"
    raise UnknownClassError(f"expected classes of this data set ({', '.join(known)}), got {', '.join(classes)}; {advice}")


class _Masks(Mapping[str, Mask]):
    """The wanted masks of a case, {class: (X, Y, Z) uint8 on `grid`}, each read when it is asked for."""

    def __init__(self, case: FoundCase, wanted: Mapping[str, str], grid: Grid) -> None:
        self.case, self.wanted, self.grid = case, wanted, grid
        self.unnamed: set[int] = set()
        self._map: npt.NDArray[np.int32] | None = None

    def __getitem__(self, name: str) -> Mask:
        what = f"case {self.case.id}, {name}"
        if self.case.label_map is None:
            path = self.case.masks[self.wanted[name]]
            check_whole(path, what)
            return read_mask(path, self.grid, what)
        labels = self._labels(self.case.label_map)
        mask = np.isin(labels, self.case.labels[self.wanted[name]]).astype(np.uint8)
        mask[labels == self.case.ignore] = UNLABELLED
        return mask

    def __iter__(self) -> Iterator[str]:
        return iter(self.wanted)

    def __len__(self) -> int:
        return len(self.wanted)

    def _labels(self, path: Path) -> npt.NDArray[np.int32]:
        """The label map, read once. Raises LabelError for numbers that a complete table does not name."""
        if self._map is None:
            what = f"case {self.case.id}"
            check_whole(path, what)
            labels = read_labels(path, self.grid, what)
            named = {number for numbers in self.case.labels.values() for number in numbers}
            self.unnamed = set(np.unique(labels).tolist()) - named - {0, self.case.ignore}
            if self.unnamed and self.case.complete:
                raise LabelError(
                    f"{what}: expected the labels that the data set names ({_few(named)}), got {_few(self.unnamed)} in "
                    f"{path}; name the labels to take with --labels"
                )
            self._map = labels
        return self._map


def _notes(case: FoundCase, wanted: Mapping[str, str]) -> dict[str, str]:
    """{class: which file, and which numbers in it, its mask came from}."""
    if case.label_map is None:
        return {own: f"from {case.masks[name].name}" for own, name in wanted.items()}
    return {
        own: f"from {case.label_map.name}, label {'+'.join(map(str, case.labels[name]))} ({name})"
        for own, name in wanted.items()
    }


def _there(path: Path, case_id: str) -> Path:
    if not path.is_file():
        raise DataError(f"case {case_id}: expected an image, found no file {path}; check the path")
    return path


def _few(numbers: Collection[int]) -> str:
    listed = sorted(numbers)
    return ", ".join(map(str, listed[:8])) + (f" and {len(listed) - 8} more" if len(listed) > 8 else "")
