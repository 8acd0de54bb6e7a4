"""A version that came while a tuning ran: heads of one base are independent, so the tuned ones go on top of it.

Two tunings of one model, begun together, so end in one model with both their heads, whichever comes last.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from pathlib import Path

import torch

from ctune.compositions import Model, load_model
from ctune.outcome import compose
from ctune.tune import Proof, prove_unmoved, snapshot
from registry import HeadRecord, ModelRecord, Version
from registry.errors import OvertakenError
from registry.records import digest_of


def build_on(model: Model, versions: Sequence[Version], before: Collection[str]) -> Model | None:
    """The newest of `versions`, where new heads of `model` can go on top of it; None where `model` itself is to be taken.

    `versions` are all of a name, oldest first; `before` those that were there when the tuning began (``NAME:VERSION``).
    It must have come meanwhile and have the base of `model`: a head fits no other.
    """
    if not versions or str(versions[-1]) in before or versions[-1].digest == model.digest:
        return None
    record = model.registry.record_of(versions[-1].digest)
    if not isinstance(record, ModelRecord) or record.base != model.record.base:
        return None
    device = next(model.network.parameters()).device
    return load_model(model.registry, f"sha256:{versions[-1].digest}", device)


def already_on(
    model: Model, versions: Sequence[Version], before: Collection[str], folder: Path, tuned: Collection[str]
) -> str | None:
    """The digest of the newest version, where it came meanwhile and has the heads in `folder` already; else None.

    So it is where whoever registered them was killed before it could note that.
    """
    if not versions or str(versions[-1]) in before or versions[-1].digest == model.digest:
        return None
    record = model.registry.record_of(versions[-1].digest)
    if not isinstance(record, ModelRecord) or record.base != model.record.base:
        return None
    for name in tuned:
        head = model.registry.record_of(record.heads[name]) if name in record.heads else None
        data = (folder / f"{name}.safetensors").read_bytes()
        if not isinstance(head, HeadRecord) or head.weights != digest_of(data):
            return None
    return versions[-1].digest


def prove_on(newest: Model, folder: Path, tuned: Collection[str], probes: torch.Tensor) -> Proof:
    """Compare the other classes of `newest` before and after the heads in `folder` are put in (FrozenChangedError).

    probes: (N, 1, X, Y, Z) float32.
    """
    others = [name for name in newest.network.classes if name not in tuned]
    before = snapshot(newest.network, others, probes)
    return prove_unmoved(before, snapshot(compose(newest, folder), others, probes))


def unless_overtaken(register: Callable[[], str]) -> str | None:
    """What `register` answers; None when another version came between its look at the newest and its own."""
    try:
        return register()
    except OvertakenError:
        return None


def replaced(model: Model, newest: Model, tuned: Collection[str]) -> tuple[str, ...]:
    """Of the tuned classes those that have another head in `newest` than in `model`: the new one was not compared with it."""
    theirs, ours = newest.record.heads, model.record.heads
    return tuple(name for name in tuned if name in theirs and theirs[name] != ours.get(name))
