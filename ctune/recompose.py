"""Change which classes a model has: remove, rename and split them, without training anything.

The result is a new version whose other heads are those of the model before, by digest, so bit for bit. A head under a new
name keeps its weights, and a text head the text vector of its former name: it computes what it computed. What it was called
stands in its record's settings (``renamed_from``, ``split_from``), and its record's parent is the head that it comes from.

The pool is left alone: annotations keep the name under which they were made. An alias in ``ctune.toml`` (former name = new
name) lets them count for the class under its new name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ctune import __version__
from ctune.classes import canonical, nearest
from ctune.config import BaseConfig
from ctune.errors import UnknownClassError, UsageError
from ctune.model.network import Network
from ctune.model.weights import base_from_bytes, head_from_bytes, head_to_bytes
from registry import HeadRecord, Loaded, ModelRecord, Registry, Version


def remove(
    registry: Registry, reference: str, classes: Sequence[str], *, name: str, note: str = ""
) -> Version:
    """Register `reference` without `classes` as a version of `name`.

    Raises UnknownClassError for a class that it has not, UsageError when none would be left.
    """
    model, gone = registry.load(reference), [canonical(c) for c in classes]
    for one in gone:
        _must_have(model, one)
    heads = {c: head for c, head in model.record.heads.items() if c not in gone}
    if not heads:
        raise UsageError(
            f"expected at least one class to be left of {reference}, got all of {', '.join(gone)} removed; name fewer"
        )
    return _register(registry, model, heads, name, note or f"removed {', '.join(gone)}")


def rename(registry: Registry, reference: str, old: str, new: str, *, name: str, note: str = "") -> Version:
    """Register `reference` with the class `old` called `new` as a version of `name`.

    Raises UnknownClassError for a class that it has not, UsageError when it has `new` already.
    """
    model, old, new = registry.load(reference), canonical(old), canonical(new)
    _must_have(model, old)
    _must_lack(model, new)
    made = _copy_of(registry, model, old, new, "renamed_from")
    heads = {c: head for c, head in model.record.heads.items() if c != old} | {new: made}
    return _register(registry, model, heads, name, note or f"renamed {old} to {new}")


def split(
    registry: Registry,
    reference: str,
    old: str,
    new: Sequence[str],
    *,
    keep: bool = False,
    name: str,
    note: str = "",
) -> Version:
    """Register `reference` with the class `old` split into two or more `new` ones as a version of `name`.

    Each new head begins as a copy of the old one, ready to be tuned on its own annotations; `keep` keeps the old class
    beside them. Raises UnknownClassError for a class that it has not, UsageError for fewer than two names, for one that is
    there already, or for a name twice.
    """
    model, old, names = registry.load(reference), canonical(old), [canonical(c) for c in new]
    _must_have(model, old)
    if len(names) < 2 or len(set(names)) < len(names):
        raise UsageError(
            f"expected two or more different classes to split {old} into, got {', '.join(names)}; "
            "`rename` is for a single one"
        )
    for one in names:
        _must_lack(model, one)
    heads = {c: head for c, head in model.record.heads.items() if keep or c != old}
    heads |= {one: _copy_of(registry, model, old, one, "split_from") for one in names}
    said = f"split {old} into {', '.join(names)}" + (f", {old} kept" if keep else "")
    return _register(registry, model, heads, name, note or said)


def _copy_of(registry: Registry, model: Loaded, old: str, new: str, how: str) -> str:
    """The head of `old` as a head of `new`, registered; returns its digest."""
    before = model.heads[old]
    head = head_from_bytes(model.head_weights(old))
    head.class_name = new
    # Refuses a name that no network can have, before anything is registered.
    Network(
        base_from_bytes(model.base_weights(), BaseConfig.model_validate(model.base.settings)), {new: head}
    )
    record = before.model_copy(
        update={
            "class_name": new,
            "weights": registry.put(head_to_bytes(head)),
            "parent": model.record.heads[old],
            "settings": {**before.settings, how: old},
            "code_version": __version__,
        }
    )
    return registry.register(HeadRecord.model_validate(record.model_dump()))


def _register(registry: Registry, model: Loaded, heads: Mapping[str, str], name: str, note: str) -> Version:
    record = ModelRecord(
        base=model.record.base,
        heads=dict(heads),
        parents=(model.digest,),
        round=model.record.round,
        config=model.record.config,
        note=note,
    )
    return registry.add_version(name, registry.register(record), note=note)


def _must_have(model: Loaded, name: str) -> None:
    if name not in model.heads:
        hint = nearest(name, model.heads)
        raise UnknownClassError(
            f"expected one of the model's classes {', '.join(model.heads)}; got {name!r}; "
            + (f"did you mean {hint!r}?" if hint else "name one of those")
        )


def _must_lack(model: Loaded, name: str) -> None:
    if name in model.heads:
        raise UsageError(
            f"expected a name that no class of the model has, got {name!r}; remove that class first or take another name"
        )
