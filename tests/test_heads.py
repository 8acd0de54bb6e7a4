"""Heads: the published form, the pyramid's size and its independence of the crop, and fitting a base."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from ctune.config import BaseConfig, HeadConfig
from ctune.errors import ModelError, UnknownClassError
from ctune.model.base import Base, Channels, Features, build_base
from ctune.model.fingerprint import fingerprint
from ctune.model.heads import FrozenNorm, PyramidHead, PyramidLevel, TextHead, build_head


@pytest.fixture(scope="module")
def base() -> Base:
    return build_base(BaseConfig(architecture="unet_small"), seed=0)


@pytest.fixture(scope="module")
def features(base: Base) -> Features:
    with torch.inference_mode():
        features: Features = base(torch.rand(2, 1, 32, 24, 40, generator=torch.Generator().manual_seed(1)))
    return features


def size(head: torch.nn.Module) -> int:
    return sum(p.numel() for p in head.parameters())


def test_text_head_is_the_published_one(features: Features) -> None:
    """Against a grouped convolution over generated weights, as the published code runs it."""
    head = TextHead("liver", torch.randn(512), hidden=512)
    first, _, last = head.controller
    assert (first.in_features, first.out_features, last.out_features) == (256 + 512, 512, 153)
    with torch.inference_mode():
        x = torch.cat((features.global_, head.text.expand(2, -1)), dim=1)
        numbers = last(torch.relu(first(x)))
        assert numbers.shape == (2, 153)
        edges = [0, 64, 128, 136, 144, 152, 153]
        w1, w2, w3, b1, b2, b3 = (numbers[:, a:b] for a, b in pairwise(edges))
        y = features.map.reshape(1, 16, 32, 24, 40)
        y = functional.conv3d(y, w1.reshape(16, 8, 1, 1, 1), b1.flatten(), groups=2).relu()
        y = functional.conv3d(y, w2.reshape(16, 8, 1, 1, 1), b2.flatten(), groups=2).relu()
        y = functional.conv3d(y, w3.reshape(2, 8, 1, 1, 1), b3.flatten(), groups=2)
        torch.testing.assert_close(head(features), y.reshape(2, 1, 32, 24, 40))


def test_width_of_the_controller(base: Base) -> None:
    text = torch.zeros(384)
    assert build_head("liver", "text", base, 0, text=text).settings() == {"text": 384, "hidden": 64}
    wide = build_head("liver", "text", base, 0, HeadConfig(text_hidden=512), text)
    assert size(wide) == (640 + 1) * 512 + (512 + 1) * 153
    linear = build_head("liver", "text", base, 0, HeadConfig(text_hidden=0), torch.zeros(0))
    assert size(linear) == (256 + 1) * 153
    published = Base(BaseConfig(architecture="unet", channels=(8, 16)))
    assert build_head("liver", "text", published, 0, text=text).settings()["hidden"] == 512


def test_text_head_takes_the_vector_of_its_class(base: Base) -> None:
    head = build_head("IVC", "text", base, 0)
    assert head.class_name == "postcava"
    assert head.state_dict()["text"].shape == (384,)
    with pytest.raises(UnknownClassError, match="the nearest that has one is 'liver'"):
        build_head("livre", "text", base, 0)
    assert build_head("livre", "pyramid", base, 0).kind == "pyramid"


def test_pyramid_is_thin() -> None:
    # By hand for the small one: reduce 12 (64 + 64 + 32 + 16) + 48, coarsest 3x3x3 27 * 144 + 12,
    # three others 27 * 288 + 12, norms 4 * 48, logit 13.
    small = Channels(64, (8, 16, 32), (32, 16, 8))
    swin = Channels(768, (48, 48, 96, 192, 384), (384, 192, 96, 48, 48))
    unet = Channels(512, (64, 128, 256), (256, 128, 64))
    assert [size(PyramidHead("liver", c, 12)) for c in (small, unet, swin)] == [29_629, 44_413, 70_861]


def interior(
    head: PyramidHead, features: Features, start: int, stop: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits in the middle of a crop along Z, from the crop and from the whole."""
    part = (slice(None), slice(None), slice(start, stop))
    with torch.inference_mode():
        crop, whole = head(features.crop(part)), head(features)[..., start:stop]
    # 3x3x3 at strides 8, 4, 2 and 1 sees 15 voxels, and nearest upsampling up to 7 more.
    return crop[..., 22:-22], whole[..., 22:-22]


def test_pyramid_gives_a_crop_what_it_gives_the_whole(base: Base) -> None:
    with torch.inference_mode():
        features = base(torch.rand(1, 1, 16, 16, 80, generator=torch.Generator().manual_seed(2)))
    head = build_head("liver", "pyramid", base, 0)
    assert isinstance(head, PyramidHead)
    with torch.no_grad():
        head.train()(features)
    head.eval()
    crop, whole = interior(head, features, 8, 72)
    assert crop.shape[-1] == 20
    torch.testing.assert_close(crop, whole, atol=1e-5, rtol=1e-5)

    class InstanceNorm(FrozenNorm):
        def see(self, x: Callable[[], torch.Tensor]) -> None:
            self._take(x())

    head.bottom.norm_out = InstanceNorm(head.width)  # the norm that was not chosen, and why
    crop, whole = interior(head, features, 8, 72)
    assert (crop - whole).abs().max() > 1e-3


