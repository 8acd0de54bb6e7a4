"""Hybrid annotation: merge what several sources say of a case, class by class and voxel by voxel, and keep who said it.

Paper, section 2: revised annotations replace predicted ones class by class. Here an annotation covers the voxels that it
judges (UNLABELLED ones it does not), the strongest source that covers a voxel wins, and within a source the newest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ctune.data.files import read_json, write_atomically, write_json
from ctune.errors import DataError
from ctune.types import UNLABELLED, Annotation, AnnotationRecord, HybridAnnotation, Mask, Source

DEFAULT_ORDER = (Source.ORIGINAL, Source.REVISED, Source.PREDICTED)


def merge(
    case_id: str, annotations: Mapping[str, Sequence[Annotation]], order: Sequence[str] = DEFAULT_ORDER
) -> HybridAnnotation:
    """Merge the annotations of one case; sources that `order` does not name take no part.

    annotations: {class: annotations with masks (X, Y, Z) uint8 on one grid}, in any order. A class for which none takes
    part is not in the result: nobody has judged it, and it never acts as background. The inputs stay as they are.
    Raises DataError when masks of one class differ in shape.
    """
    masks, origin, records = {}, {}, {}
    for name, found in annotations.items():
        ranked = _strongest_first(found, order)
        if ranked:
            masks[name], origin[name], records[name] = _merge_class(case_id, name, ranked)
    return HybridAnnotation(case_id, masks, origin, records)


def _strongest_first(found: Sequence[Annotation], order: Sequence[str]) -> list[Annotation]:
    rank = {str(source): i for i, source in enumerate(order)}
    taking_part = [a for a in found if str(a.record.source) in rank]
    # Newest first, then by source: the second sort is stable. Not by round: masks that are imported with their author have
    # none, and are no older for it. The digest decides between equal times.
    taking_part.sort(key=lambda a: (a.record.created, a.record.sha256), reverse=True)
    return sorted(taking_part, key=lambda a: rank[str(a.record.source)])


def _merge_class(
    case_id: str, name: str, ranked: Sequence[Annotation]
) -> tuple[Mask, npt.NDArray[np.uint8], tuple[AnnotationRecord, ...]]:
    shape = ranked[0].mask.shape
    mask = np.full(shape, UNLABELLED, dtype=np.uint8)
    origin = np.zeros(shape, dtype=np.uint8)
    records: list[AnnotationRecord] = []
    for annotation in ranked:
        if annotation.mask.shape != shape:
            raise DataError(
                f"case {case_id}, {name}: expected annotations of one shape, got {shape} and {annotation.mask.shape}; "
                "import the one on another grid anew"
            )
        free = (origin == 0) & (annotation.mask != UNLABELLED)
        if free.any():
            records.append(annotation.record)
            mask[free] = annotation.mask[free]
            origin[free] = len(records)
        if (origin != 0).all():
            break
    return mask, origin, tuple(records)


def save_hybrid(folder: Path, hybrid: HybridAnnotation) -> None:
    """Keep merged labels in `folder`: arrays as ``labels.npz``, and last who said what as ``hybrid.json``."""
    arrays = {f"mask.{n}": m for n, m in hybrid.masks.items()} | {
        f"origin.{n}": o for n, o in hybrid.origin.items()
    }
    with write_atomically(folder / "labels.npz") as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)
    records = {name: [asdict(r) for r in found] for name, found in hybrid.records.items()}
    write_json(folder / "hybrid.json", {"case": hybrid.case_id, "records": records})


def load_hybrid(folder: Path) -> HybridAnnotation:
    """What ``save_hybrid`` kept. Raises DataError when it is unfinished."""
    if not (folder / "hybrid.json").exists():
        raise DataError(f"expected merged labels in {folder}, found no hybrid.json; merge the case again")
    about = read_json(folder / "hybrid.json")
    with np.load(folder / "labels.npz", allow_pickle=False) as arrays:
        masks = {n: arrays[f"mask.{n}"] for n in about["records"]}
        origin = {n: arrays[f"origin.{n}"] for n in about["records"]}
    records = {
        name: tuple(AnnotationRecord(**{**r, "source": Source(r["source"])}) for r in found)
        for name, found in about["records"].items()
    }
    return HybridAnnotation(about["case"], masks, origin, records)
