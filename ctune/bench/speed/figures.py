"""The figures of continual tuning against full training: ratios of time, Dice by class, and what is promised of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import mean
from typing import Any

import torch

from ctune.bench.catalogue import Preset
from ctune.bench.result import Gate
from ctune.bench.speed.lengths import quickest
from ctune.bench.statistics import case_differences, comparisons
from ctune.bench.study import means

MARGIN = 0.01
"""Mean Dice of the new classes by which continual tuning may be below the rival."""
RATIOS: Mapping[Preset, Mapping[str, float]] = {
    Preset.CPU: {"time_ratio_full_over_continual": 50.0},
    Preset.GPU: {"time_ratio_full_over_continual": 300.0, "time_ratio_paper_over_continual": 10.0},
}
"""Time of full training, and of tuning the paper's way, over continual tuning's that is promised on phantoms. Nothing is on the hippocampus, which is reported
as it is: images of 35 x 50 x 35 voxels are read and cached in as long as a few epochs train on them."""


def summary(seeds: Sequence[Mapping[str, Any]], device: torch.device, shared: bool = False) -> dict[str, Any]:
    """The measures: means over seeds, and every seed's own ratio. shared: all seeds have the same test cases."""
    unit = "cpu_seconds" if device.type == "cpu" else "seconds"
    ratios = {arm: [full_over_continual(seed, arm, unit) for seed in seeds] for arm in seeds[0]["continual"]}
    new = list(seeds[0]["continual"]["pyramid"]["steps"])
    dice = {
        "continual": [_of(seed["continual"]["pyramid"]["dice"], new) for seed in seeds],
        "text": [_of(seed["continual"]["text"]["dice"], new) for seed in seeds],
        "rival": [_of(seed["full"]["rival"]["dice"], new) for seed in seeds],
        "ceiling": [_of(seed["full"]["ceiling"]["dice"], new) for seed in seeds],
    }
    by_class = {arm: {n: mean(s[n] for s in each) for n in new} for arm, each in dice.items()}
    return {
        "time_ratio_full_over_continual": mean(ratios["pyramid"]),
        "time_ratio_by_seed": ratios["pyramid"],
        "time_ratio_as_trained": mean(
            seed["full"]["rival"]["curve"][-1][unit] / seed["continual"]["pyramid"][unit] for seed in seeds
        ),
        "time_ratio_full_over_text": mean(ratios["text"]),
        "time_ratio_uncached_over_cached": mean(
            seed["continual"]["pyramid, no cache"][unit] / seed["continual"]["pyramid"][unit]
            for seed in seeds
        ),
        "time_ratio_paper_over_continual": mean(
            seed["continual"]["text, no cache"][unit] / seed["continual"]["pyramid"][unit] for seed in seeds
        ),
        "dice_new_classes": {arm: mean(of.values()) for arm, of in by_class.items()},
        "dice_by_class": by_class,
        "ceiling_less_continual": short_of_ceiling(by_class),
        "rise_at_the_end": {
            arm: mean(rise_at_the_end(seed["full"][arm]["curve"], new) for seed in seeds)
            for arm in ("rival", "ceiling")
        },
        "continual_less_rival": paired(seeds, new, shared),
        "time_to_target": [time_to(seed, new, unit) for seed in seeds],
        "unrevised_max_abs_logit_change": max(
            seed["continual"][arm]["unrevised_max_abs_logit_change"]
            for seed in seeds
            for arm in seed["continual"]
        ),
    }


def full_over_continual(seed: Mapping[str, Any], arm: str, unit: str) -> float:
    """Time of the rival's steps over that of an arm of continual tuning, at the pace of the steps that were timed beside it.

    Of a result that has no such steps, the time that they took when they were made.
    """
    ours, rival = seed["continual"][arm], seed["full"]["rival"]
    beside = ours.get("full_step")
    taken = rival["steps"] * beside[unit] if beside else rival["curve"][-1][unit]
    return float(taken / ours[unit])


LOST = 0.05
"""Mean Dice below which an organ was not learnt."""


