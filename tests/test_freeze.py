"""Freezing: parameters, buffers and modes by name; the fingerprint sees each of them move."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ctune.config import BaseConfig
from ctune.errors import ModelError, UnknownClassError
from ctune.losses import masked_dice_bce
from ctune.model.base import build_base
from ctune.model.freeze import fingerprint, tune_only
from ctune.model.heads import build_head
from ctune.model.network import Network

CLASSES = ("liver", "spleen", "aorta")


@pytest.fixture
def network() -> Network:
    base = build_base(BaseConfig(architecture="unet_small"), seed=0)
    kinds = {"liver": "text", "spleen": "text", "aorta": "pyramid"}
    return Network(base, {n: build_head(n, k, base, seed=0) for n, k in kinds.items()})  # type: ignore[arg-type]


def step(network: Network, classes: tuple[str, ...]) -> None:
    """One step of training with weight decay on everything that is trainable."""
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(2, 1, 16, 16, 16, generator=generator)
    target = torch.randint(0, 2, (2, len(classes), 16, 16, 16), generator=generator, dtype=torch.uint8)
    trainable = [p for p in network.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(trainable, lr=1e-2, weight_decay=0.1)
    masked_dice_bce(network(x, classes), target).backward()
    optimiser.step()


def with_batch_norm(network: Network) -> nn.BatchNorm3d:
    """A frozen layer with buffers that training mode would move, and that no base of ours has."""
    norm = nn.BatchNorm3d(4).eval()
    network.base.set_submodule("backbone.down_tr64.ops.0.bn1", norm)
    return norm


def test_heads_alone_move(network: Network) -> None:
    norm = with_batch_norm(network)
    x = torch.rand(1, 1, 16, 16, 16)
    with torch.no_grad():
        logits = network(x)
    before = {
        name: fingerprint(network.get_submodule(name)) for name in ("base", "heads.liver", "heads.spleen")
    }
    weights = fingerprint(network.head("aorta"), modes=False)

    names = tune_only(network, ["aorta"], "heads")
    assert names and all(name.startswith("heads.aorta.") for name in names)
    step(network, ("aorta", "liver"))

    assert before == {name: fingerprint(network.get_submodule(name)) for name in before}
    assert int(norm.num_batches_tracked) == 0
    assert fingerprint(network.head("aorta"), modes=False) != weights
    with torch.no_grad():
        after = network.eval()(x)
    assert torch.equal(after[:, :2], logits[:, :2])
    assert not torch.equal(after[:, 2], logits[:, 2])


def test_frozen_parts_stay_in_evaluation_mode(network: Network) -> None:
    norm = with_batch_norm(network)
    tune_only(network, ["aorta", "liver"])
    for _ in range(2):
        network.train()
        assert (
            network.training and network.head("aorta").training and network.head("liver").controller.training
        )
        assert not any(m.training for m in (*network.base.modules(), *network.head("spleen").modules()))
        network(torch.rand(2, 1, 16, 16, 16))
        network.eval()
    assert int(norm.num_batches_tracked) == 0


def test_heads_and_decoder(network: Network) -> None:
    names = tune_only(network, ["aorta"], "heads+decoder")
    parts = {
        ".".join(name.split(".")[:3]) if name.startswith("base.backbone") else name.rsplit(".", 2)[0]
        for name in names
    }
    assert {p for p in parts if p.startswith("base")} == {
        "base.backbone.up_tr256",
        "base.backbone.up_tr128",
        "base.backbone.up_tr64",
        "base.precls_conv",
    }
    assert not any(name.startswith(("heads.liver", "heads.spleen", "base.GAP")) for name in names)
    assert network.base.backbone.up_tr64.training
    assert not network.base.backbone.down_tr64.training and not network.base.GAP.training
    encoder = fingerprint(network.base.backbone.down_tr512)
    decoder = fingerprint(network.base.backbone.up_tr64)
    step(network, ("aorta",))
    assert fingerprint(network.base.backbone.down_tr512) == encoder
    assert fingerprint(network.base.backbone.up_tr64) != decoder


def test_all(network: Network) -> None:
    names = tune_only(network, ["aorta"], "all")
    assert names == tuple(name for name, _ in network.named_parameters())
    assert all(module.training for module in network.modules())


def test_thawing_and_freezing_again(network: Network) -> None:
    tune_only(network, ["aorta"], "all")
    step(network, CLASSES)
    names = tune_only(network, ["liver"])
    assert {name for name, p in network.named_parameters() if p.requires_grad} == set(names)
    assert all(p.grad is None for p in network.parameters())
    assert not network.head("aorta").training


def test_a_swin_unetr_decoder_has_the_names_that_freezing_uses() -> None:
    base = build_base(BaseConfig(architecture="swin_unetr", feature_size=12), seed=0)
    network = Network(base, {"liver": build_head("liver", "text", base, seed=0)})
    names = tune_only(network, ["liver"], "heads+decoder")
    parts = {name.split(".")[2] for name in names if name.startswith("base.backbone")}
    assert parts == {"decoder1", "decoder2", "decoder3", "decoder4", "decoder5"}


def test_a_missing_class_is_refused(network: Network) -> None:
    with pytest.raises(UnknownClassError) as error:
        tune_only(network, ["aorta", "livr"])
    assert (
        str(error.value)
        == "expected one of the classes liver, spleen, aorta; got 'livr'; did you mean 'liver'?"
    )
    with pytest.raises(ModelError, match="expected at least one class to tune, got none"):
        tune_only(network, [])
    with pytest.raises(
        ModelError, match=r"expected trainable to be heads, heads\+decoder or all; got 'decoder'"
    ):
        tune_only(network, ["aorta"], "decoder")  # type: ignore[arg-type]


class Part(nn.Module):
    def __init__(
        self, value: float = 1.0, dtype: torch.dtype = torch.float32, shape: tuple[int, ...] = (2,)
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(shape, dtype=dtype))
        self.register_buffer("seen", torch.tensor(value))
        self.register_buffer("scratch", torch.tensor(value), persistent=False)
        self.inner = nn.Identity()


def test_the_fingerprint_sees_every_kind_of_change() -> None:
    mark = fingerprint(Part())
    assert mark == fingerprint(Part()) and len(mark) == 64

    def changed(change: str) -> nn.Module:
        part = Part()
        if change == "parameter":
            with torch.no_grad():
                part.weight[1] = torch.nextafter(part.weight[1], torch.tensor(2.0))
        if change == "sign of zero":
            part.seen.mul_(-0.0)
        if change == "buffer":
            part.seen += 1
        if change == "buffer that is not saved":
            part.scratch += 1
        if change == "mode":
            part.inner.eval()
        if change == "name":
            part.register_buffer("other", part.seen)
            del part.seen
        if change == "shape":
            return Part(shape=(2, 1))
        if change == "dtype":
            return Part(dtype=torch.float64)
        return part

    changes = (
        "parameter",
        "buffer",
        "buffer that is not saved",
        "mode",
        "name",
        "shape",
        "dtype",
        "sign of zero",
    )
    marks = {change: fingerprint(changed(change)) for change in changes}
    assert len({mark, *marks.values()}) == len(changes) + 1
    assert fingerprint(changed("mode"), modes=False) == fingerprint(Part(), modes=False)
    assert fingerprint(Part()) == mark, "requires_grad does not count"
