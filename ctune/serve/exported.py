"""A served model from a folder that needs no registry: graphs for onnxruntime, or weights for torch, and one document.

model.json            name, digests, settings, card, runtime
parts/DIGEST*.onnx    runtime onnx
parts/DIGEST          runtime torch: safetensors
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ctune import __version__
from ctune.config import BaseConfig, Config
from ctune.data.files import read_json, sha256_of, write_json
from ctune.errors import ModelError, UsageError
from ctune.serve.graphs import OnnxLoader
from ctune.serve.model import load
from ctune.serve.parts import Loader, TorchLoader, of_class
from ctune.serve.source import Description, Source

_DOCUMENT = "model.json"


class FolderSource:
    """What ``write_folder`` wrote. Raises UsageError for another folder, ModelError for files that have changed."""

    def __init__(self, folder: Path) -> None:
        path = folder / _DOCUMENT
        if not path.is_file():
            raise UsageError(f"expected an exported model in {folder}, found no {_DOCUMENT}; export it again")
        self._folder, self._about = folder, read_json(path)
        self.name: str = self._about["name"]
        self.runtime: str = self._about["runtime"]
        for name, expected in self._about["files"].items():
            if _sha256(folder / "parts" / name) != expected:
                raise ModelError(
                    f"expected the file {name} as it was exported, got another; export the model again"
                )

    def loader(self, device: torch.device) -> Loader:
        """Makes parts of the folder's files, and of nothing else."""
        if self.runtime == "torch":
            return TorchLoader(self, device)
        return OnnxLoader(self._folder / "parts")

    def resolve(self) -> str:
        """See ``Source``."""
        digest: str = self._about["digest"]
        return digest

    def describe(self, digest: str) -> Description:
        """See ``Source``."""
        about = self._about
        config = Config.model_validate(about["config"])
        return Description(about["name"], digest, about["base"], about["heads"], config, about["card"])

    def base(self, digest: str) -> tuple[Any, str]:
        """See ``parts.Weights``."""
        from ctune.model.weights import base_from_bytes

        settings = BaseConfig.model_validate(self._about["base_settings"])
        return base_from_bytes(self._bytes(digest), settings), self._about["fingerprints"][digest]

    def head(self, digest: str) -> tuple[Any, str]:
        """See ``parts.Weights``."""
        from ctune.model.weights import head_from_bytes

        head = head_from_bytes(self._bytes(digest))
        for name, other in self._about["heads"].items():
            if other == digest:
                of_class(head, name, digest)
        return head, self._about["fingerprints"][digest]

    def _bytes(self, digest: str) -> bytes:
        return (self._folder / "parts" / digest).read_bytes()


def write_folder(source: Source, folder: Path, runtime: str) -> Mapping[str, Any]:
    """Write the model that `source` means now into `folder` for a runtime, onnx or torch; returns the document.

    The model is loaded and checked first, as a service would load it.
    """
    if runtime not in ("onnx", "torch"):
        raise UsageError(f"expected the runtime onnx or torch, got {runtime!r}")
    parts, cpu = folder / "parts", torch.device("cpu")
    parts.mkdir(parents=True)
    loader: Loader = OnnxLoader(parts, source) if runtime == "onnx" else TorchLoader(source, cpu)
    about = load(source, loader, source.resolve()).about
    base, fingerprint = source.base(about.base)
    fingerprints = {about.base: fingerprint}
    if runtime == "torch":
        from ctune.model.weights import base_to_bytes, head_to_bytes

        (parts / about.base).write_bytes(base_to_bytes(base))
        for digest in about.heads.values():
            head, fingerprints[digest] = source.head(digest)
            (parts / digest).write_bytes(head_to_bytes(head))
    document = {
        "ctune": __version__,
        "name": source.name,
        "runtime": runtime,
        "digest": about.digest,
        "base": about.base,
        "base_settings": base.config.model_dump(mode="json"),
        "heads": dict(about.heads),
        "fingerprints": fingerprints,
        "config": about.config.model_dump(mode="json"),
        "card": dict(about.card),
        "files": {path.name: _sha256(path) for path in sorted(parts.iterdir())},
    }
    write_json(folder / _DOCUMENT, document)
    return document


def _sha256(path: Path) -> str:
    if not path.is_file():
        raise ModelError(f"expected the file {path.name} of an exported model, found none; export it again")
    return sha256_of(path)
