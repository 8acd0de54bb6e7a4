"""What trains and what must not move, by name; and the proof that it did not move.

Freezing covers parameters (``requires_grad``), buffers and modes: a frozen module is in evaluation mode and
stays there when ``network.train()`` is called, so that no buffer drifts.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, TypeAlias

from ctune.errors import ModelError
from ctune.model.fingerprint import fingerprint
from ctune.model.network import Network, belongs

__all__ = ["Trainable", "fingerprint", "tune_only"]

Trainable: TypeAlias = Literal["heads", "heads+decoder", "all"]


def tune_only(network: Network, classes: Iterable[str], trainable: Trainable = "heads") -> tuple[str, ...]:
    """Freeze all of `network` but what trains, put that in training mode, return its parameters' names.

    heads: the heads of `classes`. heads+decoder: these and the base's decoder and 8-channel reader; other
    classes then drift. all: everything, the heads of other classes too (the paper's revised-only column).
    Raises UnknownClassError when a class has no head, ModelError for no class or an unknown `trainable`.
    """
    prefixes = _trainable_prefixes(network, list(classes), trainable)
    names = []
    for name, parameter in network.named_parameters():
        trains = belongs(name, prefixes)
        parameter.requires_grad_(trains)
        parameter.grad = None
        if trains:
            names.append(name)
    network.training_prefixes = prefixes
    network.eval()
    network.train()
    return tuple(names)


def _trainable_prefixes(network: Network, classes: list[str], trainable: str) -> tuple[str, ...]:
    names = network.class_list
    heads = tuple(f"heads.{names[names.channel(name)]}" for name in classes)
    if not heads:
        raise ModelError("expected at least one class to tune, got none; name the revised classes")
    if trainable == "heads":
        return heads
    if trainable == "heads+decoder":
        return (*heads, *(f"base.{name}" for name in network.base.decoder_names))
    if trainable == "all":
        return ("",)
    raise ModelError(f"expected trainable to be heads, heads+decoder or all; got {trainable!r}")
