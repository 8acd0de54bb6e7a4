"""Heads of earlier rounds over one pass of the base: the right deviation, at the price of the heads."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from small_network import GRID, config, network, volume

from ctune.compositions import Tuned, load_model, register_model
from ctune.errors import HeadBaseMismatchError
from ctune.inference.runtime import TorchRuntime
from ctune.model.heads import build_head
from ctune.model.network import Network
from ctune.predict import predict_case
from ctune.round.earlier import earlier_networks
from ctune.types import Case
from registry import Registry

CASE = Case("case_0", volume(0)[0], GRID)


def with_other_heads(now: Network, seed: int, names: tuple[str, ...] = ("liver", "spleen")) -> Network:
    return Network(now.base, {name: build_head(name, "text", now.base, seed) for name in names}).eval()


def test_inconsistency_is_the_deviation_over_the_rounds_heads() -> None:
    now = network()
    past = [with_other_heads(now, 1), with_other_heads(now, 2)]
    found = predict_case(now, CASE, config(), model="m", earlier=past)
    alone = [predict_case(one, CASE, config(), model="m").probabilities for one in (now, *past)]
    assert np.array_equal(found.probabilities, alone[0]), "the prediction is the newest heads' own"
    assert found.inconsistency is not None
    assert (
        np.allclose(found.inconsistency, np.std(alone, axis=0), atol=1e-5)
        and found.inconsistency.max() > 0.01
    )


def test_with_flips_every_view_and_every_round_is_a_member() -> None:
    now = network()
    past = with_other_heads(now, 1)
    both = predict_case(now, CASE, config(), model="m", views=("y",), earlier=[past])
    same = predict_case(now, CASE, config(), model="m", views=("y",), earlier=[with_other_heads(now, 0)])
    flipped = predict_case(now, CASE, config(), model="m", views=("y",))
    # Earlier heads that are equal to the newest change nothing: each member is there twice.
    assert same.inconsistency is not None and np.allclose(
        same.inconsistency, flipped.inconsistency, atol=1e-6
    )
    assert both.inconsistency is not None and not np.allclose(
        both.inconsistency, flipped.inconsistency, atol=1e-3
    )


def test_the_base_runs_once_a_window_however_many_rounds() -> None:
    now, windows = network(), torch.rand(1, 1, 16, 16, 16)
    runtime = TorchRuntime(
        now, None, config().inference, [with_other_heads(now, 1), with_other_heads(now, 2)]
    )
    passes = []
    runtime._base.register_forward_hook(lambda *_: passes.append(1))
    assert len(list(runtime.logits(windows))) == 6 and len(passes) == 1


def test_a_class_that_is_new_agrees_with_itself_and_another_base_is_refused() -> None:
    now = network()
    found = predict_case(now, CASE, config(), model="m", earlier=[with_other_heads(now, 1, ("liver",))])
    assert found.inconsistency is not None
    assert found.inconsistency[0].max() > 0 and found.inconsistency[1].max() == 0
    with pytest.raises(HeadBaseMismatchError, match="take rounds that tuned heads alone"):
        TorchRuntime(now, None, config().inference, [network(seed=3)])


def test_earlier_models_are_found_along_the_parents(tmp_path: Path) -> None:
    registry, cpu = Registry.open(tmp_path / "registry"), torch.device("cpu")
    now = network()
    digests = [register_model(registry, "organs", now, config(), {})]
    for seed in (1, 2):
        parent = load_model(registry, f"sha256:{digests[-1]}", cpu)
        newer = with_other_heads(parent.network, seed)
        tuned = {name: Tuned((), {}, seed, seed) for name in newer.classes}
        digests.append(register_model(registry, "organs", newer, config(), tuned, parent=parent))
    model = load_model(registry, f"sha256:{digests[-1]}", cpu)
    found = earlier_networks(registry, model.digest, model.network, 5)
    assert len(found) == 2 and all(one.base is model.network.base for one in found)
    assert len(earlier_networks(registry, model.digest, model.network, 1)) == 1
    oldest = load_model(registry, f"sha256:{digests[0]}", cpu).network
    features = model.network.base(torch.rand(1, 1, 16, 16, 16))
    assert torch.equal(found[1].head("liver")(features), oldest.head("liver")(features))
