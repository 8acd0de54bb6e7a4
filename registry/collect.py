"""Clean-up: delete what no version leads to and nobody has asked for within a grace period.

Versions are never deleted. Rows go first and their blobs after, so that a killed clean-up leaves blobs without a record,
which the next one takes, and never a record without its blobs.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from registry.catalog import Catalog
from registry.graph import reachable
from registry.records import AnyRecord, blobs_of, read_record
from registry.rows import Snapshot
from registry.store import Store
from registry.verify import YOUNG_S

GRACE_S = 14 * 86400.0
"""Two weeks: a round that was killed is resumed within."""
_AT_ONCE = 200
"""Blobs deleted while others wait to register."""


@dataclass(frozen=True)
class CollectReport:
    """What was deleted, or with `dry` what would be; `bytes` are those of the blobs."""

    dry: bool
    records: tuple[str, ...]
    blobs: tuple[str, ...]
    bytes: int
    leftovers: int


def collect(
    store: Store, catalog: Catalog, *, actor: str, dry: bool = True, grace_s: float = GRACE_S
) -> CollectReport:
    """Delete records, blobs and temporary files that nothing leads to and that are older than `grace_s` seconds.

    Roots are all versions, and every record that was registered within the grace period with all it needs.
    """
    known: dict[str, AnyRecord] = {}

    def unreachable() -> list[str]:
        now = catalog.snapshot()
        _read_new(now, known)
        kept = reachable(_roots(now, grace_s), known)
        return [row.digest for row in now.records if row.digest not in kept]

    # Asked once without the lock, so that with it only what is new has to be read.
    doomed = unreachable()
    young = min(grace_s, YOUNG_S)
    if dry:
        blobs = [b for b in _unneeded(store, catalog, known, doomed) if store.is_old(b, grace_s)]
        return CollectReport(
            True, tuple(doomed), tuple(blobs), _size(store, blobs), len(store.leftovers(young))
        )
    gone = catalog.delete_records(unreachable, actor)
    deleted: list[str] = []
    size = 0
    waiting = _unneeded(store, catalog, known, ())
    while waiting:
        some, waiting = waiting[:_AT_ONCE], waiting[_AT_ONCE:]
        with catalog.database.writing():
            needed = _needed(catalog, known)
            for blob in some:
                length = store.size(blob) if blob in store else 0
                if blob not in needed and store.discard(blob, grace_s):
                    deleted.append(blob)
                    size += length
    return CollectReport(False, tuple(gone), tuple(deleted), size, store.sweep(young))


def _roots(now: Snapshot, grace_s: float) -> Iterable[str]:
    limit = (datetime.now(UTC) - timedelta(seconds=grace_s)).isoformat(timespec="microseconds")
    yield from (version.digest for version in now.versions)
    yield from (row.digest for row in now.records if row.renewed > limit)


def _read_new(now: Snapshot, known: dict[str, AnyRecord]) -> None:
    here = {row.digest for row in now.records}
    for digest in known.keys() - here:
        del known[digest]
    for row in now.records:
        if row.digest not in known:
            known[row.digest] = read_record(row.body, row.digest)


def _needed(catalog: Catalog, known: dict[str, AnyRecord], without: Iterable[str] = ()) -> set[str]:
    _read_new(catalog.snapshot(), known)
    gone = set(without)
    return {blob for digest, record in known.items() if digest not in gone for blob in blobs_of(record)}


def _unneeded(
    store: Store, catalog: Catalog, known: dict[str, AnyRecord], without: Iterable[str]
) -> list[str]:
    needed = _needed(catalog, known, without)
    return [blob for blob in store.digests() if blob not in needed]


def _size(store: Store, blobs: Iterable[str]) -> int:
    return sum(store.size(blob) for blob in blobs)
