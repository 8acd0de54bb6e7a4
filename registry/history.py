"""How models came from each other, and what differs between two."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from registry.errors import InvalidNameError
from registry.graph import ancestors
from registry.records import HeadRecord, ModelRecord

if TYPE_CHECKING:
    from registry.registry import Registry


@dataclass(frozen=True)
class Node:
    """A model in the history. `changed`: classes whose head is not its first parent's; `labels`: versions and aliases."""

    digest: str
    labels: tuple[str, ...]
    parents: tuple[str, ...]
    round: int
    created: str
    note: str
    changed: tuple[str, ...]
    removed: tuple[str, ...]


def log(registry: Registry, reference: str | None = None) -> list[Node]:
    """The models that `reference` (a name: all its versions; nothing: all names) came from, and they themselves.

    Parents come before children; those that are not in this registry are left out.
    """
    models = {d: r for d in _models(registry, reference) if isinstance(r := registry.known(d), ModelRecord)}
    labels = _labels(registry)
    rows = {row.digest: row for row in registry.catalog.records("model")}
    nodes: dict[str, Node] = {}

    def visit(digest: str) -> None:
        waiting = [digest]
        while waiting:
            here = waiting[-1]
            before = [p for p in models[here].parents if p in models and p not in nodes]
            if here in nodes or not before:
                waiting.pop()
                nodes.setdefault(here, _node(here, models, labels, rows[here].created))
            else:
                waiting += before

    for digest in sorted(models, key=lambda d: (rows[d].created, d)):
        visit(digest)
    return list(nodes.values())


def _models(registry: Registry, reference: str | None) -> list[str]:
    if reference is None:
        roots = [version.digest for version in registry.versions()]
    elif ":" in reference or "@" in reference:
        roots = [registry.resolve(reference)]
    else:
        registry.resolve(reference)
        roots = [version.digest for version in registry.versions(reference)]
    found = dict.fromkeys(roots)
    for root in roots:
        found.update(dict.fromkeys(ancestors(root, registry.known)))
    return list(found)


def _node(
    digest: str, models: Mapping[str, ModelRecord], labels: Mapping[str, list[str]], created: str
) -> Node:
    record = models[digest]
    parents = tuple(p for p in record.parents if p in models)
    before = models[parents[0]].heads if parents else {}
    return Node(
        digest,
        tuple(labels.get(digest, ())),
        parents,
        record.round,
        created,
        record.note,
        tuple(name for name, head in sorted(record.heads.items()) if before.get(name) != head),
        tuple(sorted(before.keys() - record.heads.keys())),
    )


def _labels(registry: Registry) -> dict[str, list[str]]:
    labels: dict[str, list[str]] = {}
    numbered = {}
    for version in registry.versions():
        labels.setdefault(version.digest, []).append(str(version))
        numbered[version.name, version.version] = version.digest
    for (name, alias), number in registry.aliases().items():
        labels.setdefault(numbered[name, number], []).append(f"{name}@{alias}")
    return labels


@dataclass(frozen=True)
class ClassDifference:
    """One class in two models: digests of its heads, mean scores, and the cases that only the second was tuned on.

    change: same, changed, added or removed.
    """

    class_name: str
    change: str
    before: str | None
    after: str | None
    score_before: float | None
    score_after: float | None
    cases_added: tuple[str, ...]
    cases_removed: tuple[str, ...]


@dataclass(frozen=True)
class Difference:
    """Two models side by side."""

    before: str
    after: str
    same_base: bool
    split: str | None
    metric: str
    classes: tuple[ClassDifference, ...]


def diff(registry: Registry, before: str, after: str, metric: str = "dice") -> Difference:
    """Which classes' heads differ, their scores on the evaluation both share, and the cases added.

    Raises InvalidNameError when either reference is no model.
    """
    from registry.gate import shared_evaluation

    a, b = registry.resolve(before), registry.resolve(after)
    old, new = (model_of(registry, digest) for digest in (a, b))
    pair = shared_evaluation(registry.evaluations(a), registry.evaluations(b))
    scores = [e.summary for e in pair] if pair else [{}, {}]
    names = sorted(old.heads.keys() | new.heads.keys())
    rows = tuple(
        _difference(registry, n, old.heads.get(n), new.heads.get(n), [s.get(n, {}) for s in scores], metric)
        for n in names
    )
    return Difference(a, b, old.base == new.base, pair[0].split if pair else None, metric, rows)


def model_of(registry: Registry, digest: str) -> ModelRecord:
    """The record of a model. Raises InvalidNameError when it is another kind of record."""
    record = registry.record_of(digest)
    if not isinstance(record, ModelRecord):
        raise InvalidNameError(f"expected a model, got the {record.kind} sha256:{digest[:12]}; name a model")
    return record


def _difference(
    registry: Registry,
    name: str,
    before: str | None,
    after: str | None,
    scores: list[Mapping[str, Any]],
    metric: str,
) -> ClassDifference:
    change = (
        "same"
        if before == after
        else "added"
        if before is None
        else "removed"
        if after is None
        else "changed"
    )
    old, new = _cases(registry, before), _cases(registry, after)
    return ClassDifference(
        name,
        change,
        before,
        after,
        scores[0].get(metric),
        scores[1].get(metric),
        tuple(sorted(new - old)),
        tuple(sorted(old - new)),
    )


def _cases(registry: Registry, head: str | None) -> set[str]:
    record = registry.record_of(head) if head else None
    return {used.case_id for used in record.annotations} if isinstance(record, HeadRecord) else set()
