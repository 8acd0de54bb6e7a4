"""What travels between registries: a version with all it is made of, in an archive or by way of a mirror.

A manifest lists the records, each after what it needs. Nothing in it is trusted: names and classes are checked, every record
and blob must be the bytes of its digest, and all that a record needs must have come along or be here.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from registry.errors import ArchiveError, InvalidNameError
from registry.fit import check_fit
from registry.graph import closure
from registry.names import check_name, check_text, parse
from registry.records import AnyRecord, Digest, blobs_of, check_classes, read_record, records_of, subject_of
from registry.rows import Row, Version, now
from registry.weights import check_weights

if TYPE_CHECKING:
    from registry.registry import Registry

LONGEST_RECORD = 64 << 20
"""Bytes of a record or manifest that is still read."""
Fetch = Callable[[str], Iterator[bytes]]
"""The bytes of a digest, in chunks."""


class Carried(BaseModel):
    """A record on its way: what is kept beside it travels too."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    digest: Digest
    created: str = Field(max_length=32)
    measured: dict[str, Any]


class Manifest(BaseModel):
    """What a parcel holds; `name` and `version` are None for a model without a name."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    format: Literal[1] = 1
    model: Digest
    name: str | None = None
    version: Annotated[int, Field(ge=1, le=10**9)] | None = None
    created: str = Field(default="", max_length=32)
    note: str = ""
    records: tuple[Carried, ...]

    def encode(self) -> bytes:
        return json.dumps(self.model_dump(mode="json"), sort_keys=True, ensure_ascii=False).encode()


@dataclass(frozen=True)
class Moved:
    """What went over: `blobs` and `bytes` count only what was missing at the other end."""

    name: str | None
    version: int | None
    model: str
    records: int
    blobs: int
    bytes: int


def pack(registry: Registry, reference: str) -> tuple[Manifest, tuple[str, ...]]:
    """The manifest of what a reference means, and the digests of its blobs. Raises InvalidNameError for no model."""
    from registry.promote import version_of

    model = registry.resolve(reference)
    record = registry.record_of(model)
    if record.kind != "model":
        raise InvalidNameError(f"expected a model, got the {record.kind} {reference}; name a model")
    version = None if parse(reference).digest else version_of(registry, reference)

    def evaluations(digest: str) -> list[str]:
        return [row.digest for row in registry.catalog.records("evaluation", digest)]

    needed = closure([model], registry.record_of, evaluations)
    rows = [row for digest in needed.records if (row := registry.catalog.record(digest))]
    carried = tuple(Carried(digest=r.digest, created=r.created, measured=dict(r.measured)) for r in rows)
    manifest = Manifest(model=model, records=carried)
    if version is not None:
        named = {"name": version.name, "version": version.version}
        manifest = manifest.model_copy(update={**named, "created": version.created, "note": version.note})
    return manifest, needed.blobs


def read_manifest(data: bytes, where: str) -> Manifest:
    """A manifest from its bytes. Raises ArchiveError, and InvalidNameError for a name that cannot be one."""
    try:
        manifest = Manifest.model_validate_json(data)
    except ValidationError as error:
        problem = error.errors()[0]
        raise ArchiveError(
            f"expected a manifest of format 1 in {where}, got a problem at "
            f"{'.'.join(map(str, problem['loc'])) or 'its start'}: {problem['msg']}; export or push it again, or update ctune"
        ) from None
    if (manifest.name is None) != (manifest.version is None):
        raise ArchiveError(f"expected a name with its version in {where}, got one of them; export it again")
    if manifest.name is not None:
        check_name(manifest.name)
    check_text(manifest.note)
    return manifest


def take_in(
    registry: Registry,
    manifest: Manifest,
    fetch: Fetch,
    *,
    origin: str,
    actor: str,
    rename: str | None = None,
    seen: set[str] | None = None,
) -> Moved:
    """Bring a parcel into a registry: blobs, then records with their version in one transaction.

    Only what is missing or damaged here is fetched. `seen` spares blobs that were looked at already. A version keeps its
    number; under `rename` too. Raises ExistsError when that number is another model here, ArchiveError when the parcel
    lacks something, IntegrityError when its bytes are wrong, InvalidNameError for a class that cannot be one.
    """
    bodies, records = _read(registry, manifest, fetch, origin)
    rows: list[Row] = []
    for carried in manifest.records:
        record = records[carried.digest]
        rows.append(
            Row(
                carried.digest,
                record.kind,
                subject_of(record),
                bodies[carried.digest],
                carried.measured,
                carried.created,
                now(),
            )
        )
    blobs, size = _fetch_blobs(registry, records, fetch, origin, set() if seen is None else seen)
    version = _version(manifest, rename)
    known_before = sum(registry.catalog.record(row.digest) is not None for row in rows)
    registry.catalog.adopt(
        rows,
        version,
        actor,
        origin,
        lambda: registry.must_hold(b for r in records.values() for b in blobs_of(r)),
    )
    return Moved(
        version.name if version else None,
        version.version if version else None,
        manifest.model,
        len(rows) - known_before,
        blobs,
        size,
    )


def join(registry: Registry, there: Manifest, here: Manifest, fetch: Fetch, origin: str) -> Manifest:
    """The manifest that lies in `origin` with the records of `here` that it lacks; it loses none, and both are of one version.

    What only others know is looked at as in ``take_in``, and raises the same: nobody should carry on what nobody can take in.
    """
    known = {carried.digest for carried in there.records}
    gained = tuple(carried for carried in here.records if carried.digest not in known)
    joined = there.model_copy(update={"records": (*there.records, *gained)})
    _read(registry, joined, fetch, origin)
    return joined


def _read(
    registry: Registry, manifest: Manifest, fetch: Fetch, origin: str
) -> tuple[dict[str, bytes], dict[str, AnyRecord]]:
    """The records of a manifest, as bytes and read: each what its digest says, whole together, and fitting each other."""
    bodies: dict[str, bytes] = {}
    records: dict[str, AnyRecord] = {}
    for digest in (carried.digest for carried in manifest.records):
        known = registry.catalog.record(digest)
        bodies[digest] = known.body if known else _record_bytes(fetch(digest), digest, origin)
        records[digest] = read_record(bodies[digest], digest)
        check_classes(records[digest], origin)
    _must_be_whole(manifest, records, origin)
    for record in records.values():
        check_fit(record, records.get)
    return bodies, records


def _version(manifest: Manifest, rename: str | None) -> Version | None:
    if manifest.name is None or manifest.version is None:
        return Version(check_name(rename), 1, manifest.model, now(), manifest.note) if rename else None
    version = Version(
        manifest.name, manifest.version, manifest.model, manifest.created or now(), manifest.note
    )
    return replace(version, name=check_name(rename)) if rename else version


def _fetch_blobs(
    registry: Registry, records: dict[str, AnyRecord], fetch: Fetch, origin: str, seen: set[str]
) -> tuple[int, int]:
    count = size = 0
    for record in records.values():
        for blob in blobs_of(record):
            if blob in seen:
                continue
            if registry.store.put_checked(blob, fetch(blob), origin):
                count, size = count + 1, size + registry.store.size(blob)
            what = f"the weights sha256:{blob[:12]} in {origin}"
            check_weights(registry.store.read(blob), registry.store.size(blob), what)
            seen.add(blob)
    return count, size


def _must_be_whole(manifest: Manifest, records: dict[str, AnyRecord], origin: str) -> None:
    model = records.get(manifest.model)
    needs = (need for record in records.values() for need in records_of(record))
    lacking = next((need for need in needs if need not in records), None)
    if model is None or model.kind != "model" or lacking:
        raise ArchiveError(
            f"expected {origin} to hold the model sha256:{manifest.model[:12]} and all it needs, "
            f"sha256:{(lacking or manifest.model)[:12]} is not there; export or push it again"
        )


def _record_bytes(chunks: Iterator[bytes], digest: str, origin: str) -> bytes:
    data = b""
    for chunk in chunks:
        data += chunk
        if len(data) > LONGEST_RECORD:
            raise ArchiveError(
                f"expected the record sha256:{digest[:12]} in {origin} to be shorter than {LONGEST_RECORD} bytes; this is "
                "no record"
            )
    return data
