"""What the registry remembers, as frozen values; a record's identity is the sha256 of its canonical JSON.

What differs between identical runs (seconds, device, time) is no part of a record: it is kept beside it as measured.
"""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from registry.errors import IntegrityError, RegistryError
from registry.names import check_class

Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
"""sha256 in hexadecimal."""


class Record(BaseModel):
    """Frozen; unknown fields are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")
    format: Literal[1] = 1


class BaseRecord(Record):
    """A shared network. weights: digest of a safetensors blob. fingerprint: of the weights in memory."""

    kind: Literal["base"] = "base"
    architecture: str
    settings: dict[str, Any]
    fingerprint: Digest
    weights: Digest
    preprocessing: dict[str, Any]
    classes: tuple[str, ...]
    code_version: str
    seed: int
    parents: tuple[Digest, ...] = ()


class AnnotationUsed(BaseModel):
    """One annotation that trained a head: which, where from, by whom, when."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    case_id: str
    class_name: str
    sha256: Digest
    source: str
    author: str
    created: str
    round: int


class HeadRecord(Record):
    """The class-specific network of one class, and everything that it was made from."""

    kind: Literal["head"] = "head"
    class_name: str
    head_kind: str
    base: Digest
    base_fingerprint: Digest
    fingerprint: Digest
    weights: Digest
    text_vector: str | None = None
    """sha256 of the class name's text vector, for text heads."""
    round: int
    parent: Digest | None = None
    settings: dict[str, Any]
    seed: int
    annotations: tuple[AnnotationUsed, ...] = ()
    experts: tuple[str, ...] = ()
    code_version: str


class ModelRecord(Record):
    """A composition: one base and {class: head}."""

    kind: Literal["model"] = "model"
    base: Digest
    heads: dict[str, Digest]
    parents: tuple[Digest, ...] = ()
    round: int = 0
    config: dict[str, Any] = Field(default_factory=dict)
    note: str = ""


class EvaluationRecord(Record):
    """Scores of one model on one set of cases. data: {case: digest of its CT and truth}."""

    kind: Literal["evaluation"] = "evaluation"
    model: Digest
    split: str
    data: dict[str, str]
    scores: tuple[dict[str, Any], ...]
    summary: dict[str, dict[str, Any]]
    settings: dict[str, Any] = Field(default_factory=dict)


class EventRecord(Record):
    """One thing that happened: who did what to which name, when.

    `previous` is the digest of the event before it, so that none can be changed or left out unseen.
    """

    kind: Literal["event"] = "event"
    time: str
    actor: str
    action: str
    name: str
    details: dict[str, Any]
    previous: Digest | None = None


AnyRecord = BaseRecord | HeadRecord | ModelRecord | EvaluationRecord
_READER: TypeAdapter[AnyRecord] = TypeAdapter(Annotated[AnyRecord, Field(discriminator="kind")])


def canonical(record: AnyRecord | EventRecord) -> bytes:
    """The record as canonical JSON: keys sorted, no white space, UTF-8. Raises RegistryError for NaN and infinities."""
    try:
        text = json.dumps(
            record.model_dump(mode="json"),
            sort_keys=True,
            separators=(",", ":"),
            ensure_ascii=False,
            allow_nan=False,
        )
        return text.encode()
    except ValueError as error:
        raise RegistryError(
            f"expected finite numbers and Unicode text in the {record.kind} record, got: {error}; put None where "
            "there is no number"
        ) from None


def digest_of(data: bytes) -> str:
    """sha256 in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def read_record(data: bytes, digest: str) -> AnyRecord:
    """A record from its canonical JSON. Raises IntegrityError for other bytes, or a record this version does not know."""
    if (got := digest_of(data)) != digest:
        raise IntegrityError(
            f"expected the record sha256:{digest[:12]}, got bytes of sha256:{got[:12]}; restore the catalog from a backup"
        )
    try:
        return _READER.validate_json(data)
    except ValidationError as error:
        problem = error.errors()[0]
        raise IntegrityError(
            f"expected the record sha256:{digest[:12]} to be one this version knows, got a problem at "
            f"{'.'.join(map(str, problem['loc'])) or 'its start'}: {problem['msg']}; update ctune or restore the registry"
        ) from None


def blobs_of(record: AnyRecord) -> tuple[str, ...]:
    """Digests of the weights that a record needs."""
    return (record.weights,) if isinstance(record, BaseRecord | HeadRecord) else ()


def records_of(record: AnyRecord) -> tuple[str, ...]:
    """Digests of the records that a record cannot do without; its parents are history, not needs."""
    if isinstance(record, HeadRecord):
        return (record.base,)
    if isinstance(record, ModelRecord):
        return (record.base, *record.heads.values())
    return (record.model,) if isinstance(record, EvaluationRecord) else ()


def history_of(record: AnyRecord) -> tuple[str, ...]:
    """Digests of the records that a record came from; they may be elsewhere."""
    if isinstance(record, HeadRecord):
        return (record.parent,) if record.parent else ()
    return record.parents if isinstance(record, BaseRecord | ModelRecord) else ()


def classes_of(record: AnyRecord) -> tuple[str, ...]:
    """The names of classes in a record; those of an evaluation are words beside its numbers."""
    if isinstance(record, BaseRecord):
        return record.classes
    if isinstance(record, HeadRecord):
        return (record.class_name, *(used.class_name for used in record.annotations))
    return tuple(record.heads) if isinstance(record, ModelRecord) else ()


def check_classes(record: AnyRecord, where: str) -> None:
    """Raise InvalidNameError unless every class of a record, which lies in `where`, has a name that a class can have."""
    for name in classes_of(record):
        check_class(name, f"the {record.kind} in {where}")


def subject_of(record: AnyRecord) -> str | None:
    """What a record is found by: an evaluation by its model, a head by its class."""
    if isinstance(record, EvaluationRecord):
        return record.model
    return record.class_name if isinstance(record, HeadRecord) else None
