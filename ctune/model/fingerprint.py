"""The fingerprint of a network or a part of it: equal when nothing moved."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor, nn


def fingerprint(module: nn.Module, modes: bool = True) -> str:
    """sha256 (hex) over parameters, buffers and training modes, each under its name.

    Of a tensor it takes dtype, shape and bytes. Equal when nothing moved. `modes=False` leaves training modes
    out: the digest of the weights alone.
    """
    digest = hashlib.sha256()
    tensors: list[tuple[str, str, Tensor]] = [("parameter", n, t) for n, t in module.named_parameters()]
    tensors += [("buffer", n, t) for n, t in module.named_buffers()]
    for role, name, tensor in sorted(tensors, key=lambda entry: entry[:2]):
        digest.update(f"{role} {name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    if modes:
        for name, part in sorted(module.named_modules(), key=lambda entry: entry[0]):
            digest.update(f"mode {name} {part.training}\n".encode())
    return digest.hexdigest()
