"""What is told of selection: what importance finds, what each way of choosing costs the expert, and which ends higher."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from ctune.bench.report.tables import (
    Chapter,
    Table,
    Tile,
    ends,
    p_value,
    ranged,
    seed_count,
    seeds_of,
    short,
    signed,
    spread,
)
from ctune.bench.result import BenchResult
from ctune.bench.selection.compared import OURS, against, gain, with_rounds
from ctune.bench.selection.plots import RECIPES, WAY_NAMES, made_from
from ctune.bench.statistics import SEEDS_ASKED, Interval

if TYPE_CHECKING:
    from ctune.bench.selection.figures import Across

_LEVEL = 0.05
_FEW = 0.1
"""Share of the cases up to which they are few."""


def tables(result: BenchResult) -> Chapter:
    """Regions and ranks of every data set; minutes and Dice of those where rounds were run."""
    # Imported here: with it comes what reads cohorts, which a list of benchmarks does not need.
    from ctune.bench.selection.figures import ENDS, across, found_in, ratios, ratios_by_seed

    seeds = seeds_of(result)
    sets = {data: [seed[data] for seed in seeds if data in seed] for data in ENDS}
    sets = {data: found for data, found in sets.items() if found}
    if not sets:
        return Chapter("Selection")  # a run of what is measured once
    shown, heads, notes, tiles = [finding(sets)], list[str](), list[str](), list[Tile]()
    first = next(iter(sets))
    figures = across(sets[first], found_in)
    found, right = (_pooled(figures[name][OURS]) for name in ("sensitivity", "precision"))
    heads.append(f"Selection: attention finds {found} of the error regions of {first}, {right} of what it attends to holds one ({seed_count(len(sets[first]))})")  # fmt: skip
    for data, ran in ((data, with_rounds(found)) for data, found in sets.items()):
        if not ran:
            continue
        by_seed, gained = ratios_by_seed([one["worth"] for one in ran]), gain(ran)
        decided = ratios(by_seed)
        shown.append(strategies(data, ran, by_seed, decided, gained))
        if compared := against(ran):
            shown.append(compared_table(data, ran, compared))
            notes.append(compared_in_words(data, compared))
        ours, ratio = [one for one in by_seed[OURS] if one is not None], decided[OURS]
        heads.append(f"{data}: {minutes_in_words(ours, len(ran), gained)}")
        if ratio is not None:
            tiles.append(Tile(short(ratio), f"expert minutes to the Dice that random choice ends with, over its minutes: {data}", f"whole rounds, {_seeds(ours)}"))  # fmt: skip
    # What is not decided is no figure for the head of the page: then what attention finds stands there.
    of = figures["sensitivity"][OURS]
    other = Tile(short(of.value or 0.0), f"share of the error regions that attention finds: {first}", _seeds(of.seeds))  # fmt: skip
    return Chapter("Selection", [f"{'; '.join(heads)}."], notes, [*tiles, other][:1], shown)


def minutes_in_words(reached: Sequence[float], seeds: int, gained: Interval) -> str:
    """How many minutes importance needs. reached: ratios of the seeds that come there; gained: by random choice."""
    choice, goal = "of the minutes of random choice", "for the Dice with which that ends"
    count, from_it = seed_count(seeds), f"{gain_in_words(gained)} from where it began"
    if len(reached) == seeds:
        return f"importance needs {spread(reached)} {choice} {goal}, {from_it}, in whole rounds ({count})"
    some = f"in {seeds - len(reached)} of {count} it does not come there, or random choice gains nothing"
    return f"how many {choice} importance needs {goal}, {from_it}, is not decided: {some}"


def _seeds(values: Sequence[float]) -> str:
    if len(values) < 2:
        return "one seed"
    return f"seeds {short(min(values))} to {short(max(values))}"


def finding(sets: Mapping[str, Sequence[Mapping[str, Any]]]) -> Table:
    """One row a data set and recipe."""
    from ctune.bench.selection.figures import across, found_in, with_arm
    from ctune.bench.selection.finding import PLAIN, SEVERAL, VIEWS

    names = (
        "sensitivity",
        "precision",
        "attention_over_error_volume",
        "spearman",
        "worst_tenth_in_first_fifth",
    )
    rows = []
    for data, every in sets.items():
        for arm in (PLAIN, VIEWS, SEVERAL):
            if not (found := with_arm(every, arm)):
                continue
            figures = across(found, partial(found_in, arm=arm))
            # The published recipe uses no views: its row would stand there twice.
            for recipe in RECIPES if arm != VIEWS else (OURS,):
                cells = [_pooled(figures[name][recipe]) for name in names]
                rows.append([f"{data}: {RECIPES[recipe]}{made_from(arm, found)}", *cells, str(len(found))])
    return Table(
        "What importance finds",
        ["", "errors found", "attended regions that hold one", "volume of attention over that of errors",
         "rank correlation with 1 - Dice", "worst tenth in the first fifth", "seeds"],
        rows,
        "An error region has at least .2 mL after an opening by one voxel; a tenth of it must be attended. Regions and volumes of all seeds "
        "together, ranks and shares as means over the seeds; and lowest to highest of the seeds. Last share: how much of the worst tenth "
        "of the cases the first fifth of the queue holds. Where nothing else is said, scores are made from one pass of one model; views: mirror images, of "
        "the hippocampus images 4 mm elsewhere, two passes more; models: trained alike from other seeds, judged by the mask of their mean.",
    )  # fmt: skip


def _pooled(figure: Across) -> str:
    """The figure of all seeds, and in brackets what it is in the lowest and the highest."""
    if figure.value is None:
        return "none"
    low, high = min(figure.seeds), max(figure.seeds)
    return short(figure.value) + (f" ({short(low)} to {short(high)})" if low != high else "")


def strategies(
    data: str,
    found: Sequence[Mapping[str, Any]],
    by_seed: Mapping[str, Sequence[float | None]],
    decided: Mapping[str, float | None],
    gained: Interval,
) -> Table:
    """One row a way of choosing. by_seed, decided: ratios of minutes; gained: by random choice."""
    from ctune.bench.selection.figures import curve

    worth, rows = [one["worth"] for one in found], []
    for way, words in WAY_NAMES.items():
        curves = [curve(one[way]) for one in worth if way in one]
        if not curves:
            continue
        reached = [r for r in by_seed[way] if r is not None]
        # The mean of those seeds alone that come there would be of those that do well.
        some = f"comes there in {len(reached)} of {seed_count(len(worth))}"
        said = spread(reached) if len(reached) == len(worth) else some
        said = said if decided[way] is not None else f"not decided; {said}"
        rows.append([words, spread([c[0][1] for c in curves], 3), spread([c[-1][1] for c in curves], 3),
                     ranged([c[-1][0] for c in curves]), said])  # fmt: skip
    rounds = len(next(iter(worth[0].values()))["rounds"])
    return Table(
        f"What the expert's minutes are worth: {data}",
        ["", "Dice before", "Dice at the end", "minutes in all", "minutes to the last Dice of random, over all of random's"],
        rows,
        f"{rounds} rounds of the product, {seed_count(len(worth))}; mean, and lowest to highest of the seeds. Minutes are a model of an expert, not "
        "measured. Whole rounds are counted, to the first after which a way is there: less than one cannot be measured. Not decided: where a seed does not come "
        f"there, or random choice gains nothing in it; over all it gains {gain_in_words(gained)}.",
    )  # fmt: skip


def gain_in_words(gained: Interval) -> str:
    """
    >>> gain_in_words(Interval(0.01, -0.001, 0.02, cases=100, seeds=5))
    '+.010 Dice [-.001, .020]'
    """
    return f"{signed(gained.mean, 3)} Dice {ends(gained, 3)}"


# Importance less each other way ---------------------------------------------------------------------------------------


def compared_table(
    data: str, found: Sequence[Mapping[str, Any]], compared: Mapping[str, Mapping[str, Any]]
) -> Table:
    """One row for each other way. compared: of ``against``."""
    from ctune.bench.selection.cohort import HIPPOCAMPUS

    rows = [
        [WAY_NAMES[way], f"{signed(one['mean'], 3)} {ends(_interval(one), 3)}", f"{one['higher']} : {one['lower']} : {one['equal']}",
         p_value(one["p"]), p_value(one["p_holm"]), _verdict(one)]
        for way, one in sorted(compared.items(), key=lambda pair: list(WAY_NAMES).index(pair[0]))
    ]  # fmt: skip
    one, again = next(iter(compared.values())), ""
    # Phantoms are drawn anew for each seed and only named alike.
    names = {case for seed in found for dice in seed["worth"][OURS]["before"].values() for case in dice}
    if data == HIPPOCAMPUS and len(names) < one["cases"]:
        again = f" The {one['cases']} are {len(names)} images: one that was a test case of several seeds counts in each."
    return Table(
        f"Importance less each other way: {data}",
        ["importance less", "Dice after the last round", "cases higher : lower : equal", "p", "p by Holm", "what may be said"],
        rows,
        f"Paired by case, {seed_count(len(found))}; 95 % interval over cases and seeds. p: Wilcoxon's signed ranks over {one['p_over']}; by Holm over "
        f"{one['family']} comparisons. Non-inferior: the interval is above -{short(one['margin'])}.{again}",
    )  # fmt: skip


_KINDS = {
    "not decided": f"cannot be judged from fewer than {SEEDS_ASKED} seeds against",
    "better": "is better than",
    "higher in the mean alone": "is higher in the mean, but not case by case, than",
    "not shown to be better": "is not shown to be better than",
    "worse": "is worse than",
}
"""{what a comparison shows: how a sentence says it}, in the order in which they are told."""


def _kind(one: Mapping[str, Any]) -> str:
    if one["seeds"] < SEEDS_ASKED:
        return "not decided"
    if one["low"] > 0:
        # The interval is of the mean, which few cases can carry; the test is of ranks, in which each counts as one.
        return "better" if one["p_holm"] < _LEVEL else "higher in the mean alone"
    return "worse" if one["high"] < 0 else "not shown to be better"


def _verdict(one: Mapping[str, Any]) -> str:
    kind, also = _kind(one), "non-inferior" if one["non_inferior"] else "not shown to be non-inferior"
    return kind if kind in ("not decided", "better") else f"{kind}; {also}"


def compared_in_words(data: str, compared: Mapping[str, Mapping[str, Any]]) -> str:
    """What the table shows, in a sentence. compared: of ``against``."""
    told: dict[str, list[str]] = {}
    for way, one in sorted(compared.items(), key=lambda pair: list(WAY_NAMES).index(pair[0])):
        words = f"{WAY_NAMES[way]} ({signed(one['mean'], 3)} {ends(_interval(one), 3)}{_aside(one)})"
        told.setdefault(_kind(one), []).append(words)
    said = [f"{words} {_listed(told[kind])}" for kind, words in _KINDS.items() if kind in told]
    return f"{data[:1].upper()}{data[1:]}, Dice after the last round with 95 % intervals: importance {'; it '.join(said)}."


def _aside(one: Mapping[str, Any]) -> str:
    """What the interval does not tell."""
    kind, by_holm = _kind(one), p_value(one["p_holm"]).removeprefix("p ")
    p = f"Wilcoxon's {p_value(one['p'])}, by Holm {by_holm}"
    if kind == "higher in the mean alone":
        few = "a few cases carry it: " if one["carried_by"] <= _FEW * one["cases"] else ""
        return f", {p}; {few}without {one['carried_by']} of {one['cases']} nothing is left"
    if kind == "not shown to be better" and one["p_holm"] < _LEVEL:
        side = "lower" if one["lower"] > one["higher"] else "higher"
        return f", yet {side} in {one[side]} of {one['cases']} cases, {p}"
    return ""


def _interval(one: Mapping[str, Any]) -> Interval:
    return Interval(**{name: one[name] for name in ("mean", "low", "high", "cases", "seeds", "shared")})


def _listed(names: Sequence[str]) -> str:
    """
    >>> _listed(["a"]), _listed(["a", "b", "c"])
    ('a', 'a, b or c')
    """
    return " or ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
