"""Check a whole registry: every blob against its digest, every record against what it refers to, every event in its place."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from registry.catalog import Catalog
from registry.errors import IntegrityError, InvalidNameError
from registry.fit import misfits
from registry.records import (
    AnyRecord,
    BaseRecord,
    EventRecord,
    HeadRecord,
    blobs_of,
    check_classes,
    digest_of,
    read_record,
    records_of,
    subject_of,
)
from registry.rows import Row, Snapshot
from registry.store import Store
from registry.weights import check_weights

FingerprintOf = Callable[[BaseRecord | HeadRecord, bytes], str]
"""The fingerprint of weights in memory, as whoever registered them took it."""
YOUNG_S = 3600.0
"""A temporary file younger than this may belong to a living process."""


@dataclass(frozen=True)
class VerifyReport:
    """problems: one line each; empty when all is well. orphans: blobs that no record needs (harmless)."""

    blobs: int
    records: int
    versions: int
    events: int
    problems: tuple[str, ...]
    orphans: tuple[str, ...]
    leftovers: int

    @property
    def clean(self) -> bool:
        return not self.problems


def verify(store: Store, catalog: Catalog, fingerprint_of: FingerprintOf | None = None) -> VerifyReport:
    """Hash every blob, read every record, follow every reference. Nothing is changed.

    With `fingerprint_of` the weights are loaded too, and their fingerprints compared with what the records say.
    """
    damage = catalog.database.sound()
    problems = [f"catalog: {damage}"] if damage else []
    now = catalog.snapshot()
    read: dict[str, AnyRecord] = {}
    for row in now.records:
        try:
            read[row.digest] = _read(row)
        except IntegrityError as error:
            problems.append(str(error))
    present = set(store.digests())
    damaged = dict(_damaged(store, present))
    problems += damaged.values()
    for digest, record in read.items():
        problems += _missing(digest, record, read, present)
        problems += [f"{record.kind} sha256:{digest[:12]}: {text}" for text in misfits(record, read.get)]
        problems += _bad_classes(digest, record)
        problems += _bad_weights(store, record, present - damaged.keys(), fingerprint_of)
    problems += _names(now, read)
    problems += _history(now)
    needed = {blob for record in read.values() for blob in blobs_of(record)}
    return VerifyReport(
        blobs=len(present),
        records=len(now.records),
        versions=len(now.versions),
        events=len(now.events),
        problems=tuple(problems),
        orphans=tuple(sorted(present - needed)),
        leftovers=len(store.leftovers(YOUNG_S)),
    )


def _read(row: Row) -> AnyRecord:
    record = read_record(row.body, row.digest)
    if (record.kind, subject_of(record)) != (row.kind, row.subject):
        raise IntegrityError(
            f"expected the record sha256:{row.digest[:12]} to be filed as {record.kind} of {subject_of(record)}, it is "
            f"filed as {row.kind} of {row.subject}; restore the catalog from a backup"
        )
    return record


def _damaged(store: Store, digests: set[str]) -> Iterator[tuple[str, str]]:
    for digest in sorted(digests):
        try:
            store.check(digest)
        except IntegrityError as error:
            # Gone since it was listed: a clean-up took what no record needs; a need is reported with its record.
            if digest in store:
                yield digest, str(error)


def _missing(
    digest: str, record: AnyRecord, read: Mapping[str, AnyRecord], present: set[str]
) -> Iterator[str]:
    for blob in blobs_of(record):
        if blob not in present:
            yield f"{record.kind} sha256:{digest[:12]}: its weights sha256:{blob[:12]} are missing"
    for need in records_of(record):
        if need not in read:
            yield f"{record.kind} sha256:{digest[:12]}: needs the record sha256:{need[:12]}, which is missing"


def _bad_classes(digest: str, record: AnyRecord) -> Iterator[str]:
    try:
        check_classes(record, f"sha256:{digest[:12]}")
    except InvalidNameError as error:
        yield str(error)


def _bad_weights(
    store: Store, record: AnyRecord, sound: set[str], fingerprint_of: FingerprintOf | None
) -> Iterator[str]:
    if not isinstance(record, BaseRecord | HeadRecord) or record.weights not in sound:
        return
    what = f"the weights sha256:{record.weights[:12]} of a {record.kind}"
    try:
        check_weights(store.read(record.weights), store.size(record.weights), what)
    except IntegrityError as error:
        yield str(error)
        return
    if fingerprint_of is not None:
        got = fingerprint_of(record, store.get(record.weights))
        if got != record.fingerprint:
            yield f"{what}: expected the fingerprint {record.fingerprint[:12]}, got {got[:12]}"


def _names(now: Snapshot, read: Mapping[str, AnyRecord]) -> Iterator[str]:
    for version in now.versions:
        record = read.get(version.digest)
        if record is None or record.kind != "model":
            yield f"{version}: its model sha256:{version.digest[:12]} cannot be read"
    numbers = {(v.name, v.version) for v in now.versions}
    for (name, alias), number in now.aliases.items():
        if (name, number) not in numbers:
            yield f"{name}@{alias}: points at version {number}, which is not there"


def _history(now: Snapshot) -> Iterator[str]:
    """The chain of events, and whether versions and aliases are what the events say."""
    previous: str | None = None
    said: dict[tuple[str, int], str] = {}
    pointed: dict[tuple[str, str], int] = {}
    for number, (digest, body) in enumerate(now.events, start=1):
        event = EventRecord.model_validate_json(body) if digest_of(body) == digest else None
        if event is None or event.previous != previous:
            yield f"event {number}: it or the one before it was changed or removed; restore the catalog from a backup"
            return
        previous = digest
        if event.action in ("register", "adopt") and "version" in event.details:
            said[event.name, event.details["version"]] = event.details["digest"]
        if "alias" in event.details:
            pointed[event.name, event.details["alias"]] = event.details["to"]
    for version in now.versions:
        then = said.pop((version.name, version.version), None)
        if then != version.digest:
            was = f"sha256:{then[:12]}" if then else "nothing"
            yield f"{version}: the events say it was registered as {was}, it is sha256:{version.digest[:12]}"
    for (name, gone), _ in said.items():
        yield f"{name}:{gone}: the events say it was registered, it is not there"
    if pointed != dict(now.aliases):
        for key in sorted(
            pointed.keys() ^ now.aliases.keys() | {k for k in pointed if pointed[k] != now.aliases.get(k)}
        ):
            yield f"{'@'.join(key)}: the events say version {pointed.get(key)}, it points at {now.aliases.get(key)}"
