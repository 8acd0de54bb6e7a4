"""The paper's two tables by organ, published and ours of each backbone, round by round, and what differs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import mean
from typing import Any

from ctune.bench.paper.tables import BY_ORGAN, FIGURE_1, GROUPS, RIVALS, compared, key_of, last
from ctune.bench.report.tables import (
    Chapter,
    Table,
    Tile,
    difference,
    mean_dice,
    organ,
    ranged,
    seed_count,
    seeds_of,
    short,
    signed,
    spread,
)
from ctune.bench.result import BenchResult
from ctune.classes import NEW_FOUR, NINE_ORGANS, OLD_FIVE

TITLES = {
    "table 1": "Table 1 of the paper: the base knows nine organs, four of them from bad annotations",
    "table 2": "Table 2 of the paper: the base never saw four of the nine organs",
}
BACKBONES = {"unet_small": "U-Net", "unet": "U-Net", "swin_unetr": "Swin UNETR"}
_FIRST = ("unet_small", "unet")
LOST = 0.05
"""Mean Dice of a class below which a way has not found it, and a fall of the old organs that is told."""
POOR = 0.6
"""Mean Dice of the old organs before any round below which a base is too poor to conclude anything from its rounds."""


def tables(result: BenchResult) -> Chapter:
    """Every way after each round; ways that gave the same figures stand in one row."""
    seeds, scales = seeds_of(result), scales_of(result)
    # A result has its backbones in the order of their names; the U-Net, whose base is the better one on a CPU, stands first.
    seeds = [
        {name: seed[name] for name in sorted(seed, key=lambda n: (n not in _FIRST, n))} for seed in seeds
    ]
    main = next(iter(seeds[0]))
    every = compared(seeds, main)
    found = every[RIVALS[0]]
    shown = [by_organ(seeds, backbone, setting) for setting in TITLES for backbone in seeds[0]]
    short_, tiles = list[str](), list[Tile]()
    if second := found.get("table 2"):
        words = f"Dice of {len(NEW_FOUR)} organs that the base never saw: heads from hybrid data less all weights from full data"
        tiles.append(Tile(signed(second["mean"]), words, f"95 % [{short(second['low'])}, {short(second['high'])}], n = {second['cases']}"))  # fmt: skip
    for backbone in seeds[0]:
        keys = {setting: key_of(setting, backbone, main) for setting in TITLES}
        if told := "; ".join(
            f"{setting}: {found[key]['said']}" for setting, key in keys.items() if key in found
        ):
            short_.append(
                f"The paper's tables on phantoms, {BACKBONES[backbone]}, hybrid data through heads less full data through all "
                f"weights, four revised organs: {told}."
            )
    return Chapter(
        "The paper's tables",
        short_,
        said(seeds, every, scales),
        tiles,
        [*shown, by_round(seeds), differences(every, seeds), differs(seeds, scales, result)],
    )


def scales_of(result: BenchResult) -> Mapping[str, Mapping[str, Any]]:
    """{backbone: its sizes} as the result says; empty of one that does not."""
    return dict(result.details.get("scales", {}))  # type: ignore[arg-type]


def by_organ(seeds: Sequence[Any], backbone: str, setting: str) -> Table:
    """Rows: what was published of this backbone, and ours; columns: organs and the means of both groups."""
    printed = published_of(setting, backbone)
    rows = [[f"published: {way}", *(short(dice[n]) for n in NINE_ORGANS),
             *(short(mean(dice[n] for n in group)) for group in GROUPS.values())]
            for way, dice in printed.items()]  # fmt: skip
    cells = [seed[backbone][setting] for seed in seeds]
    rows.append(_row("ours: before", [cell["before"] for cell in cells]))
    for ways, name in alike(cells).items():
        for number in range(len(cells[0][ways[0]])):
            rows.append(
                _row(f"ours: {name}, round {number + 1}", [cell[ways[0]][number]["dice"] for cell in cells])
            )
    tests = len(next(iter(cells[0]["before"].values())))
    theirs = "" if printed else f" The paper prints no {BACKBONES[backbone]} here."
    caption = (
        f"Dice on {tests} phantoms that no training saw, {seed_count(len(seeds))}: mean, and lowest to highest of the seeds. Revised are "
        f"{', '.join(map(organ, NEW_FOUR))}.{theirs}"
    )
    columns = ["", *map(organ, NINE_ORGANS), *(f"mean of the {group}" for group in GROUPS)]
    return Table(f"{TITLES[setting]}. {BACKBONES[backbone]}", columns, rows, caption)


def by_round(seeds: Sequence[Any]) -> Table:
    """Figure 1 of the paper: all nine organs, round by round, where the base never saw four of them."""
    rows = [
        [name, *("not said" if v is None else short(v, 3) for v in values)]
        for name, values in FIGURE_1.items()
    ]
    for backbone in seeds[0]:
        cells = [seed[backbone]["table 2"] for seed in seeds]
        for way, named in (("hybrid, heads", "continual"), ("full, all", "full")):
            if all(way in cell for cell in cells):
                rounds = zip(*(cell[way] for cell in cells), strict=True)
                dice = [
                    spread([mean_dice(one["dice"], NINE_ORGANS) for one in number], 3) for number in rounds
                ]
                rows.append([f"ours: {named}, {BACKBONES[backbone]}", *dice])
    tests = len(next(iter(seeds[0][next(iter(seeds[0]))]["table 2"]["before"].values())))
    return Table(
        "Figure 1 of the paper: mean of the nine organs, round by round",
        ["", *(f"round {number + 1}" for number in range(len(rows[-1]) - 1))],
        rows,
        f"Continual: hybrid data through heads; full: full data through all weights. Ours: phantoms ({tests} to test on with the first backbone), "
        f"{seed_count(len(seeds))}, mean, and lowest to highest. The speed-up of 16 that stands beside the published figure is a ratio of cases.",
    )


def lost(seeds: Sequence[Any], found: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """What makes a rival's mean worth little: organs that it never finds, and labelled ones that it had found before."""
    out, main = list[str](), next(iter(seeds[0]))
    for key in found:
        setting, _, backbone = key.partition(", ")
        cells = [seed[backbone or main][setting] for seed in seeds]
        ends = [(last(cell["hybrid, heads"]), last(cell["full, all"])) for cell in cells]
        gone = [n for n in NEW_FOUR if all(mean_dice(theirs, [n]) < LOST for _, theirs in ends)]
        rest = [n for n in NEW_FOUR if n not in gone]
        if gone and rest:
            both = (spread([mean_dice(side, rest) for side in sides]) for sides in zip(*ends, strict=True))
            ours, theirs = both
            out.append(
                f"{_spelled(key, seeds)}: full data through all weights has not found the {' and '.join(map(organ, gone))} in any seed, so that its "
                f"mean says little; on the others heads have {ours}, all weights {theirs}."
            )
        before = mean(mean_dice(cell["before"], OLD_FIVE) for cell in cells)
        after = mean(mean_dice(last(cell["full, all"]), OLD_FIVE) for cell in cells)
        if before - after > LOST:
            out.append(
                f"{_spelled(key, seeds)}: full data through all weights, which labels the old five too, has {short(after)} on them where the base had "
                f"{short(before)}: the rounds do not bring the network back, and the rival is worse than it could be."
            )
    return out


