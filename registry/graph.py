"""Which records and blobs hang together."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from registry.records import AnyRecord, blobs_of, history_of, records_of


@dataclass(frozen=True)
class Closure:
    """What a model is made of: records, each after what it needs, and the blobs of their weights."""

    records: tuple[str, ...]
    blobs: tuple[str, ...]


def closure(
    roots: Iterable[str],
    read: Callable[[str], AnyRecord],
    also: Callable[[str], Iterable[str]] = lambda _: (),
) -> Closure:
    """Everything that `roots` cannot do without. `also` adds records that go with one (a model's evaluations)."""
    order: dict[str, None] = {}
    blobs: dict[str, None] = {}

    def visit(digest: str) -> None:
        if digest in order:
            return
        record = read(digest)
        for need in records_of(record):
            visit(need)
        order[digest] = None
        blobs.update(dict.fromkeys(blobs_of(record)))
        for companion in also(digest):
            visit(companion)

    for root in roots:
        visit(root)
    return Closure(tuple(order), tuple(blobs))


def reachable(roots: Iterable[str], records: Mapping[str, AnyRecord]) -> set[str]:
    """Digests that `roots` lead to: needs, history as far as it is here, and the evaluations of models."""
    evaluations: dict[str, list[str]] = {}
    for digest, record in records.items():
        if record.kind == "evaluation":
            evaluations.setdefault(record.model, []).append(digest)
    seen: set[str] = set()
    waiting = list(roots)
    while waiting:
        digest = waiting.pop()
        if digest in seen or digest not in records:
            continue
        seen.add(digest)
        record = records[digest]
        waiting += [*records_of(record), *history_of(record), *evaluations.get(digest, ())]
    return seen


def ancestors(digest: str, read: Callable[[str], AnyRecord | None]) -> Iterator[str]:
    """The records that one came from, nearest first, each once; those that are elsewhere are left out."""
    seen, waiting = {digest}, [digest]
    while waiting:
        record = read(waiting.pop(0))
        for parent in history_of(record) if record else ():
            if parent not in seen:
                seen.add(parent)
                waiting.append(parent)
                if read(parent) is not None:
                    yield parent
