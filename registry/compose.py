"""Put a model together from heads of several models that share a base."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from registry.errors import InvalidNameError, MismatchError, NotFoundError
from registry.records import BaseRecord, HeadRecord, ModelRecord

if TYPE_CHECKING:
    from registry.registry import Registry


def compose(registry: Registry, base: str, heads: Mapping[str, str], *, note: str = "") -> str:
    """Register the model that `base` means with other heads, and return its digest.

    base: a reference to a model, whose other heads are kept, or the digest of a base, which comes without. heads: {class:
    reference to a model that has one, or a head's digest}. Its parents are all the models it was taken from. Raises
    MismatchError for a head of another base, NotFoundError for a model without that class.
    """
    start = registry.resolve(base)
    record = registry.record_of(start)
    if isinstance(record, BaseRecord):
        record = ModelRecord(base=start, heads={})
        parents: dict[str, None] = {}
    elif isinstance(record, ModelRecord):
        parents = {start: None}
    else:
        raise InvalidNameError(f"expected a model or a base to compose on, got the {record.kind} {base}")
    chosen, rounds = dict(record.heads), record.round
    for name, reference in heads.items():
        digest, source = _head(registry, name, reference)
        head = registry.record_of(digest)
        assert isinstance(head, HeadRecord)
        _must_fit(registry, name, head, record.base, reference)
        chosen[name], rounds = digest, max(rounds, head.round)
        if source is not None:
            parents[source] = None
    model = ModelRecord(
        base=record.base,
        heads=chosen,
        parents=tuple(parents),
        round=rounds,
        config=record.config,
        note=note,
    )
    return registry.register(model)


def _must_fit(registry: Registry, name: str, head: HeadRecord, base: str, reference: str) -> None:
    here = registry.record_of(base)
    assert isinstance(here, BaseRecord)
    if head.base_fingerprint != here.fingerprint:
        raise MismatchError(
            f"the head of {name} in {reference} needs the base sha256:{head.base[:12]} (fingerprint "
            f"{head.base_fingerprint[:12]}), got sha256:{base[:12]} (fingerprint {here.fingerprint[:12]}); take a head of "
            f"this base, compose on sha256:{head.base[:12]}, or tune {name} on this base"
        )


def _head(registry: Registry, name: str, reference: str) -> tuple[str, str | None]:
    """The digest of the head of a class in what `reference` means, and the model it was found in."""
    digest = registry.resolve(reference)
    record = registry.record_of(digest)
    if isinstance(record, HeadRecord):
        if record.class_name != name:
            raise MismatchError(
                f"expected a head of {name}, {reference} is one of {record.class_name}; choose another"
            )
        return digest, None
    if not isinstance(record, ModelRecord) or name not in record.heads:
        known = ", ".join(sorted(record.heads)) if isinstance(record, ModelRecord) else f"a {record.kind}"
        raise NotFoundError(f"expected a head of {name} in {reference}, it has {known}; choose another")
    return record.heads[name], digest
