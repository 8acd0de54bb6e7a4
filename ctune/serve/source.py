"""Where a served model comes from: a registry, where an alias may move, or a folder that was exported."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from ctune.config import BaseConfig, Config, Preprocessing
from ctune.errors import UsageError

if TYPE_CHECKING:
    from registry import Registry


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


class RegistrySource:
    """A reference in a registry; with an alias or a bare name another model may come."""

    def __init__(self, registry: Registry, reference: str) -> None:
        self.registry, self.name = registry, reference

    def resolve(self) -> str:
        """See ``Source``."""
        return self.registry.resolve(self.name)

    def describe(self, digest: str) -> Description:
        """See ``Source``. Raises UsageError for a model without heads, the registry's errors for parts that do not fit."""
        from registry.card import card

        found = self.registry.load(f"sha256:{digest}")
        if not found.record.heads:
            raise UsageError(f"expected a model with heads, {self.name} has none; tune one first")
        config = Config.model_validate(found.record.config)
        preprocessing = Preprocessing.model_validate(found.base.preprocessing)
        config = config.model_copy(update={"preprocessing": preprocessing})
        told = card(self.registry, f"sha256:{digest}")
        told = {k: told[k] for k in ("versions", "aliases", "created", "base", "classes", "evaluations")}
        return Description(self.name, digest, found.record.base, dict(found.record.heads), config, told)

    def base(self, digest: str) -> tuple[Any, str]:
        """See ``parts.Weights``."""
        from ctune.model.weights import base_from_bytes

        record = self.registry.record_of(digest)
        assert record.kind == "base"
        weights = self.registry.get(record.weights)
        return base_from_bytes(weights, BaseConfig.model_validate(record.settings)), record.fingerprint

    def head(self, digest: str) -> tuple[Any, str]:
        """See ``parts.Weights``."""
        from ctune.model.weights import head_from_bytes

        record = self.registry.record_of(digest)
        assert record.kind == "head"
        return head_from_bytes(self.registry.get(record.weights)), record.fingerprint
