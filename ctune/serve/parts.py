"""The parts of a served model, each loaded once by its digest: a base and heads, in torch or in onnxruntime.

A part is kept while its digest is in use: a model that differs in one head shares all the others with the one before.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from ctune.model.fingerprint import fingerprint
from ctune.serve.faults import Wrong

Window = tuple[int, int, int]


@dataclass(frozen=True, eq=False)
class Part:
    """digest: of its record. run: a base takes windows (N, 1, X, Y, Z) float32 in [0, 1] and gives what heads take; a head
    gives (N, X, Y, Z) float32 logits. needs: names of the features that a head takes, where a base is asked for some.
    shapes: {feature: (C, ...)} of one window, for graphs."""

    digest: str
    run: Callable[..., Any]
    needs: frozenset[str] = frozenset()
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)


class Weights(Protocol):
    """Where weights are, by the digest of their record."""

    def base(self, digest: str) -> tuple[Any, str]:
        """The base as a module in evaluation mode, and the fingerprint that it must have."""
        ...

    def head(self, digest: str) -> tuple[Any, str]:
        """The same of a head."""
        ...


class Loader(Protocol):
    """Makes parts. device: where windows must lie."""

    device: torch.device

    def base(self, digest: str, window: Window) -> Part:
        """The base of a digest, for windows of these sides. Raises when it is not what its record says."""
        ...

    def head(self, digest: str, base: Part, window: Window) -> Part:
        """The same for a head on that base."""
        ...


class TorchLoader:
    """Parts as modules on `device`; checked by fingerprint."""

    def __init__(self, weights: Weights, device: torch.device) -> None:
        self.device, self._weights = device, weights

    def base(self, digest: str, window: Window) -> Part:
        """See ``Loader``."""
        module = checked(*self._weights.base(digest), digest)
        if self.device.type == "cpu" and module.config.architecture != "swin_unetr":
            # As ctune.inference.runtime does it: a fifth less time in the convolutions of unet_small.
            module = module.to(memory_format=torch.channels_last_3d)
        module = module.to(self.device)

        @torch.inference_mode()
        def run(windows: Tensor, needs: frozenset[str] = frozenset()) -> Any:
            return module(windows)

        return Part(digest, run)

    def head(self, digest: str, base: Part, window: Window) -> Part:
        """See ``Loader``."""
        module = checked(*self._weights.head(digest), digest).to(self.device)

        @torch.inference_mode()
        def run(features: Any) -> Tensor:
            logits: Tensor = module(features)
            return logits[:, 0].float()

        return Part(digest, run)


def checked(module: Any, expected: str, digest: str) -> Any:
    """The module itself. Raises Wrong when its weights are not those that its record tells of."""
    found = fingerprint(module, modes=False)
    if found != expected:
        raise Wrong(
            f"expected weights with the fingerprint {expected[:12]} for sha256:{digest[:12]}, got {found[:12]}; "
            "`ctune registry verify` says what is damaged"
        )
    return copy.deepcopy(module).eval()


def of_class(head: Any, class_name: str, digest: str) -> Any:
    """The head itself. Raises Wrong when its weights are those of another class than its record says."""
    if head.class_name != class_name:
        raise Wrong(
            f"expected weights of a head of {class_name} for sha256:{digest[:12]}, got those of {head.class_name}; tune "
            f"{class_name} again, and do not trust where the model came from"
        )
    return head


def check_heads(base: Part, heads: Mapping[str, Part], window: Window, device: torch.device) -> None:
    """Run new heads, if any, on one window of noise. Raises Wrong for logits of another shape, or ones that are not finite."""
    if not heads:
        return
    noise = torch.rand(1, 1, *window, generator=torch.Generator().manual_seed(0)).to(device)
    features = base.run(noise, frozenset[str]().union(*(head.needs for head in heads.values())))
    for name, head in heads.items():
        logits = head.run(features)
        if tuple(logits.shape) != (1, *window) or not bool(torch.isfinite(logits).all()):
            raise Wrong(
                f"expected finite logits (1, {', '.join(map(str, window))}) of the head of {name} (sha256:{head.digest[:12]}), "
                f"got {tuple(logits.shape)}, {int((~torch.isfinite(logits)).sum())} of them not finite; tune {name} again"
            )