def published_of(setting: str, backbone: str) -> Mapping[str, Mapping[str, float]]:
    """{way: {organ: Dice}} that the paper prints for this backbone in this setting; empty where it prints none."""
    if BACKBONES[backbone] == "Swin UNETR":
        return BY_ORGAN[setting]
    return BY_ORGAN.get(f"{setting}, unet", {})


def alike(cells: Sequence[Mapping[str, Any]]) -> dict[tuple[str, ...], str]:
    """{ways that gave the same Dice in every seed and round: their name}."""
    kinds = [way for way in cells[0] if way != "before"]
    order = sorted(kinds, key=_order)
    groups: list[list[str]] = []
    for way in order:
        for group in groups:
            if all(_dice(cell[group[0]]) == _dice(cell[way]) for cell in cells):
                group.append(way)
                break
        else:
            groups.append([way])
    return {
        tuple(group): f"{' or '.join(way.partition(',')[0] for way in group)}, {group[0].partition(', ')[2]}"
        for group in groups
    }


_DATA = ("revised-only", "hybrid", "full")


def _order(way: str) -> tuple[bool, int]:
    """Heads before all weights, and the data from little to much."""
    return way.endswith("all"), _DATA.index(way.partition(",")[0])


def _dice(rounds: Sequence[Mapping[str, Any]]) -> list[Any]:
    return [one["dice"] for one in rounds]


def _row(name: str, dice: Sequence[Mapping[str, Mapping[str, float | None]]]) -> list[str]:
    known = [spread([mean_dice(d, [n]) for d in dice]) if n in dice[0] else "no head" for n in NINE_ORGANS]
    return [name, *known, *(spread([mean_dice(d, names) for d in dice]) for names in GROUPS.values())]


def differences(every: Mapping[str, Mapping[str, Mapping[str, Any]]], seeds: Sequence[Any]) -> Table:
    """Every setting, backbone and rival beside each other."""
    found = [(rival, name, one) for rival, tables in every.items() for name, one in tables.items()]
    rows = [
        [_spelled(name, seeds), f"{rival.partition(',')[0]} data", difference(one), str(one["cases"]), one["said"].partition(" (")[0]]
        for rival, name, one in found
    ]  # fmt: skip
    one = found[0][2]
    caption = (
        f"Four revised organs after the last round: difference of Dice, 95 % interval over cases and seeds, p of Wilcoxon's "
        f"signed ranks by Holm over all {one['family']}, the trainings as given; margin {one['margin']:g}."
    )
    return Table("Hybrid data through heads less all weights", ["", "all weights have", "difference", "cases", "said"], rows, caption)  # fmt: skip


