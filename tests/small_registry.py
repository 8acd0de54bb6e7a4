"""A registry that one can picture: a base, heads of a few kilobytes, models of three organs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from registry import AnnotationUsed, BaseRecord, EvaluationRecord, HeadRecord, ModelRecord, Registry

ORGANS = ("liver", "spleen", "aorta")
BASE_FINGERPRINT = "b" * 64


def weights(seed: int, size: int = 4000) -> bytes:
    """Safetensors of one tensor `w` of `size` bytes, different for each seed."""
    header = json.dumps({"w": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}).encode()
    return len(header).to_bytes(8, "little") + header + bytes((seed * 31 + i * 7) % 256 for i in range(size))


def base(registry: Registry, seed: int = 0, fingerprint: str = BASE_FINGERPRINT) -> str:
    return registry.register(
        BaseRecord(
            architecture="unet", settings={"width": 8}, fingerprint=fingerprint, weights=registry.put(weights(seed, 9000)),
            preprocessing={"spacing_mm": [1.5, 1.5, 1.5]}, classes=ORGANS[:1], code_version="0.1", seed=seed,
        )
    )  # fmt: skip


def head(
    registry: Registry,
    base_digest: str,
    organ: str,
    seed: int,
    *,
    fingerprint: str = BASE_FINGERPRINT,
    cases: Sequence[str] = (),
    parent: str | None = None,
) -> str:
    used = tuple(
        AnnotationUsed(
            case_id=c, class_name=organ, sha256="c" * 64, source="revised", author="ada", created="2024-01-01", round=seed
        )
        for c in cases
    )  # fmt: skip
    record = HeadRecord(
        class_name=organ, head_kind="text", base=base_digest, base_fingerprint=fingerprint, fingerprint=f"{seed:064x}",
        weights=registry.put(weights(1000 * ORGANS.index(organ) + seed)), round=seed, parent=parent, settings={}, seed=seed,
        annotations=used, experts=("ada",) if used else (), code_version="0.1",
    )  # fmt: skip
    return registry.register(record, measured={"seconds": 3.5 + seed, "device": "cpu"})


def model(
    registry: Registry,
    base_digest: str,
    heads: Mapping[str, str],
    parents: Sequence[str] = (),
    round: int = 0,
) -> str:
    return registry.register(
        ModelRecord(
            base=base_digest, heads=dict(heads), parents=tuple(parents), round=round, note=f"round {round}"
        )
    )


def rounds(registry: Registry, name: str = "abdomen", count: int = 3) -> list[str]:
    """`count` versions of `name`; each but the first has a new head of the aorta. Returns the models' digests."""
    on = base(registry)
    heads = {organ: head(registry, on, organ, 0) for organ in ORGANS}
    made = [model(registry, on, heads)]
    registry.add_version(name, made[0])
    for number in range(1, count):
        cases = [f"case{i}" for i in range(number)]
        heads["aorta"] = head(registry, on, "aorta", number, cases=cases, parent=heads["aorta"])
        made.append(model(registry, on, heads, [made[-1]], number))
        registry.add_version(name, made[-1], note=f"round {number}")
    return made


def evaluate(
    registry: Registry, digest: str, dice: Mapping[str, Sequence[float | None]], split: str = "test"
) -> str:
    """Register scores: {class: Dice of case0, case1, ...}; None where the class is absent."""
    cases = [f"case{i}" for i in range(max(map(len, dice.values())))]
    scores = [
        {"case_id": case, "class_name": organ, "dice": value, "nsd": value}
        for organ, values in dice.items()
        for case, value in zip(cases, values, strict=False)
    ]
    means = {o: [v for v in values if v is not None] for o, values in dice.items()}
    summary = {o: {"dice": sum(v) / len(v), "cases": len(v), "misses": 0} for o, v in means.items()}
    data = {case: f"{i:064x}" for i, case in enumerate(cases)}
    return registry.register(
        EvaluationRecord(model=digest, split=split, data=data, scores=tuple(scores), summary=summary)
    )


def blob_path(registry: Registry, root: Path, digest: str) -> Path:
    return root / "blobs" / "sha256" / digest[:2] / digest
