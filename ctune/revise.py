"""Take in what an expert has revised: masks from a folder, what changed against what stood before, and never overwrite.

FOLDER/CASE/<class>.nii.gz    or    FOLDER/CASE/segmentations/<class>.nii.gz    or what ``ctune review export`` wrote
FOLDER/CASE.nii.gz (a label map, its names in CASE.txt)    or    FOLDER/CASE.seg.nrrd    or    FOLDER/CASE.dcm
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ctune.data.exchange import read_segmentation, stem_of
from ctune.data.labels import Labels
from ctune.data.pool import Pool
from ctune.errors import CtuneError, DataError, LabelError, PoolError
from ctune.exported import is_exported, read_exported
from ctune.hybrid import DEFAULT_ORDER, merge
from ctune.select import asked_classes
from ctune.types import UNLABELLED, Grid, Mask, OnProgress, Progress, Source, Split, silent

_WHAT = "those of the project's `classes`, those with a text vector and what is known of the case"
_FILES = (".nii", ".nii.gz", ".nrrd", ".dcm")


@dataclass(frozen=True)
class RevisedClass:
    """What one revision changed. Volumes in mL; slices: along the third axis of the file, with at least one changed voxel.

    already_there: the same mask was handed in before, nothing was written. outranked: an original annotation of this class
    stands and wins, so the revision does not train while the project's order says so.
    """

    case_id: str
    class_name: str
    before_ml: float
    after_ml: float
    changed_ml: float
    slices_changed: int
    already_there: bool = False
    outranked: bool = False


@dataclass(frozen=True)
class RevisionReport:
    """revised: one row for each class of each case. refused: (case, one line why).

    untouched: (case, class) of exported cases whose class came back as it went out: no revision.
    """

    revised: tuple[RevisedClass, ...]
    refused: tuple[tuple[str, str], ...]
    untouched: tuple[tuple[str, str], ...] = ()


def import_revisions(
    pool: Pool,
    folder: Path,
    *,
    expert: str,
    round_number: int,
    labels: Labels | None = None,
    aliases: Mapping[str, str] | None = None,
    seconds: float | None = None,
    before: Mapping[str, Mapping[str, Mask]] | None = None,
    classes: Collection[str] | None = None,
    on_progress: OnProgress = silent,
) -> RevisionReport:
    """Add every revised mask in `folder` to the pool as an annotation of `expert` in `round_number`.

    `labels` {class: ids}, an id may belong to several, is needed for label maps without a table of names beside them.
    `seconds` is the expert's time for each case. `before` {case: {class: mask}} is what stood before where the pool has no
    annotation, e.g. the round's predictions. `classes` are what masks may be of, beside what stood before in the case, None
    for any: a mistyped name would be a class for ever. A case with a fault in any file, or in two places, is refused whole and
    the rest goes on. Raises PoolError when `folder` is not there or has no case, OSError when the pool cannot be written.
    """
    found = _found(folder)
    revised: list[RevisedClass] = []
    refused: list[tuple[str, str]] = []
    untouched: list[tuple[str, str]] = []
    for number, (case_id, places) in enumerate(found.items()):
        try:
            masks, left = _masks(pool, case_id, _only(places, case_id), labels, aliases or {})
            untouched += [(case_id, name) for name in left]
            share = seconds / len(masks) if seconds is not None and masks else None
            known = (before or {}).get(case_id, {})
            if classes is not None:
                annotated = (record.class_name for record in pool.annotations(case_id))
                asked_classes(masks, dict.fromkeys([*classes, *known, *annotated]), {}, _WHAT)
            # One by one: what the pool took before it refused a class is told beside the refusal.
            for name, mask in masks.items():
                revised.append(_take(pool, case_id, name, mask, known.get(name), expert, round_number, share))
        except CtuneError as error:
            refused.append((case_id, str(error)))
        on_progress(Progress("revise", number + 1, len(found), case_id))
    return RevisionReport(tuple(revised), tuple(refused), tuple(untouched))


def compare(before: Mask | None, after: Mask, grid: Grid) -> tuple[float, float, float, int]:
    """(before mL, after mL, changed mL, slices changed along the third axis); no mask before counts as an empty one.

    Voxels that either side has not judged count as unchanged.
    """
    old = np.zeros_like(after) if before is None else before
    changed = (old != after) & (old != UNLABELLED) & (after != UNLABELLED)
    slices = int(changed.any(axis=(0, 1)).sum())
    before_ml, after_ml, changed_ml = (
        float(part.sum()) * grid.voxel_ml for part in (old == 1, after == 1, changed)
    )
    return before_ml, after_ml, changed_ml, slices


def _found(folder: Path) -> dict[str, list[Path]]:
    """{case: where its masks are}, of which there should be one."""
    if not folder.is_dir():
        raise PoolError(f"expected revised masks in {folder}, found no such folder; check the path")
    out: dict[str, list[Path]] = {}
    for place in sorted(folder.iterdir()):
        if place.name.startswith("."):
            continue
        if place.is_dir():
            out.setdefault(place.name, []).append(place)
        elif place.name.lower().endswith(_FILES):
            out.setdefault(stem_of(place), []).append(place)
    if not out:
        raise PoolError(
            f"expected CASE/<class>.nii.gz, CASE.nii.gz, CASE.seg.nrrd or CASE.dcm in {folder}, found none of them; check the path"
        )
    return out


def _only(places: Sequence[Path], case_id: str) -> Path:
    if len(places) > 1:
        raise LabelError(
            f"case {case_id}: expected its masks in one place, found {' and '.join(p.name for p in places)} in "
            f"{places[0].parent}; keep one of them"
        )
    return places[0]


def _masks(
    pool: Pool, case_id: str, place: Path, labels: Labels | None, aliases: Mapping[str, str]
) -> tuple[dict[str, Mask], list[str]]:
    """The masks to take in, and the classes that came back as they were handed out."""
    case = pool.case(case_id)
    if case.split != Split.POOL:
        raise PoolError(
            f"case {case_id}: expected a case of the pool split, got one kept for {case.split}; it must not train a head; "
            "bring its masks in with `ctune import`, or leave it out"
        )
    what = f"case {case_id}"
    try:
        if is_exported(place):
            return read_exported(place, case_id, case.grid, aliases)
        return read_segmentation(place, case.grid, labels=labels, aliases=aliases, what=what), []
    except (OSError, MemoryError) as error:
        # Of reading alone: a pool that cannot be written is no fault of this case, and the next one would meet it too.
        got = " ".join(str(error).split()) or type(error).__name__
        raise DataError(
            f"{what}: expected masks that can be read in {place}, got {got}; hand it in again"
        ) from None


def _take(
    pool: Pool,
    case_id: str,
    name: str,
    mask: Mask,
    predicted: Mask | None,
    expert: str,
    round_number: int,
    seconds: float | None,
) -> RevisedClass:
    records = pool.annotations(case_id, name)
    annotations = [pool.read(r) for r in records]
    merged = merge(case_id, {name: annotations}, DEFAULT_ORDER).masks.get(name) if annotations else predicted
    change = compare(merged, mask, pool.grid(case_id))
    mine = [a for a in annotations if a.record.source == Source.REVISED and a.record.author == expert]
    there = bool(mine) and mine[-1].record.round == round_number and np.array_equal(mine[-1].mask, mask)
    if not there:
        pool.annotate(
            case_id, name, mask, source=Source.REVISED, author=expert, round=round_number, seconds=seconds
        )  # fmt: skip
    outranked = any(r.source == Source.ORIGINAL for r in records)
    return RevisedClass(case_id, name, *change, already_there=there, outranked=outranked)
