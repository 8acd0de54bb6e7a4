"""A served model from a registry."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ctune.config import BaseConfig, Config, Preprocessing
from ctune.errors import UsageError
from ctune.serve.parts import Loader, TorchLoader, of_class
from ctune.serve.source import Description

if TYPE_CHECKING:
    from registry import Registry


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
        head = of_class(head_from_bytes(self.registry.get(record.weights)), record.class_name, digest)
        return head, record.fingerprint


def loader_of(source: RegistrySource, graphs: Path, device: torch.device, runtime: str) -> tuple[Loader, str]:
    """What loads parts for a runtime (torch, onnx, or auto: onnx on a CPU), and which it is. graphs: where ONNX graphs are kept.

    Raises UsageError for onnx on a GPU.
    """
    if runtime == "auto":
        runtime = "onnx" if device.type == "cpu" else "torch"
    if runtime == "torch":
        return TorchLoader(source, device), runtime
    if device.type != "cpu":
        raise UsageError(
            f"expected the device cpu for the runtime onnx, got {device}; choose --runtime torch"
        )
    from ctune.serve.graphs import OnnxLoader

    return OnnxLoader(graphs, source), runtime
