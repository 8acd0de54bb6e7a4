"""Bases and heads as safetensors bytes: the same weights give the same bytes, and nothing is ever unpickled.

The header says what the bytes are (kind, class, settings) as one JSON text under the key ``ctune``. Weights
are loaded by name; a misfit names the first leaf that differs.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from ctune.config import BaseConfig
from ctune.errors import ModelError
from ctune.model.base import Base, Channels, build_base
from ctune.model.heads import Head, PyramidHead, TextHead

_KEY = "ctune"


def base_to_bytes(base: Base) -> bytes:
    """The base's weights as a safetensors file."""
    return _to_bytes(base, {"kind": "base", "settings": base_settings(base.config)})


def base_from_bytes(data: bytes, config: BaseConfig) -> Base:
    """The base that ``base_to_bytes`` wrote, in evaluation mode, on the CPU.

    Raises ModelError when the bytes are no base, are one of other settings than `config`, or a leaf differs.
    """
    header, tensors = _from_bytes(data, "base")
    expected, found = base_settings(config), header.get("settings")
    if found != expected:
        raise ModelError(
            f"expected a base {_brief(expected)}, got weights of one {_brief(found)}; "
            f"set [base] in ctune.toml to match"
        )
    base = build_base(config, seed=0)
    load_by_name(base, tensors, "the base")
    return base


def head_to_bytes(head: Head) -> bytes:
    """The head's weights, class and settings as a safetensors file."""
    header = {
        "kind": head.kind,
        "class": head.class_name,
        "settings": head.settings(),
        "base": head.base_digest,
    }
    return _to_bytes(head, header)


def head_from_bytes(data: bytes) -> Head:
    """The head that ``head_to_bytes`` wrote, in evaluation mode, on the CPU. Raises ModelError as above."""
    header, tensors = _from_bytes(data, "head")
    name = header.get("class")
    try:
        # On "meta" nothing is allocated before the leaves are known to match: the header is not trusted.
        with torch.device("meta"):
            head = _head_of(header)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise ModelError(
            f"expected the settings of a head of class {name}, got {header}; {error!r}"
        ) from None
    _check_leaves(head, tensors, f"the head of class {name}")
    head.to_empty(device="cpu")
    load_by_name(head, tensors, f"the head of class {name}")
    head.base_digest = header.get("base")
    return head.eval()


def load_by_name(module: nn.Module, tensors: Mapping[str, Tensor], what: str) -> None:
    """Copy `tensors` into `module` by name: all, or none and a ModelError naming the first that differs."""
    _check_leaves(module, tensors, what)
    with torch.no_grad():
        for name, leaf in module.state_dict().items():
            leaf.copy_(tensors[name])


def base_settings(config: BaseConfig) -> dict[str, Any]:
    """The settings that decide the shape of a base; the others of BaseConfig do not matter to it."""
    settings: dict[str, Any] = {"architecture": config.architecture}
    if config.architecture == "swin_unetr":
        settings["feature_size"] = config.feature_size
    if config.architecture == "unet_small":
        settings["channels"] = list(config.channels)
    return settings


def _to_bytes(module: nn.Module, header: dict[str, Any]) -> bytes:
    leaves = sorted(module.state_dict().items())
    tensors = {name: leaf.detach().cpu().contiguous() for name, leaf in leaves}
    # One key only: safetensors writes several in no fixed order.
    data: bytes = save(tensors, metadata={_KEY: json.dumps(header, sort_keys=True, separators=(",", ":"))})
    return data


def _from_bytes(data: bytes, what: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    try:
        length = int.from_bytes(data[:8], "little")
        tensors = load(data)
        header = json.loads(json.loads(data[8 : 8 + length])["__metadata__"][_KEY])
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ModelError(
            f"expected the safetensors bytes of a {what} written by ctune, got {len(data)} other bytes "
            f"({error!r}); fetch the file again"
        ) from None
    kind = header.get("kind") if isinstance(header, dict) else None
    if (kind == "base") != (what == "base") or kind not in ("base", "text", "pyramid"):
        raise ModelError(f"expected the weights of a {what}, got those of kind {kind!r}; pass the other file")
    return header, tensors


def _head_of(header: dict[str, Any]) -> Head:
    settings = header["settings"]
    if header["kind"] == "text":
        return TextHead(header["class"], torch.zeros(settings["text"]), settings["hidden"])
    channels = Channels(settings["bottleneck"], tuple(settings["skips"]), tuple(settings["levels"]))
    return PyramidHead(header["class"], channels, settings["width"])


def _check_leaves(module: nn.Module, tensors: Mapping[str, Tensor], what: str) -> None:
    expected = module.state_dict()
    for name in sorted(expected.keys() | tensors.keys()):
        if name not in tensors:
            raise ModelError(
                f"{what}: expected a leaf {name!r} {_leaf(expected[name])}, got none; "
                f"take weights of this network"
            )
        if name not in expected:
            raise ModelError(
                f"{what}: expected no leaf {name!r}, got {_leaf(tensors[name])}; take weights of this network"
            )
        if _leaf(expected[name]) != _leaf(tensors[name]):
            raise ModelError(
                f"{what}: expected leaf {name!r} to be {_leaf(expected[name])}, got {_leaf(tensors[name])}; "
                f"take weights of this network"
            )


def _leaf(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"


def _brief(settings: Any) -> str:
    return (
        ", ".join(f"{k}={v}" for k, v in settings.items()) if isinstance(settings, dict) else repr(settings)
    )
