"""A registry with a small real network, and CTs to send to a service."""

from __future__ import annotations

import gzip
import socket
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import httpx
import numpy as np
import small_network as small

from ctune.compositions import Tuned, load_model, register_model
from ctune.data.nifti import header_bytes
from ctune.model.heads import build_head
from ctune.serve.tokens import hashed
from ctune.types import Grid
from registry import Registry

__all__ = ["GRID", "ct", "ct_gz", "fill", "free_port", "hashed", "next_round", "small", "wait_for"]

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


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def wait_for(url: str, path: str, process: subprocess.Popen[bytes], log: Path, seconds: float = 90) -> str:
    """`url`, once it answers at `path`."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        assert process.poll() is None, log.read_text()
        try:
            if httpx.get(url + path, timeout=5).status_code == 200:
                return url
        except httpx.TransportError:
            time.sleep(0.05)
    raise AssertionError(f"no answer at {url}{path}: {log.read_text()}")
