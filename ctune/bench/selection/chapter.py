"""What is told of selection: what importance finds, and what each way of choosing costs the expert."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import mean
from typing import Any

from ctune.bench.report.tables import (
    Chapter,
    Table,
    Tile,
    ranged,
    seed_count,
    seeds_of,
    short,
    spread,
)
from ctune.bench.result import BenchResult
from ctune.bench.selection.plots import RECIPES, WAY_NAMES, worth_of


def tables(result: BenchResult) -> Chapter:
    """Regions and ranks of every data set; minutes and Dice of those where rounds were run."""
    # Imported here: with it comes what reads cohorts, which a list of benchmarks does not need.
    from ctune.bench.selection.figures import ENDS

    seeds = seeds_of(result)
    sets = {data: [seed[data] for seed in seeds if data in seed] for data in ENDS}
    sets = {data: found for data, found in sets.items() if found}
    shown, heads, tiles = [finding(sets)], list[str](), list[Tile]()
    first = next(iter(sets))
    ours = [one["ctune"] for one in map(figures_of, sets[first])]
    found = spread([one["sensitivity"] or 0.0 for one in ours])
    right = spread([one["precision"] or 0.0 for one in ours])
    heads.append(f"Selection: attention finds {found} of the error regions of {first}, {right} of what it attends to holds one ({seed_count(len(ours))})")  # fmt: skip
    for data, of in sets.items():
        worth = worth_of(of)
        if not worth:
            continue
        shown.append(strategies(data, worth))
        ratios = [one for one in ratios_of(worth).get("ctune", []) if one is not None]
        if ratios:
            # A seed without a ratio never came there, or random choice gained nothing: its silence is told, not left out.
            reached = f"{len(ratios)} of {seed_count(len(worth))}" if len(ratios) < len(worth) else ""
            span = f"seeds {short(min(ratios))} to {short(max(ratios))}" if len(worth) > 1 else "one seed"
            span = f"{reached}: {span}" if reached else span
            where = f"in {reached}, in the others it does not come there or random choice gains nothing" if reached else seed_count(len(worth))  # fmt: skip
            heads.append(f"{data}: importance needs {spread(ratios)} of the minutes of random choice for the Dice with which that ends ({where})")  # fmt: skip
            tiles.append(Tile(short(mean(ratios)), f"expert minutes to the Dice that random choice ends with, over its minutes: {data}", span))  # fmt: skip
    return Chapter("Selection", [f"{'; '.join(heads)}."], [], tiles[:1], shown)


def figures_of(one: Mapping[str, Any]) -> dict[str, dict[str, float | None]]:
    """{recipe: {figure: value}} of one seed of one data set."""
    from ctune.bench.selection.figures import regions_of
    from ctune.bench.selection.finding import ranking

    out = {}
    for recipe in RECIPES:
        regions = regions_of(one, recipe)
        found = one["finding"]
        out[recipe] = {
            "sensitivity": regions.sensitivity, "precision": regions.precision,
            "attention_over_error_volume": regions.volume_ratio,
            **ranking(found["recipes"][recipe]["score"], found["dice"]),
        }  # fmt: skip
    return out


def finding(sets: Mapping[str, Sequence[Mapping[str, Any]]]) -> Table:
    """One row a data set and recipe."""
    names = (
        "sensitivity",
        "precision",
        "attention_over_error_volume",
        "spearman",
        "worst_tenth_in_first_fifth",
    )
    rows = []
    for data, found in sets.items():
        seeds = [figures_of(one) for one in found]
        for recipe, words in RECIPES.items():
            cells = [[v for s in seeds if (v := s[recipe][name]) is not None] for name in names]
            rows.append([f"{data}: {words}", *(spread(v) if v else "none" for v in cells), str(len(found))])
    return Table(
        "What importance finds",
        ["", "errors found", "attended regions that hold one", "volume of attention over that of errors",
         "rank correlation with 1 - Dice", "worst tenth in the first fifth", "seeds"],
        rows,
        "An error region has at least .2 mL after an opening by one voxel; a tenth of it must be attended. Mean, and lowest to highest of the "
        "seeds, each with its regions together. Last share: how much of the worst tenth of the cases the first fifth of the queue holds.",
    )  # fmt: skip


def ratios_of(worth: Sequence[Mapping[str, Any]]) -> dict[str, list[float | None]]:
    """{way of choosing: minutes to the Dice that random choice ends with over its minutes, seed by seed}."""
    from ctune.bench.selection.figures import curve, ratios_to_random

    found = [ratios_to_random({way: curve(rounds) for way, rounds in one.items()}) for one in worth]
    return {way: [one.get(way) for one in found] for way in found[0]}


def strategies(data: str, worth: Sequence[Mapping[str, Any]]) -> Table:
    """One row a way of choosing."""
    from ctune.bench.selection.figures import curve

    ratios, rows = ratios_of(worth), []
    for way, words in WAY_NAMES.items():
        curves = [curve(one[way]) for one in worth if way in one]
        if not curves:
            continue
        reached = [r for r in ratios[way] if r is not None]
        never = len(curves) - len(reached)
        said = spread(reached) if reached else "never comes there"
        rows.append([words, spread([c[0][1] for c in curves], 3), spread([c[-1][1] for c in curves], 3),
                     ranged([c[-1][0] for c in curves]),
                     said + (f", in {len(reached)} of {len(curves)} seeds" if reached and never else "")])  # fmt: skip
    rounds = len(next(iter(worth[0].values()))["rounds"])
    return Table(
        f"What the expert's minutes are worth: {data}",
        ["", "Dice before", "Dice at the end", "minutes in all", "minutes to the last Dice of random (its own: 1)"],
        rows,
        f"{rounds} rounds of the product, {seed_count(len(worth))}; mean, and lowest to highest of the seeds. Minutes are a model of an expert, not "
        "measured.",
    )  # fmt: skip
