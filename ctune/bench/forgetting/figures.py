"""The figures of the benchmark of forgetting, from what stood after each round of each way."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import mean
from typing import Any

import numpy as np

from ctune.bench.result import Gate
from ctune.bench.statistics import case_differences, comparisons
from ctune.evaluate import continual_metrics

CONTINUAL = "continual"
_EQUAL_TIME = ", equal time"
MARGIN = 0.01
"""Mean Dice of all classes after the last round by which continual tuning may be below a rival."""

Seed = Mapping[str, Any]
Way = Sequence[Mapping[str, Any]]


def summary(seeds: Sequence[Seed]) -> dict[str, Any]:
    """The measures. Plain names are those of continual tuning, ``..._by_way`` has every way; means over seeds, and the worst
    seed for what must not happen at all. A rival with the time of continual tuning is the way "NAME, equal time"."""
    # A result of before rivals were measured with equal time has none.
    found = [
        {**seed["ways"], **{equal_time(name): way for name, way in seed.get("equal_time", {}).items()}}
        for seed in seeds
    ]
    ways = list(found[0])
    metrics = {
        way: [way_figures(s["base"], f[way]) for s, f in zip(seeds, found, strict=True)] for way in ways
    }
    combined: Mapping[str, Callable[[Iterable[float]], float]] = {
        "acc": mean, "bwt": mean, "forgetting": mean, "max_case_drop": max, "voxels_changed": sum,
        "dice_new_classes": mean, "learning_seconds": mean, "steps_a_round": mean,
    }  # fmt: skip
    by_way = {
        name: {way: combine(seed[name] for seed in metrics[way]) for way in ways}
        for name, combine in combined.items()
    }
    last = [{way: stages[-1]["dice"] for way, stages in of.items()} for of in found]
    rivals = {
        way: [case_differences(s[CONTINUAL], s[way], sorted(s[way])) for s in last]
        for way in ways
        if way != CONTINUAL
    }
    compared = comparisons(rivals, MARGIN)
    for way, verdict in compared.items():
        verdict["said"] += f"; the rival had {budget_of(way, by_way['steps_a_round'][way])}"
    kept = [stage["max_abs_logit_change"] for seed in seeds for stage in seed["ways"][CONTINUAL]]
    return {
        **{name: values[CONTINUAL] for name, values in by_way.items()},
        "unrevised_max_abs_logit_change": max(kept),
        **{f"{name}_by_way": values for name, values in by_way.items()},
        "continual_less_rival": compared,
    }


def budget_of(way: str, steps: float) -> str:
    """In words, what a rival may spend on a round; steps: that it took, as a mean over rounds and seeds.

    >>> budget_of("LwF", 240.0), budget_of("LwF, equal time", 23.4)
    ('240 steps a round', 'as long as continual tuning, 23 steps a round')
    """
    taken = f"{steps:.0f} steps a round"
    return f"as long as continual tuning, {taken}" if way.endswith(_EQUAL_TIME) else taken


def equal_time(rival: str) -> str:
    """The name of the way of a rival that has the time of continual tuning."""
    return f"{rival}{_EQUAL_TIME}"


def way_figures(base: Mapping[str, Any], rounds: Way) -> dict[str, float]:
    """ACC, BWT and F of one way in one seed (``evaluate.continual_metrics``), and what single cases and voxels say.

    max_case_drop: the largest fall of one class in one case since the round that learnt it, over all rounds; an absent organ
    that was rightly not found counts as Dice 1. voxels_changed: of masks of classes that a round did not revise, over all
    rounds and test cases.
    """
    stages = [base, *rounds]
    names = list(rounds[-1]["dice"])
    table = np.array([[_mean(stage["dice"].get(name)) for name in names] for stage in stages])
    found = continual_metrics(table)
    new = [name for name in names if name not in base["dice"]]
    return {
        "acc": found.acc, "bwt": found.bwt, "forgetting": found.forgetting,
        "max_case_drop": max_case_drop([stage["dice"] for stage in stages]),
        "voxels_changed": sum(n for stage in rounds for n in stage["voxels_changed"].values()),
        "dice_new_classes": mean(_mean(rounds[-1]["dice"][name]) for name in new),
        "learning_seconds": sum(stage["cpu_seconds"] for stage in rounds),
        "steps_a_round": mean(stage["steps"] for stage in rounds),
    }  # fmt: skip


def max_case_drop(stages: Sequence[Mapping[str, Mapping[str, float | None]]]) -> float:
    """See ``way_figures``; 0 when nothing fell."""
    learnt: dict[tuple[str, str], float] = {}
    worst = 0.0
    for stage in stages:
        for name, cases in stage.items():
            for case, dice in cases.items():
                now = 1.0 if dice is None else dice
                worst = max(worst, learnt.setdefault((name, case), now) - now)
    return worst


def _mean(cases: Mapping[str, float | None] | None) -> float:
    """Mean over the cases where there is something to measure; 0 where there is in none, NaN before a class is known."""
    if cases is None:
        return float("nan")
    return mean([value for value in cases.values() if value is not None] or [0.0])


def gates(measures: Mapping[str, Any]) -> list[Gate]:
    """Zero forgetting is exact: no logit, no voxel, no case."""
    exact = ("unrevised_max_abs_logit_change", "voxels_changed", "max_case_drop", "forgetting")
    return [Gate(figure=name, value=measures[name], bound=0.0, reference="bit for bit") for name in exact]
