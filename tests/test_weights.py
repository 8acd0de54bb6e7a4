"""Weights as bytes: the same weights give the same bytes, loading is by name, errors name the first leaf."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load, save
from torch import Tensor

from ctune.config import BaseConfig
from ctune.errors import ModelError
from ctune.model.base import Base, build_base
from ctune.model.fingerprint import fingerprint
from ctune.model.heads import Head, TextHead, build_head
from ctune.model.network import Network
from ctune.model.weights import base_from_bytes, base_to_bytes, head_from_bytes, head_to_bytes

SMALL = BaseConfig(architecture="unet_small")


@pytest.fixture(scope="module")
def base() -> Base:
    return build_base(SMALL, seed=3)


@pytest.fixture(params=["text", "pyramid"])
def head(request: pytest.FixtureRequest, base: Base) -> Head:
    return build_head("liver", request.param, base, seed=3)


def header(data: bytes) -> dict[str, str]:
    metadata: dict[str, str] = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]
    return metadata


def edited(data: bytes, **changes: Tensor | None) -> bytes:
    """The same file with leaves replaced, added or (None) taken out; __ in a name stands for a dot."""
    tensors = load(data)
    for name, tensor in changes.items():
        leaf = name.replace("__", ".")
        if tensor is None:
            del tensors[leaf]
        else:
            tensors[leaf] = tensor
    return save(tensors, header(data))


def test_a_base_comes_back_whole(base: Base) -> None:
    data = base_to_bytes(base)
    back = base_from_bytes(data, SMALL)
    assert fingerprint(back) == fingerprint(base)
    assert base_to_bytes(back) == data == base_to_bytes(base)
    x = torch.rand(1, 1, 16, 16, 16)
    with torch.inference_mode():
        assert torch.equal(back(x).map, base(x).map)


def test_a_head_comes_back_whole(base: Base, head: Head) -> None:
    head.base_digest = fingerprint(base, modes=False)
    data = head_to_bytes(head)
    back = head_from_bytes(data)
    assert type(back) is type(head)
    assert (back.class_name, back.settings(), back.base_digest) == (
        "liver",
        head.settings(),
        head.base_digest,
    )
    assert fingerprint(back) == fingerprint(head) and not back.training
    assert all(p.device.type == "cpu" and p.requires_grad for p in back.parameters())
    assert head_to_bytes(back) == data
    x = torch.rand(1, 1, 16, 16, 16)
    with torch.inference_mode():
        assert torch.equal(Network(base, {"liver": back})(x), Network(base, {"liver": head})(x))


def test_bytes_do_not_depend_on_mode_device_history_or_order(head: Head) -> None:
    data = head_to_bytes(head)
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.copy_(parameter.clone().flip(0).flip(0))
    assert head_to_bytes(head.train()) == data


def test_the_header_says_what_the_bytes_are(base: Base) -> None:
    head = TextHead("liver", torch.zeros(512), hidden=16)
    assert json.loads(header(head_to_bytes(head))["ctune"]) == {
        "kind": "text",
        "class": "liver",
        "settings": {"text": 512, "hidden": 16},
        "base": None,
    }
    assert json.loads(header(base_to_bytes(base))["ctune"]) == {
        "kind": "base",
        "settings": {"architecture": "unet_small", "channels": [8, 16, 32, 64]},
    }


def test_settings_that_do_not_shape_a_base_do_not_matter(base: Base) -> None:
    unet = build_base(BaseConfig(architecture="unet_small", feature_size=96), seed=3)
    assert base_to_bytes(unet) == base_to_bytes(base)


def test_a_base_of_other_settings_is_refused(base: Base) -> None:
    with pytest.raises(ModelError) as error:
        base_from_bytes(base_to_bytes(base), BaseConfig(architecture="unet_small", channels=(8, 16)))
    assert str(error.value) == (
        "expected a base architecture=unet_small, channels=[8, 16], got weights of one "
        "architecture=unet_small, channels=[8, 16, 32, 64]; set [base] in ctune.toml to match"
    )


def test_the_first_leaf_that_differs_is_named(base: Base) -> None:
    data = base_to_bytes(base)
    leaf = "backbone__down_tr128__ops__0__conv1__bias"
    cases = {
        "expected a leaf 'backbone.down_tr128.ops.0.conv1.bias' float32 (8,), got none": edited(
            data, **{leaf: None}
        ),
        "expected leaf 'backbone.down_tr128.ops.0.conv1.bias' to be float32 (8,), got float32 (9,)": edited(
            data, **{leaf: torch.zeros(9)}
        ),
        "expected leaf 'backbone.down_tr128.ops.0.conv1.bias' to be float32 (8,), got float16 (8,)": edited(
            data, **{leaf: torch.zeros(8).half()}
        ),
        "expected no leaf 'GAP.9.weight', got float32 (2,)": edited(
            data, GAP__9__weight=torch.zeros(2), precls_conv__2__bias=None
        ),
    }
    for text, broken in cases.items():
        with pytest.raises(ModelError) as error:
            base_from_bytes(broken, SMALL)
        assert str(error.value) == f"the base: {text}; take weights of this network"


def test_the_first_leaf_of_a_head_that_differs_is_named(base: Base) -> None:
    data = head_to_bytes(build_head("aorta", "pyramid", base, seed=0))
    with pytest.raises(ModelError) as error:
        head_from_bytes(edited(data, levels__1__conv__weight=torch.zeros(12, 24, 1, 1, 1)))
    assert str(error.value) == (
        "the head of class aorta: expected leaf 'levels.1.conv.weight' to be float32 (12, 24, 3, 3, 3), "
        "got float32 (12, 24, 1, 1, 1); take weights of this network"
    )


def test_a_base_is_no_head_and_a_head_no_base(base: Base, head: Head) -> None:
    with pytest.raises(ModelError, match="expected the weights of a head, got those of kind 'base'"):
        head_from_bytes(base_to_bytes(base))
    with pytest.raises(ModelError, match=f"expected the weights of a base, got those of kind '{head.kind}'"):
        base_from_bytes(head_to_bytes(head), SMALL)


@pytest.mark.parametrize("broken", ["empty", "short", "cut", "pickle", "no header", "nonsense"])
def test_bytes_of_something_else_are_refused(head: Head, broken: str) -> None:
    whole = head_to_bytes(head)
    data = {
        "empty": b"",
        "short": whole[:5],
        "cut": whole[:-1],
        "pickle": b"\x80\x04]\x94.",
        "no header": save({"a": torch.zeros(1)}),
        "nonsense": save({"a": torch.zeros(1)}, {"ctune": "[]"}),
    }[broken]
    with pytest.raises(ModelError, match=r"expected the (safetensors bytes|weights) of a head"):
        head_from_bytes(data)


@pytest.mark.parametrize(
    "settings",
    [{}, {"text": -1, "hidden": 4}, {"text": "many", "hidden": 4}, {"text": 10**12, "hidden": 10**9}, [1]],
)
def test_a_header_is_not_trusted(settings: object) -> None:
    """Absurd sizes are refused before memory is asked for."""
    data = head_to_bytes(TextHead("liver", torch.zeros(4), hidden=4))
    about = json.loads(header(data)["ctune"]) | {"settings": settings}
    with pytest.raises(ModelError, match="head of class liver"):
        head_from_bytes(save(load(data), {"ctune": json.dumps(about)}))
