"""Made-up bases, heads and models, of which only size and number matter."""

from __future__ import annotations

import hashlib
import json
import random

from ctune import __version__
from ctune.classes import NINE_ORGANS
from ctune.types import OnProgress, Progress
from registry import BaseRecord, HeadRecord, ModelRecord, Registry

ALIAS = "production"
_FILL_BYTES = 4096
"""Of a head that only fills the registry: what is found and listed are rows."""
_FINGERPRINT = hashlib.sha256(b"base").hexdigest()


def weights(seed: str, size: int) -> bytes:
    """Safetensors of one tensor of `size` random bytes."""
    header = json.dumps({"w": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}).encode()
    return len(header).to_bytes(8, "little") + header + random.Random(seed).randbytes(size)


def model_name(number: int) -> str:
    """The name of a model.

    >>> model_name(7)
    'model-0007'
    """
    return f"model-{number:04d}"


def register_base(registry: Registry, seed: int) -> str:
    """The base of every head."""
    record = BaseRecord(
        architecture="unet",
        settings={},
        fingerprint=_FINGERPRINT,
        weights=registry.put(weights(f"base {seed}", _FILL_BYTES)),
        preprocessing={"spacing_mm": [1.5, 1.5, 1.5]},
        classes=NINE_ORGANS,
        code_version=__version__,
        seed=seed,
    )
    return registry.register(record)


def register_head(registry: Registry, base: str, class_name: str, data: bytes, round_: int = 0) -> str:
    """Keep a head's bytes and its record."""
    blob = registry.put(data)
    record = HeadRecord(
        class_name=class_name,
        head_kind="pyramid",
        base=base,
        base_fingerprint=_FINGERPRINT,
        fingerprint=blob,
        weights=blob,
        round=round_,
        settings={},
        seed=0,
        code_version=__version__,
    )
    return registry.register(record)


def fill(registry: Registry, versions: int, names: int, seed: int, on_progress: OnProgress) -> str:
    """Register `versions` versions over `names` names through the public calls, one by one; what is there stays.

    Each version has one head more than, or one other than, the version before it; an alias points at one in the middle.
    Returns the sha256 of all their digests.
    """
    base, each = register_base(registry, seed), versions // names
    for number in range(names):
        name = model_name(number)
        here = len(registry.versions(name))
        if here < each:
            _fill_name(registry, name, base, each, here, seed)
        if (name, ALIAS) not in registry.aliases(name):
            registry.set_alias(name, ALIAS, max(1, each // 2))
        on_progress(Progress("fill the registry", number + 1, names))
    digests = "".join(version.digest for version in registry.versions())
    return hashlib.sha256(digests.encode()).hexdigest()


def _fill_name(registry: Registry, name: str, base: str, each: int, here: int, seed: int) -> None:
    heads: dict[str, str] = {}
    parents: tuple[str, ...] = ()
    for version in range(each):
        organ = NINE_ORGANS[version % len(NINE_ORGANS)]
        data = weights(f"{name} {version} {seed}", _FILL_BYTES)
        heads[organ] = register_head(registry, base, organ, data, version)
        model = registry.register(ModelRecord(base=base, heads=dict(heads), parents=parents, round=version))
        parents = (model,)
        if version >= here:
            registry.add_version(name, model)
