"""What is told of five rounds that add one class each: what every way keeps, loses and learns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import mean
from typing import Any

from ctune.bench.forgetting.figures import CONTINUAL, MARGIN, way_figures
from ctune.bench.forgetting.plots import name_of, ways_of
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
from ctune.bench.statistics import case_differences, comparisons, shares_cases


def tables(result: BenchResult) -> Chapter:
    """One row a way, means over the seeds; what must not happen at all by the worst seed."""
    seeds = seeds_of(result)
    ways = ways_of(seeds)
    found = {
        way: [way_figures(s["base"], s["ways"][way]) for s in seeds if s["ways"].get(way)] for way in ways
    }
    rivals = against(seeds, ways, shares_cases(result.data))
    best = max((w for w in ways if w != CONTINUAL), key=lambda w: mean(f["acc"] for f in found[w]), default=None)  # fmt: skip
    ours = found[CONTINUAL]
    drop = max(f["max_case_drop"] for f in ours)
    kept = f"after {len(seeds[0]['ways'][CONTINUAL])} rounds continual tuning has lost {figure(drop)} Dice in its worst case"
    head = f"Forgetting: {kept} ({seed_count(len(seeds))})"
    tiles = [Tile(figure(drop), "largest fall of one class in one case since it was learnt, continual tuning", f"the worst of {seed_count(len(seeds))}")]  # fmt: skip
    if best:
        one = rivals[best]
        head += (
            f"; mean Dice of all classes less that of {name_of(best)}, the best of its rivals: {one['said']}"
        )
    verdicts = [*said(found), *short_budget(result.measures)]
    return Chapter("Forgetting", [f"{head}."], verdicts, tiles, [by_way(seeds, ways, found, rivals)])


def against(seeds: Sequence[Any], ways: Sequence[str], shared: bool) -> dict[str, dict[str, Any]]:
    """Continual tuning less each rival after the last round, all classes; one family for Holm."""
    last = [{way: rounds[-1]["dice"] for way, rounds in seed["ways"].items() if rounds} for seed in seeds]
    rivals = {
        way: [case_differences(s[CONTINUAL], s[way], sorted(s[way])) for s in last if way in s]
        for way in ways
        if way != CONTINUAL
    }
    return comparisons(rivals, MARGIN, shared) if rivals else {}


def by_way(
    seeds: Sequence[Any],
    ways: Sequence[str],
    found: Mapping[str, Sequence[Mapping[str, float]]],
    rivals: Mapping[str, Mapping[str, Any]],
) -> Table:
    """ACC, BWT, F and what stands behind them."""
    rows = []
    for way in ways:
        of = found[way]
        rounds = [[stage["steps"] for stage in s["ways"][way]] for s in seeds if s["ways"].get(way)]
        rows.append([
            name_of(way), spread([f["acc"] for f in of], 3), spread([f["bwt"] for f in of], 3),
            spread([f["forgetting"] for f in of], 3), spread([max(f["max_case_drop"] for f in of)]),
            f"{sum(f['voxels_changed'] for f in of):,.0f}", spread([f["dice_new_classes"] for f in of], 3),
            ranged([mean(steps) for steps in rounds]), ranged([f["learning_seconds"] for f in of]),
            difference(rivals[way]) if way in rivals else "",
        ])  # fmt: skip
    cases = len(next(iter(seeds[0]["base"]["dice"].values())))
    one = next(iter(rivals.values()), None)
    tested = f" Last column: mean Dice of all classes, 95 % bootstrap interval over cases and seeds, p of Wilcoxon's signed ranks by Holm over {one['family']}, {one['p_over']}." if one else ""  # fmt: skip
    caption = (
        f"{seed_count(len(seeds))}, {cases} test cases; mean, and lowest to highest of the seeds. ACC: mean Dice of all classes after the last "
        "round; BWT: mean change of a class since the round that learnt it; F: mean fall from its best; largest fall: of one class in one case, "
        "worst seed; voxels: of masks of classes that a round did not revise, all rounds, cases and seeds; seconds: processor seconds of "
        f"learning, all rounds.{tested}"
    )
    columns = ["", "ACC", "BWT", "F", "largest fall", "voxels changed", "Dice of the new classes", "steps a round", "seconds", "continual less it"]  # fmt: skip
    return Table("What is kept, lost and learnt", columns, rows, caption)


def said(found: Mapping[str, Sequence[Mapping[str, float]]]) -> list[str]:
    """Ways that forget little because they learn little."""
    idle = [name_of(way) for way, of in found.items()
            if mean(f["dice_new_classes"] for f in of) < 0.05 and mean(f["bwt"] for f in of) > -0.05]  # fmt: skip
    if not idle:
        return []
    return [f"{' and '.join(idle)} forget little because they learn little: see the Dice of the new classes."]


def short_budget(measures: Mapping[str, Any]) -> list[str]:
    """What to know of a result from before rivals had a budget of steps in which a class is learnt."""
    if "steps_a_round_by_way" in measures:
        return []
    return [
        "Rivals had about the time of continual tuning alone, in which not even fine-tuning learns the new class: what their columns show is the "
        "budget as well. PLOP was of an earlier form, which left most of the background out. Both are mended and to be measured anew."
    ]
