"""A registry with a small real network, and CTs to send to a service."""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import small_network as small

from ctune.compositions import Tuned, load_model, register_model
from ctune.data.nifti import header_bytes
from ctune.model.heads import build_head
from ctune.serve.tokens import hashed
from ctune.types import Grid
from registry import Registry

__all__ = ["GRID", "ct", "ct_gz", "fill", "hashed", "next_round", "small"]

GRID = Grid((20, 18, 14), np.diag([-2.0, 2.0, 3.0, 1.0]))


def fill(root: Path, name: str = "small") -> Registry:
    """A registry whose `name` is a base with text heads of liver and spleen; version 1 is in production."""
    registry = Registry.open(root)
    register_model(registry, name, small.network(), small.config(), {})
    registry.set_alias(name, "production", 1)
    return registry


def next_round(
    registry: Registry, classes: Sequence[str] = ("liver",), seed: int = 1, name: str = "small"
) -> str:
    """Register another version with new heads of `classes`; returns the model's digest. No alias moves."""
    import torch

    before = load_model(registry, name, torch.device("cpu"))
    for class_name in classes:
        before.network.set_head(class_name, build_head(class_name, "text", before.network.base, seed))
    tuned = {class_name: Tuned((), {}, seed, seed) for class_name in classes}
    return register_model(
        registry, name, before.network, small.config(), tuned, parent=before, round_number=seed
    )


def ct(seed: int = 0, grid: Grid = GRID, dtype: type = np.int16) -> bytes:
    """The bytes of a .nii file of noise around soft tissue, in HU."""
    hu = np.random.default_rng(seed).normal(40, 60, grid.shape)
    return header_bytes(grid, dtype) + hu.astype(dtype).tobytes(order="F")


def ct_gz(seed: int = 0) -> bytes:
    """The same as .nii.gz."""
    return gzip.compress(ct(seed), 1)
