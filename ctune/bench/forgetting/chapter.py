"""What is told of five rounds that add one class each: what every way keeps, loses and learns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import mean
from typing import Any

from ctune.bench.forgetting.figures import (
    CONTINUAL,
    Budget,
    Seed,
    against,
    both_budgets,
    of_one_budget,
    rival_of,
    way_figures,
)
from ctune.bench.forgetting.plots import name_of, ways_by_budget
from ctune.bench.report.tables import (
    Chapter,
    Table,
    Tile,
    difference,
    figure,
    ranged,
    seed_count,
    seeds_of,
    spread,
)
from ctune.bench.result import BenchResult
from ctune.bench.statistics import shares_cases

Figures = Mapping[str, Sequence[Mapping[str, float]]]
"""{way: its figures seed by seed}, see ``way_figures``."""


def tables(result: BenchResult) -> Chapter:
    """A table a budget, with one row a way: means over the seeds; what must not happen at all by the worst seed."""
    measured = seeds_of(result)
    seeds, budgets = both_budgets(measured), ways_by_budget(measured)
    found: Figures = {
        way: [way_figures(s["base"], s["ways"][way]) for s in seeds if way in s["ways"]]
        for way in {way: None for ways in budgets.values() for way in ways}
    }
    rivals = against(measured, shares_cases(result.data))
    drop = max(f["max_case_drop"] for f in found[CONTINUAL])
    kept = f"after {len(seeds[0]['ways'][CONTINUAL])} rounds continual tuning has lost {figure(drop)} Dice in its worst case"
    tiles = [Tile(figure(drop), "largest fall of one class in one case since it was learnt, continual tuning", f"the worst of {seed_count(len(seeds))}")]  # fmt: skip
    short, verdicts, shown = [f"Forgetting: {kept} ({seed_count(len(seeds))})"], list[str](), list[Table]()
    for budget, ways in budgets.items():
        if best := best_rival(ways, found, rivals, budget):
            # The first stands in one sentence with what is kept.
            head = "Forgetting: mean Dice of continual tuning, all classes," if shown else f"{short.pop()}; mean Dice of all classes"  # fmt: skip
            short.append(f"{head} less that of {best}")
        verdicts += said({way: found[way] for way in ways}, budget)
        shown.append(by_way(seeds, ways, found, rivals, budget, shown))
    return Chapter(
        "Forgetting", [f"{one}." for one in short], [*verdicts, *short_budget(measured)], tiles, shown
    )


def best_rival(
    ways: Sequence[str], found: Figures, rivals: Mapping[str, Mapping[str, Any]], budget: Budget
) -> str:
    """Which of the rivals is the best by its ACC, and what may be said of continual tuning less it; nothing where there is none."""
    best = max((w for w in ways if w != CONTINUAL), key=lambda w: mean(f["acc"] for f in found[w]), default=None)  # fmt: skip
    if best is None:
        return ""
    return f"{name_of(rival_of(best))}, the best of its rivals{budget.behind}: {rivals[best]['said']}"


def by_way(
    seeds: Sequence[Seed],
    ways: Sequence[str],
    found: Figures,
    rivals: Mapping[str, Mapping[str, Any]],
    budget: Budget,
    before: Sequence[Table] = (),
) -> Table:
    """ACC, BWT, F and what stands behind them, of the ways of one budget; before: the tables that stand above it."""
    rows = []
    for way in ways:
        of = found[way]
        rows.append([
            name_of(rival_of(way)), spread([f["acc"] for f in of], 3), spread([f["bwt"] for f in of], 3),
            spread([f["forgetting"] for f in of], 3), spread([max(f["max_case_drop"] for f in of)]),
            f"{sum(f['voxels_changed'] for f in of):,.0f}", spread([f["dice_new_classes"] for f in of], 3),
            ranged([f["steps_a_round"] for f in of]), ranged([f["learning_seconds"] for f in of]),
            difference(rivals[way]) if way in rivals else "",
        ])  # fmt: skip
    columns = ["", "ACC", "BWT", "F", "largest fall", "voxels changed", "Dice of the new classes", "steps a round", "seconds", "continual less it"]  # fmt: skip
    cases = len(next(iter(seeds[0]["base"]["dice"].values())))
    caption = f"{seed_count(len(seeds))}, {cases} test cases; {_SAME if before else _LEGEND}.{budget.had}"
    compared = [rivals[way] for way in ways if way in rivals]
    return Table(f"What is kept, lost and learnt{budget.titled}", columns, rows, caption + tested(compared))


_LEGEND = (
    "mean, and lowest to highest of the seeds. ACC: mean Dice of all classes after the last "
    "round; BWT: mean change of a class since the round that learnt it; F: mean fall from its best; largest fall: of one class in one case, "
    "worst seed; voxels: of masks of classes that a round did not revise, all rounds, cases and seeds; seconds: processor seconds of "
    "learning, all rounds"
)
_SAME = "columns as in the table before"


def tested(compared: Sequence[Mapping[str, Any]]) -> str:
    """What the last column holds. compared: its comparisons, of which others of the family may stand in another table."""
    if not compared:
        return ""
    family, over = compared[0]["family"], compared[0]["p_over"]
    several = f"all {family} comparisons with both budgets" if family > len(compared) else f"{family}"
    return (
        " Last column: mean Dice of all classes, 95 % interval over cases and seeds, p of Wilcoxon's signed ranks by Holm over "
        f"{several}, {over}."
    )


def said(found: Figures, budget: Budget) -> list[str]:
    """Ways that forget little because they learn little."""
    idle = [name_of(rival_of(way)) for way, of in found.items()
            if mean(f["dice_new_classes"] for f in of) < 0.05 and mean(f["bwt"] for f in of) > -0.05]  # fmt: skip
    if not idle:
        return []
    does = "forget little because they learn little" if len(idle) > 1 else "forgets little because it learns little"  # fmt: skip
    where = f"{budget.value.capitalize()}, " if budget.value else ""
    return [f"{where}{' and '.join(idle)} {does}: see the Dice of the new classes."]


def short_budget(seeds: Sequence[Seed]) -> list[str]:
    """What to know of a result from before rivals had a budget of steps in which a class is learnt."""
    if not of_one_budget(seeds):
        return []
    return [
        "Rivals had about the time of continual tuning alone, in which not even fine-tuning learns the new class: what their columns show is the "
        "budget as well. PLOP was of an earlier form, which left most of the background out. Both are mended and to be measured anew."
    ]
