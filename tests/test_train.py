"""Full training: it learns, masks what nobody labelled, and goes on exactly where it was."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from small_network import SIDE, config, network, prepared, project

from ctune import optimise
from ctune.data.prepared import PreparedCase
from ctune.errors import ModelError
from ctune.foundation import train_model
from ctune.model.freeze import fingerprint
from ctune.model.heads import Kind, build_head
from ctune.model.network import Network
from ctune.optimise import PatchBatches, learning_rate_factor, resolve_device, target_of
from ctune.train import start_at_priors, train
from ctune.types import UNLABELLED, Progress

CPU = torch.device("cpu")
CASES = [prepared(i, ("liver", "spleen")) for i in range(3)]


def settings(**changes: object):
    return config().train.model_copy(update=changes)


def test_the_loss_falls() -> None:
    result = train(network(), CASES, settings(epochs=12), seed=0, device=CPU)
    assert len(result.losses) == 12 and result.steps == 36
    assert result.losses[-1] < 0.85 * result.losses[0]


def test_the_same_seed_gives_the_same_weights() -> None:
    prints = []
    for seed in (0, 0, 1):
        net = network()
        train(net, CASES, settings(), seed=seed, device=CPU)
        prints.append(fingerprint(net))
    assert prints[0] == prints[1] != prints[2]


class Killed(Exception):
    pass


def test_a_killed_training_ends_with_the_same_weights(tmp_path: Path) -> None:
    whole, resumed = network(), network()
    train(whole, CASES, settings(epochs=4), seed=0, device=CPU)

    def kill(step: Progress) -> None:
        if step.done == 3:
            raise Killed

    checkpoint = tmp_path / "at.safetensors"
    with pytest.raises(Killed):
        train(
            network(), CASES, settings(epochs=4), seed=0, device=CPU, checkpoint=checkpoint, on_progress=kill
        )
    seen: list[int] = []
    result = train(
        resumed,
        CASES,
        settings(epochs=4),
        seed=0,
        device=CPU,
        checkpoint=checkpoint,
        on_progress=lambda s: seen.append(s.done),
    )
    assert seen == [3, 4] and len(result.losses) == 4
    assert fingerprint(resumed) == fingerprint(whole)


@pytest.mark.parametrize("damage", ["cut", "other settings"])
def test_a_checkpoint_that_does_not_fit_is_not_used(tmp_path: Path, damage: str) -> None:
    checkpoint = tmp_path / "at.safetensors"
    train(network(), CASES, settings(), seed=0, device=CPU, checkpoint=checkpoint)
    if damage == "cut":
        checkpoint.write_bytes(checkpoint.read_bytes()[:200])
    seen: list[int] = []
    epochs = settings() if damage == "cut" else settings(learning_rate=1e-3)
    train(
        network(),
        CASES,
        epochs,
        seed=0,
        device=CPU,
        checkpoint=checkpoint,
        on_progress=lambda s: seen.append(s.done),
    )
    assert seen == [0, 1, 2], "told that it begins anew, then both epochs"


def test_a_class_nobody_annotated_is_never_background() -> None:
    target = target_of({"liver": np.ones((2, 2, 2), np.uint8)}, ("liver", "spleen"), (2, 2, 2))
    assert (target[0] == 1).all() and (target[1] == UNLABELLED).all()
    net = network()
    before = fingerprint(net.head("spleen"), modes=False)
    train(net, [prepared(0, ("liver",))], settings(weight_decay=0.0), seed=0, device=CPU)
    assert fingerprint(net.head("spleen"), modes=False) == before, "its head got no gradient at all"


def test_a_case_without_any_annotation_is_refused() -> None:
    with pytest.raises(ModelError, match="got none for case_0; annotate or leave the case out"):
        PatchBatches([prepared(0, ("aorta",))], ("liver",), settings(), seed=0)


def test_any_epoch_can_be_drawn_again() -> None:
    batches = PatchBatches(CASES, ("liver", "spleen"), settings(), seed=5)
    first, second = ([b.image for b in batches.epoch(7)] for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert not all(torch.equal(a, b.image) for a, b in zip(first, batches.epoch(8), strict=True))


def test_the_learning_rate_warms_up_and_decays() -> None:
    factors = [learning_rate_factor(s, 100, 20) for s in range(100)]
    assert factors[19] == 1.0 and factors.index(max(factors)) == 19
    assert all(b < a for a, b in itertools.pairwise(factors[20:])) and factors[-1] < 1e-3


def test_a_device_that_is_not_there() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    assert resolve_device("auto") == CPU
    with pytest.raises(ModelError, match='found none; set device = "auto" or "cpu"'):
        resolve_device("cuda")


def test_what_is_drawn_ahead_is_what_is_drawn_when_asked() -> None:
    prints = []
    for prefetch in (0, 1, 7):
        net = network()
        result = train(net, CASES, settings(prefetch=prefetch), seed=0, device=CPU)
        prints.append(fingerprint(net))
        assert 0 <= result.waited <= result.seconds
    assert len(set(prints)) == 1


def test_the_patches_of_processes_are_those_of_one() -> None:
    batches = PatchBatches(CASES, ("liver", "spleen"), settings(batch_size=4), seed=3)
    whole, parts = batches.places(2), [batches.places(2, rank, 3) for rank in range(3)]
    for number, place in enumerate(whole):
        shared = [p for rank in range(3) for p in parts[rank][number].positions]
        assert sorted(shared) == list(place.positions)
    last = parts[2][-1]
    assert last.positions == (), "six patches in batches of four: two processes share the last two"
    assert bool((batches.draw(last).target == UNLABELLED).all())


def test_memory_formats_and_compilation_leave_the_network_as_it_was() -> None:
    for changes in ({"channels_last": True}, {"channels_last": False}, {"channels_last": "auto"}):
        net = network()
        train(net, CASES, settings(**changes), seed=0, device=CPU)
        assert all(p.is_contiguous() for p in net.parameters())


def test_a_checkpoint_of_an_earlier_recipe_is_not_continued(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loss changed: its steps would not be those of either recipe."""
    cases, settings = [prepared(0, ("liver",))], config().train.model_copy(update={"epochs": 1})
    for recipe, note in ((optimise.RECIPE - 1, ""), (optimise.RECIPE, "begins anew: ")):
        monkeypatch.setattr(optimise, "RECIPE", recipe)
        result = train(
            network(("liver",)), cases, settings, seed=0, device=CPU, checkpoint=tmp_path / "at.safetensors"
        )
        assert result.resumed == 0 and result.note.startswith(note)
    assert "another version of ctune" in result.note


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_mixed_precision_on_a_gpu_learns_what_single_precision_learns() -> None:
    cases, losses = [prepared(0, ("liver",))], []
    for mixed in (True, False):
        settings = config().train.model_copy(update={"epochs": 10, "mixed_precision": mixed})
        net = network(("liver",))
        losses.append(train(net, cases, settings, seed=0, device=torch.device("cuda")).losses)
        assert all(p.dtype == torch.float32 for p in net.parameters())
    assert losses[0][-1] < losses[0][0] and losses[0] != losses[1]
    assert abs(losses[0][-1] - losses[1][-1]) < 0.1


