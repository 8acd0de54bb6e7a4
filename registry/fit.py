"""Whether the parts of a composition belong together."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from registry.errors import MismatchError
from registry.records import AnyRecord, BaseRecord, EvaluationRecord, HeadRecord, ModelRecord


def misfits(record: AnyRecord, read: Callable[[str], AnyRecord | None]) -> Iterator[str]:
    """What is wrong between a record and those it refers to, as lines; records that are not here are passed over."""
    if isinstance(record, HeadRecord):
        base = read(record.base)
        if base is not None and not isinstance(base, BaseRecord):
            yield f"its base sha256:{record.base[:12]} is a {base.kind}"
        elif isinstance(base, BaseRecord) and base.fingerprint != record.base_fingerprint:
            yield (
                f"the head of {record.class_name} says its base has the fingerprint {record.base_fingerprint[:12]}, "
                f"sha256:{record.base[:12]} has {base.fingerprint[:12]}"
            )
    if isinstance(record, ModelRecord):
        yield from _model(record, read)
    if isinstance(record, EvaluationRecord):
        model = read(record.model)
        if model is not None and not isinstance(model, ModelRecord):
            yield f"what it evaluates, sha256:{record.model[:12]}, is a {model.kind}"


def _model(model: ModelRecord, read: Callable[[str], AnyRecord | None]) -> Iterator[str]:
    base = read(model.base)
    if base is not None and not isinstance(base, BaseRecord):
        yield f"its base sha256:{model.base[:12]} is a {base.kind}"
        return
    for name, digest in model.heads.items():
        head = read(digest)
        if head is None or base is None:
            continue
        if not isinstance(head, HeadRecord):
            yield f"what it has for {name}, sha256:{digest[:12]}, is a {head.kind}"
        elif head.class_name != name:
            yield f"the head that it has for {name}, sha256:{digest[:12]}, is one of {head.class_name}"
        elif head.base_fingerprint != base.fingerprint:
            yield (
                f"the head of {name} (sha256:{digest[:12]}) needs the base of fingerprint {head.base_fingerprint[:12]} "
                f"(sha256:{head.base[:12]}), got {base.fingerprint[:12]} (sha256:{model.base[:12]})"
            )


def check_fit(record: AnyRecord, read: Callable[[str], AnyRecord | None]) -> None:
    """Raise MismatchError unless the parts of a record belong together."""
    if problem := next(misfits(record, read), None):
        raise MismatchError(
            f"{problem}; compose each head with the base it was tuned on, or tune the class on this base"
        )
