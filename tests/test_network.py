"""The network: only the heads asked for run, and each class's logits are the same bits in any company."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations

import pytest
import torch

from ctune.classes import NINE_ORGANS
from ctune.config import BaseConfig
from ctune.errors import HeadBaseMismatchError, ModelError, UnknownClassError
from ctune.model.base import Base, build_base
from ctune.model.fingerprint import fingerprint
from ctune.model.heads import build_head
from ctune.model.network import Network

SMALL = BaseConfig(architecture="unet_small")
PYRAMIDS = ("stomach", "aorta", "postcava", "gall_bladder")


def nine(base: Base) -> Network:
    heads = {n: build_head(n, "pyramid" if n in PYRAMIDS else "text", base, seed=0) for n in NINE_ORGANS}
    return Network(base, heads)


@pytest.fixture(scope="module")
def network() -> Network:
    return nine(build_base(SMALL, seed=0))


def patches(count: int, *shape: int) -> torch.Tensor:
    return torch.rand(count, 1, *shape, generator=torch.Generator().manual_seed(3))


@pytest.fixture
def one_thread() -> Iterator[None]:
    """For thousands of tiny calls: on a busy machine threads wait for each other longer than they compute."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("shape", [(1, 16, 8, 8), (2, 24, 16, 8), (3, 8, 16, 8), (1, 32, 32, 32)])
def test_logits_of_a_class_are_the_same_bits_in_any_company(network: Network, shape: tuple[int, ...]) -> None:
    with torch.inference_mode():
        features = network.base(patches(*shape))
        alone = {name: network.logits(features, [name])[:, 0] for name in network.classes}
        for size in range(1, 10):
            # Every subset on the small patch, two of each size on the others.
            subsets = list(combinations(network.classes, size))
            for subset in subsets if shape == (1, 16, 8, 8) else {subsets[0], subsets[-1]}:
                logits = network.logits(features, subset[::-1])
                for channel, name in enumerate(subset[::-1]):
                    assert torch.equal(logits[:, channel], alone[name]), (name, subset)


def test_logits_are_the_same_bits_with_two_threads_and_in_one_call_from_the_patch(network: Network) -> None:
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        with torch.inference_mode():
            x = patches(2, 24, 24, 24)
            every = network(x)
            for channel, name in enumerate(network.classes):
                assert torch.equal(network(x, [name])[:, 0], every[:, channel]), name
    finally:
        torch.set_num_threads(threads)


def test_gradients_of_a_head_are_the_same_bits_in_any_company() -> None:
    network = nine(build_base(SMALL, seed=0))
    with torch.no_grad():
        features = network.base(patches(2, 16, 16, 16))

    def gradients(classes: tuple[str, ...], name: str) -> list[torch.Tensor]:
        network.zero_grad()
        network.logits(features, classes).square().sum().backward()
        return [p.grad.clone() for p in network.head(name).parameters() if p.grad is not None]

    for name in ("liver", "aorta"):
        alone, beside = gradients((name,), name), gradients(network.classes, name)
        assert len(alone) == len(list(network.head(name).parameters()))
        assert all(torch.equal(a, b) for a, b in zip(alone, beside, strict=True))


def test_only_the_heads_asked_for_run(network: Network) -> None:
    ran: list[str] = []
    hooks = [
        network.head(name).register_forward_hook(lambda *_, name=name: ran.append(name))
        for name in network.classes
    ]
    logits = network(patches(1, 16, 16, 16), ["aorta", "liver"])
    assert (ran, logits.shape) == (["aorta", "liver"], (1, 2, 16, 16, 16))
    for hook in hooks:
        hook.remove()


def test_no_class_gives_no_channel(network: Network) -> None:
    assert network(patches(2, 16, 16, 8), []).shape == (2, 0, 16, 16, 8)


def test_classes_come_in_the_order_of_their_heads(network: Network) -> None:
    assert network.classes == NINE_ORGANS
    assert network.class_list.channel("IVC") == 7
    assert network.head("IVC") is network.head("postcava")


def test_an_unknown_class_names_the_nearest(network: Network) -> None:
    with pytest.raises(UnknownClassError, match="got 'livr'; did you mean 'liver'"):
        network(patches(1, 16, 16, 16), ["livr"])


def test_a_new_head_leaves_the_other_logits_alone() -> None:
    network = nine(build_base(SMALL, seed=0))
    x = patches(1, 16, 16, 16)
    with torch.inference_mode():
        before = network(x)
        network.set_head("duodenum", build_head("duodenum", "pyramid", network.base, seed=0))
        network.set_head("liver", build_head("liver", "pyramid", network.base, seed=0))
        after = network(x, NINE_ORGANS)
    assert network.classes == (*NINE_ORGANS, "duodenum")
    moved = [name for k, name in enumerate(NINE_ORGANS) if not torch.equal(before[:, k], after[:, k])]
    assert moved == ["liver"]


def test_a_head_of_another_shape_of_base_is_refused(network: Network) -> None:
    other = build_base(BaseConfig(architecture="unet_small", channels=(4, 8)), seed=0)
    with pytest.raises(HeadBaseMismatchError) as error:
        Network(other, {"aorta": network.head("aorta")})
    assert str(error.value) == (
        "head of class aorta: expected a base with Channels(bottleneck=64, skips=(8, 16, 32), "
        "levels=(32, 16, 8)), got Channels(bottleneck=8, skips=(4,), levels=(4,)); "
        "load the head's own base or tune it anew"
    )


def test_a_head_that_was_tuned_on_another_base_is_refused() -> None:
    mine, other = build_base(SMALL, seed=0), build_base(SMALL, seed=1)
    head = build_head("liver", "text", mine, seed=0)
    head.base_digest = fingerprint(mine, modes=False)
    Network(mine, {"liver": head})
    with pytest.raises(HeadBaseMismatchError) as error:
        Network(other, {"liver": head})
    assert str(error.value) == (
        f"head of class liver: expected the base {head.base_digest[:12]} that it was tuned on, "
        f"got {fingerprint(other, modes=False)[:12]}; load the head's own base or tune it anew"
    )


def test_a_head_is_filed_under_its_own_class(network: Network) -> None:
    with pytest.raises(ModelError, match="expected the head of class spleen, got that of liver"):
        network.set_head("spleen", network.head("liver"))


def test_a_name_that_torch_keeps_for_itself_is_refused(network: Network) -> None:
    with pytest.raises(ModelError, match="expected another name for the class 'type'"):
        network.set_head("type", build_head("type", "pyramid", network.base, seed=0))


def test_pinned_logits() -> None:
    """A controller whose numbers are known, against the formula by hand: 0.5 - 6 relu(map[0])."""
    base = build_base(SMALL, seed=0)
    head = build_head("liver", "text", base, seed=0)
    x = patches(1, 16, 16, 16)
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.zero_()
        last = head.controller[2].bias
        last[0] = 2.0  # first convolution: channel 0 of the map, doubled
        last[64] = 3.0  # second: tripled
        last[128] = -1.0  # third: negated
        last[152] = 0.5  # its bias
        logits = Network(base, {"liver": head})(x)
        expected = 0.5 - 6 * base(x).map[:, :1].relu()
    torch.testing.assert_close(logits, expected)
