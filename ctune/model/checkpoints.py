"""Published checkpoints as bases and heads: by name, never by position, every key accounted for.

Two formats. ``universal-model``: the CLIP-Driven Universal Model (Liu et al., ICCV 2023), its U-Net or its Swin UNETR,
with one shared linear controller, which splits exactly into one head a class. ``suprem``: the same backbones as SuPreM
(Li et al., ICLR 2024) published them; a base without heads.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from ctune.classes import canonical
from ctune.config import BaseConfig
from ctune.errors import ModelError
from ctune.model.base import GLOBAL_CHANNELS, PUBLISHED_CHANNELS, Base, build_base
from ctune.model.fingerprint import fingerprint
from ctune.model.heads import DYNAMIC_SIZES, TextHead
from ctune.model.network import Network

Format: TypeAlias = Literal["universal-model", "suprem"]
FORMATS: tuple[Format, ...] = ("universal-model", "suprem")

UNIVERSAL_CLASSES = (
    "spleen", "right kidney", "left kidney", "gall bladder", "esophagus", "liver", "stomach", "aorta", "postcava",
    "portal vein and splenic vein", "pancreas", "right adrenal gland", "left adrenal gland", "duodenum",
    "hepatic vessel", "right lung", "left lung", "colon", "intestine", "rectum", "bladder", "prostate",
    "left head of femur", "right head of femur", "celiac trunk", "kidney tumor", "liver tumor", "pancreas tumor",
    "hepatic vessel tumor", "lung tumor", "colon tumor", "kidney cyst",
)  # fmt: skip
"""The classes of the published universal model in the order of its rows, which the checkpoint itself does not name."""

_READERS = ("precls_conv.", "GAP.")
_HEAD_KEYS = (
    "controller.weight",
    "controller.bias",
    "organ_embedding",
    "text_to_vision.weight",
    "text_to_vision.bias",
)


@dataclass(frozen=True, eq=False)
class Imported:
    """A network read from a checkpoint.

    unused: keys of the file that the network has no place for (statistics of batch norm, the old last layer), as the file
    spells them. missing: keys of the base that the file lacks, which therefore hold random weights of `seed`.
    """

    network: Network
    unused: tuple[str, ...]
    missing: tuple[str, ...]


def read_checkpoint(
    path: Path, kind: Format, classes: Sequence[str] | None = None, seed: int = 0
) -> Imported:
    """Read a published checkpoint; nothing in it is executed.

    classes: of a universal model, in the order of its rows; the published 32 when None. Raises ModelError for a file that
    is no checkpoint or holds more than weights, for keys that are missing or of another shape, and when the number of
    classes differs.
    """
    if kind not in FORMATS:
        raise ModelError(f"expected a format of {', '.join(FORMATS)}, got {kind!r}")
    spelled = _by_name(_weights(path), path)
    tensors = {name: tensor for name, (_, tensor) in spelled.items()}
    base = build_base(_config_of(tensors, path), seed)
    wanted = base.state_dict()
    missing = tuple(sorted(wanted.keys() - tensors.keys()))
    optional = _READERS if kind == "suprem" else ()
    lacking = [name for name in missing if not name.startswith(optional or ("\0",))]
    if kind == "universal-model":
        lacking += [name for name in _HEAD_KEYS if name not in tensors]
    if lacking:
        raise ModelError(
            f"expected the keys of a {kind} checkpoint of {base.config.architecture} in {path}, {len(lacking)} are missing: "
            f"{_listed(lacking)}; pass the format that the file is of"
        )
    _take(base, tensors, path)
    used = wanted.keys() | (set(_HEAD_KEYS) if kind == "universal-model" else set())
    unused = tuple(sorted(spelling for name, (spelling, _) in spelled.items() if name not in used))
    heads = _heads(base, tensors, classes, path) if kind == "universal-model" else {}
    return Imported(Network(base, heads).eval(), unused, missing)


def _weights(path: Path) -> Mapping[str, Tensor]:
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # a damaged or hostile file fails in whatever part of the reader it reaches
        why = " ".join(str(error).split()).partition(". ")[0][:160]
        raise ModelError(
            f"expected a torch checkpoint of plain weights in {path}, got a file that is damaged or holds other objects, "
            f"which ctune never executes ({why}); download it again from where it was published"
        ) from None
    for key in ("net", "state_dict"):
        if isinstance(found, Mapping) and isinstance(found.get(key), Mapping):
            found = found[key]
    if not isinstance(found, Mapping) or not any(isinstance(value, Tensor) for value in found.values()):
        raise ModelError(
            f"expected a dict of weights in {path}, under the key net or by itself, got {type(found).__name__}; "
            "pass the published checkpoint"
        )
    return {str(key): value for key, value in found.items() if isinstance(value, Tensor)}


def _by_name(weights: Mapping[str, Tensor], path: Path) -> dict[str, tuple[str, Tensor]]:
    """{ctune's name: (the file's spelling, tensor)}: `module.` prefixes go, a bare backbone gets its `backbone.`."""
    named: dict[str, tuple[str, Tensor]] = {}
    for spelling, tensor in weights.items():
        name = spelling
        while name.startswith("module."):
            name = name.removeprefix("module.")
        if name.split(".")[0].startswith(("swinViT", "encoder", "decoder", "down_tr", "up_tr", "out")):
            name = f"backbone.{name}"
        if name in named:
            raise ModelError(
                f"expected every weight once in {path}, got {named[name][0]!r} and {spelling!r}; remove one of them"
            )
        named[name] = (spelling, tensor)
    return named


def _config_of(tensors: Mapping[str, Tensor], path: Path) -> BaseConfig:
    """What network it is, from names and shapes."""
    embedding = tensors.get("backbone.swinViT.patch_embed.proj.weight")
    if embedding is not None:
        return BaseConfig(architecture="swin_unetr", feature_size=len(embedding))
    widths: list[int] = []
    while (level := tensors.get(f"backbone.down_tr{64 << len(widths)}.ops.1.conv1.weight")) is not None:
        widths.append(len(level))
    if not widths:
        raise ModelError(
            f"expected a checkpoint with backbone.down_tr64... (U-Net) or backbone.swinViT... (Swin UNETR) in {path}, got "
            f"{_listed(sorted(tensors))}; other networks cannot be imported"
        )
    if tuple(widths) == PUBLISHED_CHANNELS:
        return BaseConfig(architecture="unet")
    return BaseConfig(architecture="unet_small", channels=tuple(widths))


def _take(base: Base, tensors: Mapping[str, Tensor], path: Path) -> None:
    wanted = base.state_dict()
    for name, leaf in wanted.items():
        if name in tensors:
            _check_shape(name, tensors[name], tuple(leaf.shape), path)
    with torch.no_grad():
        for name, leaf in wanted.items():
            if name in tensors:
                leaf.copy_(tensors[name])


def _heads(
    base: Base, tensors: Mapping[str, Tensor], classes: Sequence[str] | None, path: Path
) -> dict[str, TextHead]:
    """theta_k = W_g g + (W_t relu(T w_k + c) + b): linear in the image's part g, so each class has a bias of its own."""
    names = [canonical(name) for name in (UNIVERSAL_CLASSES if classes is None else classes)]
    embedding = tensors["organ_embedding"].double()
    if len(set(names)) != len(names) or embedding.ndim != 2 or len(names) != len(embedding):
        raise ModelError(
            f"expected {len(embedding)} different classes for the rows of organ_embedding {tuple(embedding.shape)} in "
            f"{path}, got {len(set(names))}; pass --classes in the order of the rows"
        )
    numbers, vision = sum(DYNAMIC_SIZES), tensors["text_to_vision.weight"].shape[0]
    _check_shape(
        "text_to_vision.weight", tensors["text_to_vision.weight"], (vision, embedding.shape[1]), path
    )
    _check_shape("text_to_vision.bias", tensors["text_to_vision.bias"], (vision,), path)
    weight = tensors["controller.weight"].flatten(1)
    _check_shape("controller.weight", weight, (numbers, GLOBAL_CHANNELS + vision), path)
    _check_shape("controller.bias", tensors["controller.bias"], (numbers,), path)
    # In double precision, rounded once: the bias is the only thing that is computed rather than copied.
    text = torch.relu(
        embedding @ tensors["text_to_vision.weight"].double().T + tensors["text_to_vision.bias"].double()
    )
    biases = text @ weight[:, GLOBAL_CHANNELS:].double().T + tensors["controller.bias"].double()
    digest = fingerprint(base, modes=False)
    heads = {}
    for name, bias in zip(names, biases, strict=True):
        head = TextHead(name, torch.zeros(0), hidden=0).eval()
        with torch.no_grad():
            head.get_parameter("controller.0.weight").copy_(weight[:, :GLOBAL_CHANNELS])
            head.get_parameter("controller.0.bias").copy_(bias)
        head.base_digest = digest
        heads[name] = head
    return heads


def _check_shape(name: str, tensor: Tensor, expected: tuple[int, ...], path: Path) -> None:
    if tuple(tensor.shape) != expected:
        raise ModelError(
            f"expected {name} to be {expected} in {path}, got {tuple(tensor.shape)}; this network cannot be imported"
        )


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
