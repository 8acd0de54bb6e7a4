"""What the benchmark of forgetting draws."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import mean
from typing import Any

from ctune.bench.forgetting.figures import (
    CONTINUAL,
    Budget,
    Seed,
    both_budgets,
    has_equal_time,
    of_one_budget,
    rival_of,
    way_figures,
)
from ctune.bench.report.plots import Bar, Bars, Lines, Plot, Series
from ctune.bench.report.tables import seed_count, seeds_of
from ctune.bench.result import BenchResult
from ctune.bench.statistics import case_differences, paired_interval, shares_cases


def plots(result: BenchResult) -> list[Plot]:
    """What is lost of the first classes round by round, all classes at the end, backward transfer; by way, for each budget."""
    measured = seeds_of(result)
    seeds, shared = both_budgets(measured), shares_cases(result.data)
    budgets = ways_by_budget(measured).items()
    return [
        *(plot for budget, ways in budgets for plot in by_round(seeds, ways, budget, shared)),
        *(at_the_end(seeds, ways, budget) for budget, ways in budgets),
        *(transfer(seeds, ways, budget) for budget, ways in budgets),
    ]


def ways_by_budget(measured: Sequence[Seed]) -> dict[Budget, list[str]]:
    """Continual tuning and its rivals with each budget, in the order in which they are shown.

    A budget with which no rival was measured is left out. In a result from before there were two, all ways stand together.
    """
    ways = ways_of(both_budgets(measured))
    if of_one_budget(measured):
        return {Budget.ONE: ways}
    equal = [way for way in ways if has_equal_time(way)]
    long = [way for way in ways if way not in equal]
    found = {Budget.LONG: long, Budget.EQUAL: [CONTINUAL, *equal]}
    return {budget: of for budget, of in found.items() if len(of) > 1} or {Budget.ONE: ways}


_COLOURS = {
    "continual": 1, "rehearsal": 2, "rehearsal with pyramids": 9, "LwF": 3, "MiB": 8, "PLOP": 4, "EWC": 5, "fine-tuning": 6,
    "background": 7,
}  # fmt: skip
"""Of lines and bars, in the order in which they are shown: a result has its ways in the order of their names. A way has its colour
everywhere, and keeps it from page to page when another is added."""


def ways_of(seeds: Sequence[Seed]) -> list[str]:
    """Every way; one that was given more stands behind its own kind."""
    return sorted({way for seed in seeds for way in seed["ways"]}, key=lambda way: (_place(way), way))


def _place(way: str) -> int:
    kind = way.partition(",")[0]
    return list(_COLOURS).index(kind) if kind in _COLOURS else len(_COLOURS)


def _colour(way: str) -> int:
    return _COLOURS.get(way.partition(",")[0], len(_COLOURS) + 1)


NEAR = 0.1
"""Change of Dice within which a way is drawn a second time, enlarged."""


def by_round(
    seeds: Sequence[Seed], ways: Sequence[str], budget: Budget = Budget.ONE, shared: bool = False
) -> list[Lines]:
    """Change of the classes that the base brought along since then; and enlarged, the ways that stay near zero."""
    old = list(seeds[0]["base"]["dice"])
    drawn = list[Series]()
    for way in ways:
        found = [s for s in seeds if way in s["ways"]]
        points = [
            paired_interval([_changes(s["base"], s["ways"][way][r], old) for s in found], shared=shared)
            for r in range(len(found[0]["ways"][way]))
        ]
        behind = points[0].n
        ys, low, high = ([0.0, *(getattr(p, end) for p in points)] for end in ("mean", "low", "high"))
        drawn.append(
            Series(
                name_of(rival_of(way)),
                list(range(len(points) + 1)),
                ys,
                low,
                high,
                dashed="," in way,
                colour=_colour(way),
            )
        )
    organs = ", ".join(n.replace("_", " ") for n in old)
    dashed = " Their lines are dashed." if budget == Budget.EQUAL else ""
    bands = f"Lines: means. Bands: 95 % intervals over cases and seeds ({behind})."
    whole = Lines(
        f"What is lost of the classes that the base brought along{budget.titled}",
        "rounds, each adds one class",
        "change of Dice since the base",
        drawn,
        f"Mean over {organs}, none of which is revised in any round; of continual tuning it is exactly zero. Rehearsal alone may keep "
        f"old cases with their labels. {bands}{budget.had}{dashed}",
        figure=3,
        zero=True,
    )
    near = [s for s in drawn if max(map(abs, (*s.low, *s.high))) <= NEAR]
    if len(near) in (0, 1, len(drawn)):
        return [whole]
    enlarged = Lines(
        f"The same near zero{budget.titled}",
        whole.x_label,
        f"change of Dice, enlarged: within {NEAR:g}",
        near,
        f"The ways that stay near zero, on an axis that is enlarged. {bands}",
        figure=3,
        zero=True,
    )
    return [whole, enlarged]


def _changes(base: Mapping[str, Any], stage: Mapping[str, Any], names: Sequence[str]) -> list[float]:
    """For each test case the mean change over `names`; an absent organ counts as in ``statistics.case_differences``."""
    return case_differences(stage["dice"], base["dice"], names)


def at_the_end(seeds: Sequence[Seed], ways: Sequence[str], budget: Budget = Budget.ONE) -> Bars:
    """Mean Dice of all classes after the last round."""
    bars = [_bar(way, [_dice(s["ways"][way][-1]) for s in seeds if way in s["ways"]]) for way in ways]
    return Bars(
        f"All nine classes after the last round{budget.titled}",
        "mean Dice, test cases",
        bars,
        "What is kept and what is learnt, together: a way that forgets nothing because it learns nothing is low here."
        f"{budget.had}{_steps(seeds, ways, budget)}{_ends(seeds)}",
        x_limits=(0.0, 1.0),
    )


def transfer(seeds: Sequence[Seed], ways: Sequence[str], budget: Budget = Budget.ONE) -> Bars:
    """How much of what was learnt is gone at the end."""
    bars = [
        _bar(w, [-way_figures(s["base"], s["ways"][w])["bwt"] for s in seeds if w in s["ways"]]) for w in ways
    ]
    return Bars(
        f"Mean Dice lost of a class since the round that learnt it{budget.titled}",
        "minus backward transfer",
        bars,
        f"Over the classes that were known before the last round; of continual tuning it is exactly zero.{budget.had}{_ends(seeds)}",
        mark=0.0,
        mark_text="0: nothing lost",
        # Of two budgets over the same axis.
        x_limits=None if budget == Budget.ONE else (0.0, 1.0),
    )


def _steps(seeds: Sequence[Seed], ways: Sequence[str], budget: Budget) -> str:
    """What steps rivals took, fewest to most of a round; of an older result, that there is no other budget."""
    rivals = [way for way in ways if way != CONTINUAL]
    steps = sorted({stage["steps"] for way in rivals for s in seeds for stage in s["ways"].get(way, ())})
    if not steps:
        return ""
    span = str(steps[0]) if len(steps) == 1 else f"{steps[0]} to {steps[-1]}"
    more = "; what more would bring was not measured" if budget == Budget.ONE else ""
    return f" A rival takes {span} steps over all weights in each round{more}."


def _ends(seeds: Sequence[Seed]) -> str:
    """What bars and the lines at their ends are."""
    cases = len(next(iter(seeds[0]["base"]["dice"].values())))
    lines = "; lines: from the lowest to the highest seed" if len(seeds) > 1 else ""
    return f" Bars: means of {seed_count(len(seeds))}, {cases} test cases each{lines}."


def _bar(way: str, values: Sequence[float]) -> Bar:
    return Bar(
        name_of(rival_of(way)), mean(values), min(values), max(values), f"{mean(values):.3f}", _colour(way)
    )


def _dice(stage: Mapping[str, Any], names: Sequence[str] | None = None) -> float:
    by_class: Mapping[str, Mapping[str, float | None]] = stage["dice"]
    chosen = by_class if names is None else names
    return mean(mean([v for v in by_class[n].values() if v is not None] or [0.0]) for n in chosen)


def name_of(way: str) -> str:
    kind, comma, more = way.partition(",")
    return {"background": "background taught", "continual": "continual tuning"}.get(kind, kind) + comma + more
