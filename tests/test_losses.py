"""Masked Dice + BCE against numbers worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch

from ctune.losses import masked_dice_bce, pair_losses
from ctune.types import UNLABELLED


def logit(p: float) -> float:
    return math.log(p / (1 - p))


def volume(*values: float) -> torch.Tensor:
    """Eight voxels, 2x2x2."""
    return torch.tensor(values).reshape(2, 2, 2)


def test_worked_out_by_hand() -> None:
    """One organ of two voxels, one of which is half seen; one voxel that nobody judged, predicted loudly."""
    probabilities = [0.9, 0.5, 0.2, 0.1, 0.1, 0.1, 0.1, 0.999]
    logits = volume(*map(logit, probabilities))[None, None]
    target = volume(1, 1, 0, 0, 0, 0, 0, UNLABELLED).to(torch.uint8)[None, None]
    dice = 2 * (0.9 + 0.5) / ((0.9 + 0.5 + 0.2 + 0.4) + 2)
    bce = -(math.log(0.9) + math.log(0.5) + math.log(0.8) + 4 * math.log(0.9)) / 7
    assert float(masked_dice_bce(logits, target)) == pytest.approx(1 - dice + bce, rel=1e-6)


def test_dice_is_over_the_volume_not_per_slice() -> None:
    logits = torch.full((1, 1, 2, 2, 2), -30.0)
    target = torch.zeros(1, 1, 2, 2, 2, dtype=torch.uint8)
    logits[0, 0, 0], target[0, 0, 0] = 30.0, 1
    target[0, 0, 1, 0, 0] = 1  # one of five voxels is missed
    dice = 2 * 4 / (4 + 5)
    assert float(masked_dice_bce(logits, target)) == pytest.approx(1 - dice + 30 / 8, rel=1e-6)


def test_mean_over_labelled_pairs_only() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 4, 4, 4, generator=generator)
    target = torch.randint(0, 2, (2, 3, 4, 4, 4), generator=generator, dtype=torch.uint8)
    target[0, 1] = target[1, 0] = target[1, 2] = UNLABELLED
    pairs = [(0, 0), (0, 2), (1, 1)]
    single = [masked_dice_bce(logits[n, k][None, None], target[n, k][None, None]) for n, k in pairs]
    assert float(masked_dice_bce(logits, target)) == pytest.approx(float(sum(single)) / 3, rel=1e-6)
    losses, labelled = pair_losses(logits, target)
    assert [tuple(p) for p in labelled.nonzero().tolist()] == pairs
    assert losses[~labelled].tolist() == [0.0] * 3


def test_unlabelled_voxels_neither_count_nor_pull() -> None:
    logits = torch.randn(1, 1, 4, 4, 4, generator=torch.Generator().manual_seed(0)).requires_grad_()
    target = torch.zeros(1, 1, 4, 4, 4, dtype=torch.uint8)
    target[..., :2] = 1
    target[:, :, 2:] = UNLABELLED
    loss = masked_dice_bce(logits, target)
    loss.backward()
    assert logits.grad is not None
    assert bool((logits.grad[:, :, 2:] == 0).all()) and bool((logits.grad[:, :, :2] != 0).all())
    shouted = logits.detach().clone()
    shouted[:, :, 2:] = 40.0
    assert float(masked_dice_bce(shouted, target)) == float(loss.detach())


@pytest.mark.parametrize("shape", [(2, 2, 4, 4, 4), (2, 0, 4, 4, 4)])
def test_without_a_labelled_pair_the_loss_is_zero_and_has_a_gradient(shape: tuple[int, ...]) -> None:
    logits = torch.randn(shape, requires_grad=True)
    loss = masked_dice_bce(logits, torch.full(shape, UNLABELLED, dtype=torch.uint8))
    loss.backward()
    assert float(loss.detach()) == 0.0 and loss.shape == ()
    assert logits.grad is not None and float(logits.grad.abs().sum()) == 0.0


def test_an_absent_class_costs_nothing_once_nothing_is_predicted() -> None:
    target = torch.zeros(1, 1, 4, 4, 4, dtype=torch.uint8)
    quiet, loud = (masked_dice_bce(torch.full((1, 1, 4, 4, 4), v), target) for v in (-30.0, 0.0))
    assert float(quiet) == pytest.approx(0.0, abs=1e-6)
    assert float(loud) == pytest.approx(1 - 1 / (32 + 1) + math.log(2), rel=1e-6)


def test_a_perfect_and_an_inverted_prediction() -> None:
    target = volume(1, 1, 1, 0, 0, 0, 0, 0).to(torch.uint8)[None, None]
    perfect = (target.float() - 0.5) * 60
    assert float(masked_dice_bce(perfect, target)) == pytest.approx(0.0, abs=1e-6)
    assert float(masked_dice_bce(-perfect, target)) == pytest.approx(1 + 30, rel=1e-6)


def test_nothing_pays_for_silence_about_an_organ_that_is_there() -> None:
    """One voxel of 4,096, faintly expected everywhere: less everywhere is no gain to Dice, more of it at its voxel is."""
    target = torch.zeros(1, 1, 16, 16, 16, dtype=torch.uint8)
    target[0, 0, 8, 8, 8] = 1

    def dice_part(inside: float, outside: float) -> float:
        logits = torch.full((1, 1, 16, 16, 16), logit(outside), dtype=torch.float64)
        logits[0, 0, 8, 8, 8] = logit(inside)
        bce = -(math.log(inside) + 4095 * math.log(1 - outside)) / 4096
        return float(masked_dice_bce(logits, target)) - bce

    assert dice_part(1e-5, 1e-5) >= dice_part(1e-3, 1e-3)
    assert dice_part(1e-2, 1e-3) < dice_part(1e-3, 1e-3)


@pytest.mark.parametrize("balance", [0.5, 1.0])
def test_voxels_of_a_rare_class_weigh_more_by_a_power_of_how_rare_it_is(balance: float) -> None:
    """Two voxels of the class among six others that were judged; the eighth nobody judged."""
    probabilities = [0.9, 0.5, 0.2, 0.1, 0.1, 0.1, 0.1, 0.999]
    logits = volume(*map(logit, probabilities))[None, None]
    target = volume(1, 1, 0, 0, 0, 0, 0, UNLABELLED).to(torch.uint8)[None, None]
    weight = (5 / 2) ** balance
    extra = -(weight - 1) * (math.log(0.9) + math.log(0.5)) / 7
    plain = float(masked_dice_bce(logits, target))
    assert float(masked_dice_bce(logits, target, balance)) == pytest.approx(plain + extra, rel=1e-6)


def test_a_common_class_and_an_absent_one_are_not_weighed() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(1, 2, 4, 4, 4, generator=generator)
    target = torch.ones(1, 2, 4, 4, 4, dtype=torch.uint8)
    target[0, 1] = 0
    target[0, 0, 0, 0, 0] = 0
    assert float(masked_dice_bce(logits, target, 1.0)) == float(masked_dice_bce(logits, target))


def test_half_precision_logits_lose_nothing_in_the_sums() -> None:
    logits = torch.full((1, 1, 32, 32, 32), -2.0)
    target = torch.zeros(1, 1, 32, 32, 32, dtype=torch.uint8)
    target[..., 0] = 1
    exact, half = masked_dice_bce(logits, target), masked_dice_bce(logits.bfloat16(), target)
    assert half.dtype == torch.float32 and float(half) == pytest.approx(float(exact), rel=1e-6)


def test_gradients_of_a_class_are_the_same_bits_whichever_classes_train_beside_it() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 5, 8, 8, 8, generator=generator)
    target = torch.randint(0, 2, (2, 5, 8, 8, 8), generator=generator, dtype=torch.uint8)

    def gradient(channels: list[int]) -> torch.Tensor:
        x = logits[:, channels].clone().requires_grad_()
        pair_losses(x, target[:, channels])[0].sum().backward()
        assert x.grad is not None
        return x.grad[:, 0]

    assert torch.equal(gradient([3]), gradient([3, 0, 1, 2, 4]))


def test_shapes_that_differ_are_refused() -> None:
    with pytest.raises(ValueError, match=r"logits' shape \(1, 2, 4, 4, 4\), got \(1, 1, 4, 4, 4\)"):
        masked_dice_bce(torch.zeros(1, 2, 4, 4, 4), torch.zeros(1, 1, 4, 4, 4, dtype=torch.uint8))