def test_statistics_are_taken_from_the_first_training_batch_and_never_again() -> None:
    first, second = (torch.randn(2, 3, 4, 4, 4, generator=torch.Generator().manual_seed(s)) for s in (0, 1))
    first = first * torch.tensor([1.0, 5.0, 0.1]).view(1, 3, 1, 1, 1) + 7
    norm = FrozenNorm(3).eval()
    assert torch.equal(norm(first), first), "running a head that was never trained takes nothing"
    y = norm.train()(first)
    torch.testing.assert_close(y.mean(dim=(0, 2, 3, 4)), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(y.var(dim=(0, 2, 3, 4), correction=0), torch.ones(3), atol=1e-2, rtol=0)
    mark = fingerprint(norm)
    norm(second)
    assert fingerprint(norm) == mark
    assert torch.equal(norm(first), y) and torch.equal(norm.eval()(first), y)


def test_a_level_is_its_layers_one_after_the_other() -> None:
    random = torch.Generator().manual_seed(0)
    level = PyramidLevel(5, 4, coarsest=False).train()
    maps = (torch.randn(2, 2, 6, 8, 4, generator=random), torch.randn(2, 3, 6, 8, 4, generator=random))
    coarser = torch.randn(2, 4, 3, 4, 2, generator=random)
    taken = level(maps, coarser)  # the first batch, from which the norms take their statistics
    with torch.no_grad():
        for norm in (level.norm_in, level.norm_out):
            norm.weight.uniform_(0.5, 2, generator=random)
            norm.bias.uniform_(-1, 1, generator=random)

    def layers() -> torch.Tensor:
        x = level.norm_in(level.reduce(torch.cat(maps, dim=1)))
        up = functional.interpolate(coarser, scale_factor=2.0, mode="nearest")
        return torch.relu(level.norm_out(level.conv(torch.cat((x, up), dim=1))))

    def gradients(y: torch.Tensor) -> list[torch.Tensor]:
        return list(torch.autograd.grad((y * torch.linspace(-1, 1, 4)).sum(), list(level.parameters())))

    assert taken.shape == layers().shape == (2, 4, 6, 8, 4)
    torch.testing.assert_close(level(maps, coarser), layers(), atol=1e-5, rtol=1e-5)
    for mine, theirs in zip(gradients(level(maps, coarser)), gradients(layers()), strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize("kind", ["text", "pyramid"])
def test_a_head_looks_at_one_sample_at_a_time(base: Base, features: Features, kind: str) -> None:
    head = build_head("liver", kind, base, 0)  # type: ignore[arg-type]
    louder = features.apply(lambda t: torch.cat((t[:1], 50 * t[1:])))
    with torch.inference_mode():
        torch.testing.assert_close(head(features)[:1], head(louder)[:1])


@pytest.mark.parametrize("kind", ["text", "pyramid"])
def test_half_precision_features_from_the_cache(base: Base, features: Features, kind: str) -> None:
    head = build_head("liver", kind, base, 0)  # type: ignore[arg-type]
    with torch.inference_mode():
        exact, rounded = head(features), head(features.apply(lambda t: t.half()))
    assert rounded.dtype == torch.float32
    torch.testing.assert_close(rounded, exact, atol=2e-2, rtol=0)


@pytest.mark.parametrize("kind", ["text", "pyramid"])
def test_weights_depend_on_seed_class_and_kind_alone(base: Base, kind: str) -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = build_head("liver", kind, base, 0)  # type: ignore[arg-type]
    build_head("spleen", kind, base, 0)  # type: ignore[arg-type]
    again = build_head("liver", kind, base, 0)  # type: ignore[arg-type]
    assert torch.equal(torch.get_rng_state(), before)
    assert fingerprint(first) == fingerprint(again)
    assert fingerprint(first) != fingerprint(build_head("liver", kind, base, 1))  # type: ignore[arg-type]
    leaf = next(iter(dict(first.named_parameters())))
    other = build_head("spleen", kind, base, 0)  # type: ignore[arg-type]
    assert not torch.equal(first.get_parameter(leaf), other.get_parameter(leaf))


def test_an_unknown_kind_is_refused(base: Base) -> None:
    with pytest.raises(
        ModelError, match="expected a head of kind text or pyramid for class liver, got 'unet'"
    ):
        build_head("liver", "unet", base, 0)  # type: ignore[arg-type]


def test_a_class_costs_a_twentieth_of_the_base_at_most() -> None:
    # On tensors without data: counted operations, the same on every machine.
    base = build_base(BaseConfig(architecture="swin_unetr", feature_size=48), seed=0)
    head = build_head("aorta", "pyramid", base, seed=0).to("meta")
    base.to("meta")
    with torch.no_grad():
        with FlopCounterMode(display=False) as of_base:
            features = base(torch.zeros(1, 1, 96, 96, 96, device="meta"))
        with FlopCounterMode(display=False) as of_head:
            head(features)
    assert of_head.get_total_flops() < 0.05 * of_base.get_total_flops()
    assert sum(p.numel() for p in head.parameters()) < 100_000
