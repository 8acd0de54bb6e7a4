"""A model in memory, ready to answer: its parts, its settings, its card."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ctune.classes import ClassList, canonical
from ctune.errors import UnknownClassError
from ctune.serve.faults import Wrong
from ctune.serve.parts import Loader, Part, Window, check_heads
from ctune.serve.source import Description, Source


@dataclass(frozen=True, eq=False)
class ServedModel:
    """about: digests, settings and card. loaded: the classes whose heads were not in memory before; seconds: it took."""

    about: Description
    base: Part
    heads: Mapping[str, Part]
    device: torch.device
    loaded: tuple[str, ...]
    seconds: float

    @property
    def window(self) -> Window:
        """Sides of the windows that its parts are made for."""
        return self.about.config.inference.patch_size

    @property
    def classes(self) -> tuple[str, ...]:
        """In the order of the channels."""
        return tuple(self.heads)

    def choose(self, wanted: Sequence[str]) -> tuple[str, ...]:
        """The classes that are meant, all when `wanted` is empty. Raises UnknownClassError naming the nearest."""
        names = ClassList(self.classes)
        return tuple(dict.fromkeys(names[names.channel(name)] for name in wanted)) or self.classes

    def digests(self, classes: Sequence[str]) -> dict[str, Any]:
        """What an answer says of the model that made it."""
        return {
            "model": f"sha256:{self.about.digest}",
            "base": f"sha256:{self.about.base}",
            "heads": {name: f"sha256:{self.heads[name].digest}" for name in classes},
        }


class ServedRuntime:
    """The model as ``inference.runtime.Runtime`` for some classes; `check` is called before every window and head."""

    def __init__(self, model: ServedModel, classes: Sequence[str], check: Callable[[], None]) -> None:
        self.classes, self.device = tuple(classes), model.device
        self._model, self._check = model, check
        self._needs = frozenset[str]().union(*(model.heads[name].needs for name in self.classes))

    def logits(self, windows: Tensor) -> Iterator[Tensor]:
        """See ``Runtime``."""
        self._check()
        features = self._model.base.run(windows, self._needs)
        for name in self.classes:
            self._check()
            yield self._model.heads[name].run(features)


def load(source: Source, loader: Loader, digest: str, before: ServedModel | None = None) -> ServedModel:
    """The model of a digest; what `before` holds of it is taken from there, the rest is loaded and checked.

    Raises what loading raises, and Wrong for classes that cannot be ones and heads that do not give finite logits: then
    `before` is as it was.
    """
    begun = time.perf_counter()
    about = source.describe(digest)
    _check_classes(about)
    window = about.config.inference.patch_size
    same = before if before and (before.about.base, before.window) == (about.base, window) else None
    base = same.base if same else loader.base(about.base, window)
    # A head is tuned on one base and runs on no other.
    known = {part.digest: part for part in same.heads.values()} if same else {}
    heads = {name: known.get(d) or loader.head(d, base, window) for name, d in about.heads.items()}
    new = {name: part for name, part in heads.items() if part.digest not in known}
    check_heads(base, new, window, loader.device)
    return ServedModel(about, base, heads, loader.device, tuple(new), round(time.perf_counter() - begun, 4))


def _check_classes(about: Description) -> None:
    """They become the names of files, here and where an answer is unpacked."""
    for name in about.heads:
        try:
            good = canonical(name) == name
        except UnknownClassError:
            good = False
        if not good:
            raise Wrong(
                f"expected classes by the names that ctune gives them in sha256:{about.digest[:12]}, got {name[:40]!a}; rename "
                "the class where the model was made, and do not trust a model from elsewhere that has it"
            )