def short_of_ceiling(by_class: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
    """Ceiling less continual by class, and the mean over the classes that the ceiling learnt; the others are named.

    A ceiling that lost an organ would make the distance of all classes together look small.
    """
    ours, above = by_class["continual"], by_class["ceiling"]
    less = {name: above[name] - ours[name] for name in ours}
    learnt = [name for name in ours if above[name] >= LOST]
    found = mean(less[name] for name in learnt) if learnt else None
    return {"by_class": less, "mean": found, "lost": [name for name in ours if name not in learnt]}


def rise_at_the_end(rows: Sequence[Mapping[str, Any]], new: Sequence[str]) -> float:
    """By how much the mean Dice of the new classes rose from the last look but one to the last: near 0 has come to its end."""
    looks = [mean(row["dice"][n] for n in new) for row in rows if "dice" in row]
    return looks[-1] - looks[-2] if len(looks) > 1 else 0.0


def _of(dice: Mapping[str, Mapping[str, float | None]], names: Sequence[str]) -> dict[str, float]:
    return means({name: dice[name] for name in names})


def paired(seeds: Sequence[Mapping[str, Any]], new: Sequence[str], shared: bool = False) -> dict[str, Any]:
    """Continual less rival, of each case its mean over the new classes: interval, test, and what may be said of it."""
    differences = [
        case_differences(seed["continual"]["pyramid"]["dice"], seed["full"]["rival"]["dice"], new)
        for seed in seeds
    ]
    return comparisons({"rival": differences}, MARGIN, shared)["rival"]


def time_to(seed: Mapping[str, Any], new: Sequence[str], unit: str) -> dict[str, float | None]:
    """Seconds after which the rival's mean Dice of the new classes was that of continual tuning; None: never.

    And the other way: of the tunings that came to the rival's Dice at its end, the seconds of the quickest.
    """
    target = mean(_of(seed["continual"]["pyramid"]["dice"], new).values())
    looks = [row for row in seed["full"]["rival"]["curve"] if "dice" in row]
    reached = [row[unit] for row in looks if mean(row["dice"][n] for n in new) >= target]
    theirs = mean(_of(seed["full"]["rival"]["dice"], new).values())
    return {"target_dice": target, "rival_seconds": reached[0] if reached else None,
            "continual_seconds": seed["continual"]["pyramid"][unit],
            "rival_dice": theirs, "continual_seconds_to_it": quickest(seed, new, unit, theirs)}  # fmt: skip


def gates(measures: Mapping[str, Any], preset: str) -> list[Gate]:
    """What is promised on every cohort: bits at every size; Dice where full training is long enough to converge."""
    found = [Gate(
        figure="unrevised_max_abs_logit_change", value=measures["unrevised_max_abs_logit_change"], bound=0.0,
        reference="bit for bit",
    )]  # fmt: skip
    if preset == Preset.SMOKE:
        return found
    dice, by_class = measures["dice_new_classes"], measures["dice_by_class"]
    worst = min(by_class["continual"][name] - by_class["rival"][name] for name in by_class["rival"])
    return [
        *found,
        Gate(figure="continual Dice less rival", value=dice["continual"] - dice["rival"], bound=-MARGIN,
             at_most=False, reference="non-inferior to full training on the same annotations"),
        Gate(figure="worst new class less rival", value=worst, bound=-0.03, at_most=False,
             reference="no class far below full training on the same annotations"),
        Gate(figure="ceiling Dice less continual", value=measures["ceiling_less_continual"]["mean"], bound=0.06,
             reference="close to full training with everything annotated, over the classes that it learnt"),
    ]  # fmt: skip


def ratio_gates(measures: Mapping[str, Any], preset: str) -> list[Gate]:
    """What is promised of time, where full training is long enough to converge."""
    return [
        Gate(
            figure=name, value=measures[name], bound=bound, at_most=False, reference="agreed for this preset"
        )
        for name, bound in RATIOS.get(Preset(preset), {}).items()
    ]
