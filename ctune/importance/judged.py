"""How large classes are in the masks that people drew: what is usual, also of an organ that the model never finds."""

from __future__ import annotations

from collections.abc import Collection

from ctune.data.files import read_json, write_json
from ctune.project import Project
from ctune.types import AnnotationRecord, Source, Split

AT_MOST = 60
"""Masks of a class that are measured: a median of so many is sharp enough, and a pool may have thousands."""

_NAME = "volumes.json"


def judged_volumes(project: Project, classes: Collection[str]) -> dict[str, dict[str, float]]:
    """{case: {class: mL}} of original and revised masks in the pool's split, at most `AT_MOST` a class.

    Which are taken is decided by the digests of the masks. Where several people drew a class in a case, an original goes
    before a revision and a newer revision before an older one. Each mask is read once; its volume is kept in the cache.
    """
    chosen: dict[str, list[AnnotationRecord]] = {}
    for case in project.pool.cases(Split.POOL):
        best = dict[str, AnnotationRecord]()
        for record in project.pool.annotations(case.id):
            name = project.class_of(record)
            if record.source == Source.PREDICTED or name not in classes:
                continue
            if name not in best or best[name].source != Source.ORIGINAL:
                best[name] = record
        for name, record in best.items():
            chosen.setdefault(name, []).append(record)
    path, out = project.cache / _NAME, dict[str, dict[str, float]]()
    known: dict[str, float] = read_json(path) if path.exists() else {}
    before = len(known)
    for name, records in chosen.items():
        for record in sorted(records, key=lambda one: one.sha256)[:AT_MOST]:
            key = f"{record.case_id}/{record.sha256}"
            if key not in known:
                mask = project.pool.read(record).mask
                known[key] = round(float((mask == 1).sum()) * project.pool.grid(record.case_id).voxel_ml, 3)
            out.setdefault(record.case_id, {})[name] = known[key]
    if len(known) > before:
        write_json(path, known)
    return out
