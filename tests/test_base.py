"""The base: published shapes and names, every level handed out, and no layer that looks at batch mates."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import nn

import ctune.model.base
from ctune.config import BaseConfig
from ctune.errors import ModelError
from ctune.model.base import Base, Features, assert_no_batch_coupling, build_base
from ctune.model.fingerprint import fingerprint
from ctune.model.unet import UNetBackbone

SMALL = BaseConfig(architecture="unet_small")


def parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def patches(count: int, *shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(count, 1, *shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def base() -> Base:
    return build_base(SMALL, seed=0)


def test_unet_has_the_published_size_and_names() -> None:
    base = build_base(BaseConfig(architecture="unet"), seed=0)
    # Published: 19.08 M with the running mean and variance of its batch norms, two numbers a normed channel.
    normed = sum(m.num_features for m in base.modules() if isinstance(m, nn.InstanceNorm3d))
    assert round((parameters(base.backbone) + 2 * normed) / 1e6, 2) == 19.08
    names = set(base.state_dict())
    for level in ("down_tr64", "down_tr128", "down_tr256", "down_tr512", "up_tr256", "up_tr128", "up_tr64"):
        for leaf in ("ops.0.conv1.weight", "ops.0.bn1.bias", "ops.1.conv1.bias", "ops.1.bn1.weight"):
            assert f"backbone.{level}.{leaf}" in names
    assert "backbone.up_tr256.up_conv.weight" in names
    assert not any("running" in name for name in names)
    assert base.precls_conv[0].num_groups == base.GAP[0].num_groups == 16


def test_swin_unetr_has_the_published_size_and_runs_on_the_smallest_patch() -> None:
    base = build_base(BaseConfig(architecture="swin_unetr", feature_size=48), seed=0)
    assert round(parameters(base.backbone) / 1e6, 2) == 62.19
    assert {"precls_conv.0.weight", "precls_conv.2.weight", "GAP.0.weight", "GAP.3.weight"} <= set(
        base.state_dict()
    )
    assert base.precls_conv[2].weight.shape == (8, 48, 1, 1, 1)
    assert base.GAP[3].weight.shape == (256, 768, 1, 1, 1)
    with torch.inference_mode():
        features = base(patches(1, 64, 32, 32))
    assert features.bottleneck.shape == (1, 768, 2, 1, 1)
    assert [t.shape[1] for t in features.skips] == list(base.channels.skips) == [48, 48, 96, 192, 384]
    assert [t.shape[1] for t in features.levels] == list(base.channels.levels) == [384, 192, 96, 48, 48]
    assert [t.shape[2] for t in features.skips] == [64, 32, 16, 8, 4]
    assert [t.shape[2] for t in features.levels] == [4, 8, 16, 32, 64]


def test_every_level_comes_out_at_its_stride(base: Base) -> None:
    features = base(patches(2, 16, 24, 32))
    shapes = {name: tuple(t.shape) for name, t in features.tensors().items()}
    assert shapes == {
        "bottleneck": (2, 64, 2, 3, 4),
        "skip0": (2, 8, 16, 24, 32),
        "skip1": (2, 16, 8, 12, 16),
        "skip2": (2, 32, 4, 6, 8),
        "level0": (2, 32, 4, 6, 8),
        "level1": (2, 16, 8, 12, 16),
        "level2": (2, 8, 16, 24, 32),
        "map": (2, 8, 16, 24, 32),
        "global": (2, 256),
    }
    assert (features.shape, features.stride, base.stride) == ((16, 24, 32), 8, 8)


def test_instance_norm_is_the_published_batch_norm_for_one_patch(base: Base) -> None:
    published = build_base(SMALL, seed=0)
    for name, module in list(published.named_modules()):
        if isinstance(module, nn.InstanceNorm3d):
            norm = nn.BatchNorm3d(module.num_features, track_running_stats=False)
            norm.load_state_dict(module.state_dict())
            published.set_submodule(name, norm)
    x = patches(1, 16, 16, 16)
    with torch.inference_mode():
        torch.testing.assert_close(published(x).map, base(x).map)


@pytest.mark.parametrize("training", [False, True])
def test_a_patch_gives_the_same_alone_and_beside_others(base: Base, training: bool) -> None:
    network = build_base(SMALL, seed=0).train(training)
    x = patches(3, 16, 16, 16)
    x[1:] *= 50  # mates that would move any statistic taken over the batch
    with torch.no_grad():
        alone, beside = network(x[:1]), network(x)
    for name, tensor in alone.tensors().items():
        torch.testing.assert_close(tensor, beside.tensors()[name][:1], msg=name)


@pytest.mark.parametrize(
    "norm",
    [
        nn.BatchNorm3d(4),
        nn.BatchNorm3d(4, track_running_stats=False),
        nn.SyncBatchNorm(4),
        nn.InstanceNorm3d(4, track_running_stats=True),
    ],
)
def test_a_layer_that_looks_at_batch_mates_is_found(norm: nn.Module) -> None:
    network = build_base(SMALL, seed=0)
    network.set_submodule("backbone.down_tr64.ops.0.bn1", norm)
    with pytest.raises(ModelError) as error:
        assert_no_batch_coupling(network)
    assert str(error.value) == (
        "expected a base whose layers look at one sample at a time, got "
        f"{type(norm).__name__} at 'backbone.down_tr64.ops.0.bn1'; "
        "use InstanceNorm3d(affine=True) or GroupNorm there"
    )


def test_no_base_is_built_with_such_a_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    class Coupled(UNetBackbone):
        def __init__(self, channels: Sequence[int]) -> None:
            super().__init__(channels)
            self.set_submodule("up_tr64.ops.1.bn1", nn.BatchNorm3d(8))

    monkeypatch.setattr(ctune.model.base, "UNetBackbone", Coupled)
    with pytest.raises(ModelError, match=r"got BatchNorm3d at 'backbone\.up_tr64\.ops\.1\.bn1'"):
        build_base(SMALL, seed=0)


def test_same_seed_same_weights_and_the_global_random_state_stays() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first, second, other = (build_base(SMALL, seed=s) for s in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert fingerprint(first) == fingerprint(second) != fingerprint(other)
    assert not first.training


@pytest.mark.parametrize("shape", [(1, 1, 16, 16, 12), (1, 1, 8, 8, 8), (1, 2, 16, 16, 16), (16, 16, 16)])
def test_a_patch_that_does_not_fit_is_refused(base: Base, shape: tuple[int, ...]) -> None:
    with pytest.raises(ModelError) as error:
        base(torch.zeros(shape))
    assert str(error.value) == (
        "expected patches (N, 1, X, Y, Z) with sides in multiples of 8, one of them 16 or more, "
        f"for unet_small; got {shape}; pad the patch or change patch_size"
    )


@pytest.mark.parametrize("channels", [(8,), (8, 15), (8, 0)])
def test_channels_that_make_no_network_are_refused(channels: tuple[int, ...]) -> None:
    with pytest.raises(
        ModelError, match=r"expected two or more even numbers as channels of unet_small, got \("
    ):
        build_base(BaseConfig(architecture="unet_small", channels=channels), seed=0)


def test_any_depth_and_width() -> None:
    base = build_base(BaseConfig(architecture="unet_small", channels=(6, 10)), seed=0)
    assert base(patches(1, 6, 4, 2)).map.shape == (1, 8, 6, 4, 2)


def test_a_crop_cuts_every_level_at_the_same_place() -> None:
    ramp = torch.arange(32.0).view(1, 1, 32, 1, 1).expand(1, 1, 32, 16, 16)

    def at(step: int) -> torch.Tensor:
        return ramp[:, :, ::step, ::step, ::step]

    whole = Features(at(4), (at(1), at(2)), (at(2), at(1)), at(1), torch.zeros(1, 256))
    part = whole.crop((slice(8, 16), slice(None), slice(4, 16)))
    assert part.shape == (8, 16, 12)
    for name, tensor in part.tensors().items():
        if name != "global":
            step = 32 // whole.tensors()[name].shape[2]
            assert tensor[0, 0, :, 0, 0].tolist() == list(range(8, 16, step)), name
            assert tensor.shape[2:] == (8 // step, 16 // step, 12 // step)
    assert part.global_ is whole.global_


@pytest.mark.parametrize(
    ("part", "text"),
    [
        (slice(2, 16), "within 0..16, from and to multiples of 8, got 2..16"),
        (slice(8, 12), "got 8..12"),
        (slice(8, 24), "got 8..24"),
        (slice(8, 8), "got 8..8"),
    ],
)
def test_a_crop_off_the_stride_is_refused(base: Base, part: slice, text: str) -> None:
    features = base(patches(1, 16, 16, 16))
    with pytest.raises(ModelError, match=text) as error:
        features.crop((slice(None), part, slice(None)))
    assert "crop of features along Y" in str(error.value)


def test_features_survive_the_way_through_names(base: Base) -> None:
    features = base(patches(1, 16, 16, 16))
    back = Features.of(features.tensors())
    assert all(torch.equal(t, features.tensors()[n]) for n, t in back.tensors().items())
    assert features.apply(lambda t: t.half()).levels[0].dtype == torch.float16
