"""The figures of the benchmark of forgetting, from what stood after each round of each way."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import Enum
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


class Budget(Enum):
    """What rivals may spend on a round. ONE: of a result from before there were two."""

    ONE = ""
    LONG = "with the long budget"
    EQUAL = "with the time that continual tuning took"

    @property
    def behind(self) -> str:
        """Behind a noun: " with the long budget"."""
        return f" {self.value}" if self.value else ""

    @property
    def titled(self) -> str:
        """Behind a title."""
        return f": rivals {self.value}" if self.value else ""

    @property
    def had(self) -> str:
        """A sentence behind others."""
        if self is Budget.LONG:
            return " Rivals had the long budget: a number of steps, the same for all."
        if self is Budget.EQUAL:
            return " Rivals had as long as continual tuning took in the same round of the same seed."
        return ""


def both_budgets(seeds: Sequence[Seed]) -> list[Seed]:
    """The same seeds with every way in `ways`; a rival with the time of continual tuning is the way "NAME, equal time".

    A result from before rivals had two budgets has one way a rival, as it was kept. Ways of which no round is there are left out.

    >>> (seed,) = both_budgets([{"base": {}, "ways": {"LwF": [1]}, "equal_time": {"LwF": [2]}}])
    >>> seed["ways"]
    {'LwF': [1], 'LwF, equal time': [2]}
    """
    found = list[Seed]()
    for seed in seeds:
        equal = {equal_time(name): way for name, way in seed.get("equal_time", {}).items()}
        ways = {name: way for name, way in {**seed["ways"], **equal}.items() if way}
        found.append({**seed, "ways": ways})
    return found


def of_one_budget(seeds: Sequence[Seed]) -> bool:
    """Whether the seeds are of a result from before rivals had two budgets: theirs was about the time of continual tuning."""
    return not any("equal_time" in seed for seed in seeds)


def summary(seeds: Sequence[Seed]) -> dict[str, Any]:
    """The measures. Plain names are those of continual tuning, ``..._by_way`` has every way of both budgets; means over seeds,
    and the worst seed for what must not happen at all."""
    every = both_budgets(seeds)
    ways = list(every[0]["ways"])
    metrics = {way: [way_figures(seed["base"], seed["ways"][way]) for seed in every] for way in ways}
    combined: Mapping[str, Callable[[Iterable[float]], float]] = {
        "acc": mean, "bwt": mean, "forgetting": mean, "max_case_drop": max, "voxels_changed": sum,
        "dice_new_classes": mean, "learning_seconds": mean, "steps_a_round": mean,
    }  # fmt: skip
    by_way = {
        name: {way: combine(seed[name] for seed in metrics[way]) for way in ways}
        for name, combine in combined.items()
    }
    kept = [stage["max_abs_logit_change"] for seed in seeds for stage in seed["ways"][CONTINUAL]]
    return {
        **{name: values[CONTINUAL] for name, values in by_way.items()},
        "unrevised_max_abs_logit_change": max(kept),
        **{f"{name}_by_way": values for name, values in by_way.items()},
        "continual_less_rival": against(seeds),
    }


def against(seeds: Sequence[Seed], shared: bool = False) -> dict[str, dict[str, Any]]:
    """Continual tuning less each rival after the last round, all classes: ``statistics.comparisons``, one family over both
    budgets. What is said of a rival ends with the budget that it had; where there was but one, ``of_one_budget``, without.

    shared: the seeds have the same test cases.
    """
    ways = [seed["ways"] for seed in both_budgets(seeds)]
    rivals = [way for way in dict.fromkeys(way for of in ways for way in of) if way != CONTINUAL]
    differences = {
        way: [
            case_differences(of[CONTINUAL][-1]["dice"], of[way][-1]["dice"], sorted(of[way][-1]["dice"]))
            for of in ways
            if way in of
        ]
        for way in rivals
    }
    found = comparisons(differences, MARGIN, shared)
    if not of_one_budget(seeds):
        for way, verdict in found.items():
            steps = mean(_steps(of[way]) for of in ways if way in of)
            verdict["said"] += f"; the rival had {budget_of(way, steps)}"
    return found


def budget_of(way: str, steps: float) -> str:
    """In words, what a rival may spend on a round; steps: that it took, as a mean over rounds and seeds.

    >>> budget_of("LwF", 240.0), budget_of("LwF, equal time", 23.4)
    ('240 steps a round', 'as long as continual tuning, 23 steps a round')
    """
    taken = f"{steps:.0f} steps a round"
    return f"as long as continual tuning, {taken}" if has_equal_time(way) else taken


def equal_time(rival: str) -> str:
    """The name of the way of a rival that has the time of continual tuning."""
    return f"{rival}{_EQUAL_TIME}"


def has_equal_time(way: str) -> bool:
    """Whether a way is that of a rival with the time of continual tuning."""
    return way.endswith(_EQUAL_TIME)


def rival_of(way: str) -> str:
    """The rival whose way it is, whatever its budget.

    >>> rival_of("LwF, equal time"), rival_of("LwF")
    ('LwF', 'LwF')
    """
    return way.removesuffix(_EQUAL_TIME)


def _steps(rounds: Way) -> float:
    """Steps a round."""
    return float(mean(stage["steps"] for stage in rounds))


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
        "steps_a_round": _steps(rounds),
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
