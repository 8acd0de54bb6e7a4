"""Check a whole registry: every blob against its digest, every record against what it refers to."""

from __future__ import annotations

from dataclasses import dataclass

from registry.catalog import Catalog
from registry.errors import IntegrityError
from registry.records import AnyRecord, BaseRecord, HeadRecord, ModelRecord, blobs_of, read_record, records_of
from registry.store import Store


@dataclass(frozen=True)
class VerifyReport:
    """problems: one line each; empty when all is well. orphans: blobs that nothing refers to (harmless)."""

    blobs: int
    records: int
    versions: int
    problems: tuple[str, ...]
    orphans: tuple[str, ...]
    leftovers: int

    @property
    def clean(self) -> bool:
        return not self.problems


def verify(store: Store, catalog: Catalog) -> VerifyReport:
    """Hash every blob, read every record, follow every reference. Nothing is changed."""
    problems: list[str] = []
    present = set(store.digests())
    sound = {d for d in present if _sound(store, d, problems)}
    known = catalog.digests()
    read = {d: r for d in known if (r := _read(store, d, sound, problems)) is not None}
    for digest, record in read.items():
        for need in (*blobs_of(record), *records_of(record)):
            if need not in present:
                problems.append(
                    f"{record.kind} sha256:{digest[:12]}: needs sha256:{need[:12]}, which is missing"
                )
        problems += _misfits(digest, record, read)
    for version in catalog.versions():
        if version.digest not in read:
            problems.append(
                f"{version.name}:{version.version}: its model sha256:{version.digest[:12]} cannot be read"
            )
    numbers = {(v.name, v.version) for v in catalog.versions()}
    for (name, alias), number in catalog.aliases().items():
        if (name, number) not in numbers:
            problems.append(f"{name}@{alias}: points at version {number}, which is not there")
    needed = {b for r in read.values() for b in blobs_of(r)} | set(known)
    orphans = tuple(sorted(present - needed))
    return VerifyReport(
        len(present), len(known), len(numbers), tuple(problems), orphans, len(store.leftovers(0))
    )


def _sound(store: Store, digest: str, problems: list[str]) -> bool:
    try:
        store.get(digest)
    except IntegrityError as error:
        problems.append(str(error))
        return False
    return True


def _read(store: Store, digest: str, sound: set[str], problems: list[str]) -> AnyRecord | None:
    if digest not in sound:
        if digest not in store:
            problems.append(f"record sha256:{digest[:12]}: its bytes are missing")
        return None
    try:
        return read_record(store.get(digest), digest)
    except IntegrityError as error:
        problems.append(str(error))
        return None


def _misfits(digest: str, record: AnyRecord, read: dict[str, AnyRecord]) -> list[str]:
    if not isinstance(record, ModelRecord):
        return []
    base, out = read.get(record.base), []
    for name, head_digest in record.heads.items():
        head = read.get(head_digest)
        if not isinstance(head, HeadRecord) or not isinstance(base, BaseRecord):
            out.append(f"model sha256:{digest[:12]}: its base or its head of {name} cannot be read")
        elif head.base_fingerprint != base.fingerprint or head.class_name != name:
            out.append(
                f"model sha256:{digest[:12]}: the head filed under {name} is of {head.class_name} on base {head.base_fingerprint[:12]}, the base is {base.fingerprint[:12]}"
            )
    return out
