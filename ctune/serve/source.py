"""Where a served model comes from: a registry, where an alias may move (``registered``), or an exported folder (``exported``)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from ctune.config import Config


@dataclass(frozen=True)
class Description:
    """A model in words. name: what was asked for. base: digest; heads: {class: digest}; card: what ``/model`` tells of it."""

    name: str
    digest: str
    base: str
    heads: Mapping[str, str]
    config: Config
    card: Mapping[str, Any] = field(default_factory=dict)


class Source(Protocol):
    """Descriptions and weights (``parts.Weights``). name: what was asked for, as people write it."""

    name: str

    def resolve(self) -> str:
        """The digest of the model that is to be served now."""
        ...

    def describe(self, digest: str) -> Description: ...

    def base(self, digest: str) -> tuple[Any, str]: ...

    def head(self, digest: str) -> tuple[Any, str]: ...
