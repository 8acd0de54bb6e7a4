"""Zero forgetting: what was not revised stays, bit for bit; and heads are tuned alone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from small_network import SIDE, config, network, prepared

from ctune.continual import add_missing_heads
from ctune.errors import FrozenChangedError, ModelError
from ctune.model.features import FeatureCache
from ctune.model.freeze import fingerprint
from ctune.model.network import Network
from ctune.model.weights import head_to_bytes
from ctune.tune import TuneResult, prove_unmoved, snapshot, tune_heads
from ctune.watch import Validation, cached_features

CPU = torch.device("cpu")
PROBES = torch.rand((2, 1, SIDE, SIDE, SIDE), generator=torch.Generator().manual_seed(0))


def tune(
    net: Network,
    classes: tuple[str, ...],
    cache: Path,
    seed: int = 0,
    validation: Validation | None = None,
    **changes: object,
) -> TuneResult:
    settings = config()
    cases = [prepared(i, ("liver", "spleen", "aorta")) for i in range(2)]
    return tune_heads(
        net, classes, cases, settings.tune.model_copy(update=changes), window=(SIDE, SIDE, SIDE), overlap=0.25, seed=seed,
        device=CPU, cache=cache, validation=validation,
    )  # fmt: skip


@pytest.mark.parametrize("kind", ["text", "pyramid"])
def test_nothing_but_the_tuned_head_moves(tmp_path: Path, kind: str) -> None:
    net = network()
    add_missing_heads(net, ["aorta"], config(heads={"new_kind": kind, "pyramid_width": 4}), seed=1)
    before = snapshot(net, ["liver", "spleen"], PROBES)
    liver, aorta = head_to_bytes(net.head("liver")), head_to_bytes(net.head("aorta"))
    result = tune(net, ("aorta",), tmp_path)
    proof = prove_unmoved(before, snapshot(net, ["liver", "spleen"], PROBES))
    assert proof.max_abs_change == {"liver": 0.0, "spleen": 0.0} and proof.voxels == 2 * 2 * SIDE**3
    assert head_to_bytes(net.head("liver")) == liver
    assert head_to_bytes(net.head("aorta")) != aorta
    assert result.losses["aorta"][-1] < result.losses["aorta"][0]


def test_a_weight_of_the_base_that_moves_is_noticed() -> None:
    net = network()
    before = snapshot(net, ["liver"], PROBES)
    with torch.no_grad():
        next(net.base.parameters()).view(-1)[0] += 1e-7
    with pytest.raises(FrozenChangedError, match="expected the base to stay"):
        prove_unmoved(before, snapshot(net, ["liver"], PROBES))


def test_one_bit_of_a_logit_that_moves_is_noticed() -> None:
    net = network()
    before = snapshot(net, ["liver"], PROBES)
    after = snapshot(net, ["liver"], PROBES)
    after.logits["liver"].view(torch.int32).view(-1)[7] ^= 1
    with pytest.raises(
        FrozenChangedError, match="the logits of liver, which was not revised, to stay equal bit for bit"
    ):
        prove_unmoved(before, after)


def test_a_zero_that_changes_its_sign_is_noticed() -> None:
    net = network()
    before, after = snapshot(net, ["liver"], PROBES), snapshot(net, ["liver"], PROBES)
    before.logits["liver"].zero_()
    after.logits["liver"].zero_().neg_()
    with pytest.raises(FrozenChangedError, match="moved by up to 0"):
        prove_unmoved(before, after)


def test_heads_are_tuned_alone_or_together_with_the_same_result(tmp_path: Path) -> None:
    alone, together = network(), network()
    tune(alone, ("spleen",), tmp_path)
    tune(together, ("liver", "spleen"), tmp_path)
    assert head_to_bytes(alone.head("spleen")) == head_to_bytes(together.head("spleen"))


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(tmp_path: Path) -> None:
    heads = []
    for seed, folder in ((3, "a"), (3, "b"), (4, "c")):
        net = network()
        tune(net, ("liver",), tmp_path / folder, seed=seed)
        heads.append(head_to_bytes(net.head("liver")))
    assert heads[0] == heads[1] != heads[2]


def test_a_class_that_no_case_annotates_is_refused(tmp_path: Path) -> None:
    net = network(("liver", "spleen", "stomach"))
    with pytest.raises(
        ModelError, match="at least one case with an annotation of stomach, got none; revise one first"
    ):
        tune(net, ("stomach",), tmp_path)


def test_a_sub_patch_that_does_not_fit_the_base_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"expected tune.patch_size in multiples of \(2, 2, 2\)"):
        tune(network(), ("liver",), tmp_path, patch_size=(7, 8, 8))


# Validation -----------------------------------------------------------------------------------------------------------


def watched(net: Network, cache: Path) -> Validation:
    features = cached_features(
        FeatureCache(cache, net.base, fingerprint(net.base, modes=False), CPU), (SIDE,) * 3
    )
    return Validation([prepared(9, ("liver", "spleen"))], features, config().inference, CPU)


@pytest.mark.parametrize("threads", [1, 2])
def test_watched_heads_are_tuned_alone_or_together_with_the_same_result(tmp_path: Path, threads: int) -> None:
    alone, together = network(), network()
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        for net, classes in ((alone, ("spleen",)), (together, ("liver", "spleen"))):
            result = tune(
                net, classes, tmp_path, validation=watched(net, tmp_path), epochs=6, validate_every=1
            )
    finally:
        torch.set_num_threads(before)
    assert head_to_bytes(alone.head("spleen")) == head_to_bytes(together.head("spleen"))
    assert set(result.kept) == {"liver", "spleen"}


def test_the_head_that_stays_is_the_one_that_the_best_look_saw(tmp_path: Path) -> None:
    net = network()
    looked = watched(net, tmp_path)
    result = tune(net, ("liver",), tmp_path, validation=looked, epochs=8, validate_every=1, patience=0)
    best = max(look.score for look in result.looks["liver"])
    assert len(result.looks["liver"]) == 8 and result.kept["liver"].score == best
    assert looked.dice(net, ("liver",))["liver"].mean == best


def test_what_no_validation_case_annotates_ends_with_its_last_weights(tmp_path: Path) -> None:
    nets = [network(), network()]
    for net, looked in zip(nets, (None, watched(nets[1], tmp_path)), strict=True):
        add_missing_heads(net, ["aorta"], config(), seed=1)
        result = tune(net, ("aorta",), tmp_path, validation=looked)
        assert result.kept == {} and result.looks == {}
    assert head_to_bytes(nets[0].head("aorta")) == head_to_bytes(nets[1].head("aorta"))


# The feature cache ----------------------------------------------------------------------------------------------------


def test_the_base_makes_no_second_pass(tmp_path: Path) -> None:
    net, passes = network(), []
    net.base.register_forward_hook(lambda *_: passes.append(1))
    tune(net, ("liver",), tmp_path)
    first = len(passes)
    tune(net, ("liver", "spleen"), tmp_path)
    assert first == 2 and len(passes) == 2