def test_a_checkpoint_of_other_data_is_set_aside_and_said(tmp_path: Path) -> None:
    checkpoint = tmp_path / "at.safetensors"
    train(network(), CASES, settings(), seed=0, device=CPU, checkpoint=checkpoint)
    kept = checkpoint.read_bytes()
    changed = prepared(2, ("liver", "spleen"))
    changed.labels["liver"][0, 0, 0] ^= 1  # type: ignore[index]
    result = train(network(), [*CASES[:2], changed], settings(), seed=0, device=CPU, checkpoint=checkpoint)
    assert result.resumed == 0
    assert result.note.startswith("begins anew: the checkpoint at.safetensors is damaged, or of other data")
    assert (tmp_path / "at.other.safetensors").read_bytes() == kept
    again = train(
        network(), [*CASES[:2], changed], settings(prefetch=0), seed=0, device=CPU, checkpoint=checkpoint
    )
    assert (again.resumed, again.note) == (2, ""), "how it runs is no reason to begin anew"


@pytest.mark.parametrize("kind", ["text", "pyramid"])
def test_heads_begin_with_the_odds_of_their_class(kind: Kind) -> None:
    base = network().base
    net = Network(base, {name: build_head(name, kind, base, 0) for name in ("liver", "spleen")})
    net.head("liver").start_at(0.5)
    before = net(torch.zeros(1, 1, SIDE, SIDE, SIDE), ["liver"])
    liver = np.full((SIDE, SIDE, SIDE), UNLABELLED, dtype=np.uint8)
    liver[:10, 0, 0], liver[0, 0, 0] = 0, 1  # one voxel in ten that were judged
    case = PreparedCase("a", "a", np.zeros((SIDE, SIDE, SIDE), np.float32), {"liver": liver})
    start_at_priors(net, [case], net.classes)
    moved = net(torch.zeros(1, 1, SIDE, SIDE, SIDE), ["liver"]) - before
    assert torch.allclose(moved, torch.full_like(moved, math.log(0.1 / 0.9)), atol=1e-5)
    text = "expected a probability above 0 and below 1 for class liver, got 0; count its voxels"
    with pytest.raises(ModelError, match=text):
        net.head("liver").start_at(0)


def test_the_weight_of_rare_classes_is_a_setting_and_off_unless_asked(tmp_path: Path) -> None:
    first, plain = {}, config().model_dump(mode="json")["train"]
    for balance in (0.0, 0.5):
        made, _ = project(tmp_path / str(balance), pool=1, test=0, train={**plain, "balance": balance})
        first[balance] = train_model(made, "m", ["liver"], device=CPU)[1].losses[0]
    assert config().train.balance == 0.0 and first[0.5] > first[0.0]


def test_the_start_is_a_setting_and_random_unless_asked(tmp_path: Path) -> None:
    first = {}
    for way in ("random", "prior"):
        plain = config().model_dump(mode="json")
        made, _ = project(tmp_path / way, pool=1, test=0, heads={**plain["heads"], "start_bias": way})
        first[way] = train_model(made, "m", ["liver"], device=CPU)[1].losses[0]
    assert config().heads.start_bias == "random" and first["prior"] < first["random"]
