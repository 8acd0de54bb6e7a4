"""A model card: what one wants to know of a model before trusting it."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from registry.graph import ancestors
from registry.records import BaseRecord, HeadRecord, ModelRecord

if TYPE_CHECKING:
    from registry.registry import Registry


def card(registry: Registry, reference: str) -> dict[str, Any]:
    """What is known of the record that `reference` means, as values for JSON.

    Of a model: its versions and aliases, base, a head per class with round, data, experts and scores, evaluations, lineage.
    """
    digest = registry.resolve(reference)
    record = registry.record_of(digest)
    document: dict[str, Any] = {
        "digest": digest,
        "kind": record.kind,
        "record": record.model_dump(mode="json"),
        "measured": registry.measured(digest),
    }
    return {**document, **_model(registry, digest, record)} if isinstance(record, ModelRecord) else document


def _model(registry: Registry, digest: str, model: ModelRecord) -> dict[str, Any]:
    base = registry.record_of(model.base)
    assert isinstance(base, BaseRecord)
    evaluations = registry.evaluations(digest)
    newest = evaluations[-1].summary if evaluations else {}
    versions = registry.catalog.versions(digest=digest)
    numbers = {(v.name, v.version) for v in versions}
    return {
        "versions": [str(version) for version in versions],
        "aliases": [f"{n}@{a}" for (n, a), number in registry.aliases().items() if (n, number) in numbers],
        "created": versions[0].created if versions else None,
        "base": {
            "digest": model.base,
            "architecture": base.architecture,
            "fingerprint": base.fingerprint,
            "classes": list(base.classes),
            "code_version": base.code_version,
        },
        "classes": {
            name: {**_head(registry, head), "scores": newest.get(name, {})}
            for name, head in sorted(model.heads.items())
        },
        "evaluations": [{"split": e.split, "cases": len(e.data), "summary": e.summary} for e in evaluations],
        "lineage": [
            {"digest": d, "round": r.round, "note": r.note, "versions": [str(v) for v in registry.catalog.versions(digest=d)]}
            for d in ancestors(digest, registry.known)
            if isinstance(r := registry.known(d), ModelRecord)
        ],
    }  # fmt: skip


def _head(registry: Registry, digest: str) -> dict[str, Any]:
    head = registry.record_of(digest)
    assert isinstance(head, HeadRecord)
    return {
        "digest": digest,
        "kind": head.head_kind,
        "round": head.round,
        "parent": head.parent,
        "seed": head.seed,
        "cases": len({used.case_id for used in head.annotations}),
        "annotations": dict(sorted(Counter(used.source for used in head.annotations).items())),
        "experts": list(head.experts),
        "measured": registry.measured(digest),
    }
