"""The whole network: one base and a head a class; only the heads that are asked for run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from typing import Self

import torch
from torch import Tensor, nn

from ctune.classes import ClassList
from ctune.errors import ModelError
from ctune.model.base import Base, Features
from ctune.model.fingerprint import fingerprint
from ctune.model.heads import Head, check_fit


class Network(nn.Module):
    """A base and {class: head}.

    Raises HeadBaseMismatchError when a head does not fit the base, ModelError when a head is filed under
    another class. Logits of a class are the same bits whichever other classes run in the same call (same
    device, threads and batch; on a GPU with ``torch.backends.cudnn.benchmark`` off).

    >>> from ctune.config import BaseConfig
    >>> from ctune.model.base import build_base
    >>> from ctune.model.heads import build_head
    >>> base = build_base(BaseConfig(architecture="unet_small"), seed=0)
    >>> heads = {name: build_head(name, "text", base, seed=0) for name in ("liver", "spleen")}
    >>> Network(base, heads)(torch.rand(1, 1, 16, 16, 16), ["spleen"]).shape
    torch.Size([1, 1, 16, 16, 16])
    """

    def __init__(self, base: Base, heads: Mapping[str, Head]) -> None:
        super().__init__()
        self.base = base
        self.heads = nn.ModuleDict()
        self.training_prefixes: tuple[str, ...] = ("",)
        """Names of the modules that follow ``train()``; the others stay in evaluation mode."""
        # Once for all heads: hashing a large base takes a while.
        digest = cache(lambda: fingerprint(base, modes=False))
        for name, head in heads.items():
            self._set_head(name, head, digest)

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, in the order in which their heads came."""
        return tuple(self.heads)

    @property
    def class_list(self) -> ClassList:
        """The classes as names <-> channels."""
        return ClassList(self.classes)

    def head(self, class_name: str) -> Head:
        """The head of a class. Raises UnknownClassError naming the nearest class."""
        names = self.class_list
        head = self.heads[names[names.channel(class_name)]]
        assert isinstance(head, Head)
        return head

    def set_head(self, class_name: str, head: Head) -> None:
        """Add the head of a new class, or put `head` in place of the one that is there.

        Raises HeadBaseMismatchError when it does not fit the base, ModelError when it is the head of another
        class.
        """
        self._set_head(class_name, head, lambda: fingerprint(self.base, modes=False))

    def _set_head(self, class_name: str, head: Head, base_digest: Callable[[], str]) -> None:
        if class_name != head.class_name:
            raise ModelError(
                f"expected the head of class {class_name}, got that of {head.class_name}; file it by its name"
            )
        check_fit(head, self.base, base_digest)
        if hasattr(nn.ModuleDict, class_name):
            raise ModelError(
                f"expected another name for the class {class_name!r}: torch keeps it for itself; rename it"
            )
        self.heads[class_name] = head

    def forward(self, x: Tensor, classes: Sequence[str] | None = None) -> Tensor:
        """Patches (N, 1, X, Y, Z) float32 in [0, 1] -> (N, K, X, Y, Z) float32 logits, channel k is
        classes[k].

        classes: which heads run, all when None. Raises UnknownClassError, and ModelError for a patch that
        does not fit.
        """
        return self.logits(self.base(x), classes)

    def logits(self, features: Features, classes: Sequence[str] | None = None) -> Tensor:
        """The same from features that are there already: computed earlier, cropped, or from the cache."""
        wanted = self.classes if classes is None else tuple(classes)
        heads = [self.head(name) for name in wanted]
        if not heads:
            return features.map.new_zeros((features.map.shape[0], 0, *features.shape), dtype=torch.float32)
        return torch.cat([head(features) for head in heads], dim=1)

    def train(self, mode: bool = True) -> Self:
        """Training or evaluation mode; what ``freeze.tune_only`` froze stays in evaluation mode."""
        super().train(mode)
        if mode:
            for name, module in self.named_modules():
                if not self._follows(name):
                    module.training = False
        return self

    def _follows(self, name: str) -> bool:
        """True for a module that trains, or that holds one that does."""
        holds = any(name == "" or prefix.startswith(f"{name}.") for prefix in self.training_prefixes)
        return holds or belongs(name, self.training_prefixes)


def belongs(name: str, prefixes: Iterable[str]) -> bool:
    """True when the parameter or module `name` is one of `prefixes` or inside one; "" holds everything."""
    return any(prefix in ("", name) or name.startswith(f"{prefix}.") for prefix in prefixes)