def _spelled(key: str, seeds: Sequence[Any]) -> str:
    """A key of ``tables.key_of`` in words; where no backbone is named it is the first."""
    setting, _, backbone = key.partition(", ")
    return f"{setting[:1].upper()}{setting[1:]}, {BACKBONES[backbone or next(iter(seeds[0]))]}"


def said(
    seeds: Sequence[Any], every: Mapping[str, Mapping[str, Mapping[str, Any]]], scales: Mapping[str, Any]
) -> list[str]:
    """What may be concluded, and what may not."""
    out = [
        f"{_spelled(name, seeds)}, against {rival.partition(',')[0]} data through all weights: {one['said']}."
        for rival, tables in every.items()
        for name, one in tables.items()
    ]
    out += lost(seeds, every[RIVALS[0]])
    cells = [seed[backbone][setting] for seed in seeds for backbone in seed for setting in TITLES]
    both = [(cell["revised-only, heads"], cell["hybrid, heads"]) for cell in cells if {"revised-only, heads", "hybrid, heads"} <= set(cell)]  # fmt: skip
    if both and all(_dice(a) == _dice(b) for a, b in both):
        out.append(
            'Through heads "hybrid" and "revised-only" are the same to the last digit: a head trains on the revised cases of its '
            "class alone, and hybrid annotation adds only other classes to them, which have heads of their own."
        )
    out += few_steps(seeds)
    for backbone in seeds[0]:
        before = [mean(mean_dice(seed[backbone][s]["before"], OLD_FIVE) for seed in seeds) for s in TITLES]
        if min(before) < POOR:
            cases = f", trained on {scales[backbone]['cases']} cases," if backbone in scales else ""
            out.append(
                f"The {BACKBONES[backbone]} base{cases} is too poor to conclude anything from it: {' and '.join(map(short, before))} on the "
                "old five organs before any round. Training all weights goes on training that base, heads cannot."
            )
    return out


def few_steps(seeds: Sequence[Any]) -> list[str]:
    """Where all weights have the same epochs and not the same steps, so that two rows differ by more than their data."""
    out = []
    for backbone in seeds[0]:
        steps = {
            way: [sum(r["steps"] for r in seed[backbone][setting][way]) for seed in seeds for setting in TITLES if way in seed[backbone][setting]]
            for way in ("hybrid, all", "full, all")
        }  # fmt: skip
        few, many = steps.values()
        if few and many and max(few) < min(many):
            out.append(
                f"{BACKBONES[backbone]}: through all weights every data has the same epochs, and so hybrid and revised-only data {ranged(few)} steps where "
                f"full data has {ranged(many)}: they differ by more than their labels."
            )
    return out


def differs(seeds: Sequence[Any], scales: Mapping[str, Mapping[str, Any]], result: BenchResult) -> Table:
    """What one has to know before laying our figures beside the published ones."""
    rows, names = [], list(seeds[0])
    for words, key, theirs in _PUBLISHED_SIZES:
        rows.append([words, theirs, *(str(scales.get(name, {}).get(key, "not kept")) for name in names)])
    for setting in TITLES:
        for way in sorted(
            {way for seed in seeds for name in names for way in seed[name][setting]} - {"before"}, key=_order
        ):
            counts = [[sum(r["steps"] for r in seed[name][setting][way]) for seed in seeds if way in seed[name][setting]] for name in names]  # fmt: skip
            rows.append([f"steps of both rounds, {setting}, {way}", "not said", *(ranged(c) if c else "not measured" for c in counts)])  # fmt: skip
    rows.append(["seeds", "not said", *[str(len(seeds))] * len(names)])
    return Table(
        "What differs",
        ["", "published", *(f"ours, {BACKBONES[name]}" for name in names)],
        rows,
        f"Steps through heads are those of all revised classes together. And further: {result.details.get('differs', '')}.",
    )


_PUBLISHED_SIZES = (
    ("training cases", "cases", "table 2: 200 CTs; table 1: 14 data sets"),
    ("revised cases", "revised", "stomach 11, aorta 12, postcava 6, gall bladder 1"),
    ("test cases", "tests", "not said"),
    ("epochs of the base", "epochs", "250"),
    ("epochs of a round, all weights", "whole_epochs", "100, by its public code"),
    ("epochs of a round, heads", "tune_epochs", "100, by its public code"),
)
