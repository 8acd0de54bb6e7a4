"""What is told of continual tuning against full training: Dice by organ, differences with their intervals, and what it cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import mean
from typing import Any

from ctune.bench.report.tables import (
    Chapter,
    Table,
    Tile,
    difference,
    each,
    ends,
    figure,
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
from ctune.bench.speed.lengths import by_epochs, quickest
from ctune.bench.statistics import Differences, Interval, Verdict, case_differences, comparisons, shares_cases

WAYS = {
    "continual": ("continual", "pyramid"),
    "full, same annotations": ("full", "rival"),
    "full, all annotated": ("full", "ceiling"),
    "text head": ("continual", "text"),
}
"""Each way in words, and where its figures lie in a seed."""
RIVAL, CEILING = "full, same annotations", "full, all annotated"
MARGINS = {RIVAL: 0.01, CEILING: 0.06}
"""How much lower the mean over the new classes may be; the second is how near to the ceiling it was to come."""
LOST = 0.05
"""Mean Dice of a class below which a way has not found it."""


HEADS = (
    "Heads differ too: a tuned class has a pyramid head, which reads every level of the frozen base; full training makes text "
    "heads, as the paper's network has them. The differences are of both. Pyramids in every way: the paper's tables, table 2."
)


def tables(result: BenchResult) -> Chapter:
    """Seeds may differ in their sizes and in the ways that they measured: each cell says from how many it comes."""
    seeds, real = seeds_of(result), result.what == "hippocampus"
    new = list(next(iter(seeds[0]["continual"].values()))["steps"])
    unit = "cpu_seconds" if result.device == "cpu" else "seconds"
    against = compare(seeds, new, shares_cases(result.data))
    costs = Costs(result, seeds, new, unit)
    said = [*verdicts(seeds, new, against), HEADS, costs.said(), *rising(seeds, new)]
    whole = against.get((RIVAL, ""))
    ratio = ranged(costs.times)
    where = "On real MR images of the hippocampus" if real else "On phantoms"
    head = f"{where} full training takes {ratio} times the {costs.seconds} of continual tuning ({seed_count(len(costs.times))})"
    tiles = [Tile(f"{mean(costs.times):.0f} times", f"{costs.seconds} of full training over continual tuning: {where.split(' ', 1)[1]}",
                  f"seeds {ranged(costs.times).partition(' ')[2].strip('()') or 'one'}")]  # fmt: skip
    if whole:
        interval, name = whole["interval"], "posterior part" if real else f"{len(new)} new organs"
        head += f"; Dice of the {name}, continual less full on the same annotations: {said_of(interval)}"
        words = f"Dice of the {name}, continual less full on the same annotations"
        tiles.append(Tile(signed(interval.mean, 3), words, f"95 % {ends(interval, 3)}, {interval.n}"))
    title = "The same on real MR images (hippocampus)" if real else "Continual against full training"
    shown = [
        dice_table(seeds, new),
        *([] if not against else [difference_table(against, new)]),
        costs.table(),
        *costs.lengths(),
    ]
    return Chapter(title, [f"{head}."], said, tiles, shown)


def said_of(interval: Interval) -> str:
    return f"{signed(interval.mean, 3)} (95 % interval {short(interval.low, 3)} to {short(interval.high, 3)}, {interval.n})"


def arm(seed: Mapping[str, Any], way: str) -> Mapping[str, Any] | None:
    """The figures of a way in a seed; None where it was not measured."""
    kind, name = WAYS[way]
    found: Mapping[str, Any] | None = seed.get(kind, {}).get(name)
    return found


def dice_table(seeds: Sequence[Any], new: Sequence[str]) -> Table:
    """Mean Dice by organ and way."""
    found = {way: [one["dice"] for seed in seeds if (one := arm(seed, way))] for way in WAYS}
    found = {way: dice for way, dice in found.items() if dice}
    rows = [[organ(n), *(spread([mean_dice(d, [n]) for d in dice]) for dice in found.values())] for n in new]
    if len(new) > 1:
        rows.append(
            ["mean of the new", *(spread([mean_dice(d, new) for d in dice]) for dice in found.values())]
        )
    old = [n for n in next(iter(found.values()))[0] if n not in new]
    rows.append(
        [f"mean of the {len(old)} old" if len(old) > 1 else f"{organ(old[0])} (old)",
         *(spread([mean_dice(d, old) for d in dice]) for dice in found.values())]
    )  # fmt: skip
    counts = {way: len(dice) for way, dice in found.items()}
    fewer = [f"{way}: {seed_count(n)}" for way, n in counts.items() if n < len(seeds)]
    cases = len(next(iter(next(iter(found.values()))[0].values())))
    caption = f"Mean Dice over {cases} test cases, {seed_count(len(seeds))}: mean, and lowest to highest of the seeds."
    return Table(
        "Dice by organ", ["", *found], rows, caption + (f" Fewer: {'; '.join(fewer)}." if fewer else "")
    )


def compare(seeds: Sequence[Any], new: Sequence[str], shared: bool) -> dict[tuple[str, str], dict[str, Any]]:
    """{(other, class, or "" for the mean of all): comparison, its Interval and its Verdict with it}; one family for Holm."""
    wanted: dict[tuple[str, str], Differences] = {}
    for other in (RIVAL, CEILING):
        both = [(ours["dice"], theirs["dice"]) for seed in seeds
                if (ours := arm(seed, "continual")) and (theirs := arm(seed, other))]  # fmt: skip
        groups = {"": list(new), **({n: [n] for n in new} if len(new) > 1 else {})}
        for name, classes in groups.items():
            if both:
                wanted[other, name] = [case_differences(a, b, classes) for a, b in both]
    numbered = {str(i): found for i, found in enumerate(wanted.values())}
    compared = list(comparisons(numbered, MARGINS[RIVAL], shared).values()) if numbered else []
    out = {}
    for key, found in zip(wanted, compared, strict=True):
        interval = Interval(
            **{n: found[n] for n in ("mean", "low", "high", "cases", "seeds")}, shared=bool(found["shared"])
        )
        out[key] = {**found, "interval": interval, "verdict": Verdict(interval, MARGINS[key[0]])}
    return out


def difference_table(against: Mapping[tuple[str, str], Mapping[str, Any]], new: Sequence[str]) -> Table:
    """Continual less each kind of full training, by organ."""
    others = list(dict.fromkeys(other for other, _ in against))
    names = [n for n in new if (others[0], n) in against]
    rows = [[organ(name) if name else ("mean of the new" if names else organ(new[0])),
             *(difference(against[other, name]) for other in others)]
            for name in [*names, ""]]  # fmt: skip
    one = next(iter(against.values()))
    caption = (
        f"Mean difference of Dice over the cases, 95 % interval over cases and seeds ({one['interval'].n}), and p of Wilcoxon's "
        f"signed ranks by Holm over the {one['family']} comparisons of this table; tested over {one['p_over']}. An absent organ that was rightly not "
        "found counts as 1, so that finding it there is a loss. The test takes the trainings as given, the interval does not: where the "
        "interval holds 0, other trainings may say otherwise, however small p is."
    )
    return Table("Continual tuning less full training", ["", *(f"less {o}" for o in others)], rows, caption)


def verdicts(
    seeds: Sequence[Any], new: Sequence[str], against: Mapping[tuple[str, str], Mapping[str, Any]]
) -> list[str]:
    """What may be said, and which classes a way of full training lost, which makes its mean worth little."""
    said = [f"Against {other}: {found['verdict']}." for (other, name), found in against.items() if not name]
    for way in (RIVAL, CEILING):
        dice = [one["dice"] for seed in seeds if (one := arm(seed, way))]
        often = {n: sum(mean_dice(d, [n]) < LOST for d in dice) for n in new}
        for name, times in often.items():
            if times:
                every = "every seed" if times == len(dice) else f"{times} of {seed_count(len(dice))}"
                said.append(f"Full training ({way.removeprefix('full, ')}) loses the {organ(name)} in {every}: its mean says little.")  # fmt: skip
        rest = [n for n, times in often.items() if not times]
        if any(often.values()) and rest:
            ours = [mean_dice(one["dice"], rest) for seed in seeds if (one := arm(seed, "continual")) and arm(seed, way)]  # fmt: skip
            theirs = [mean_dice(d, rest) for d in dice]
            listed = ", ".join(map(organ, rest))
            apart = mean(theirs) - mean(ours)
            further = f": {short(apart)} apart, where at most {short(MARGINS[way])} was aimed at" if apart > MARGINS[way] else ""  # fmt: skip
            said.append(
                f"On the others ({listed}) it has {spread(theirs)}, continual tuning {spread(ours)}{further}."
            )
    return said


class Costs:
    """Cases, steps, time and time to the same Dice of full training on the same annotations, and of continual tuning."""

    def __init__(self, result: BenchResult, seeds: Sequence[Any], new: Sequence[str], unit: str) -> None:
        self.seconds = "processor seconds" if unit == "cpu_seconds" else "seconds"
        self.seeds = seeds
        self.scales = [scale_of(seed, result) for seed in seeds]
        pairs = [(arm(seed, "continual"), arm(seed, RIVAL)) for seed in seeds]
        self.pairs = [(ours, full) for ours, full in pairs if ours and full]
        self.unit, self.new = unit, list(new)
        self.ends = [full_seconds(ours, full, unit) for ours, full in self.pairs]
        self.times = [end / ours[unit] for end, (ours, _) in zip(self.ends, self.pairs, strict=True)]

    @property
    def beside(self) -> bool:
        """Whether steps of full training were timed beside every tuning."""
        return bool(self.pairs) and all(ours.get("full_step") for ours, _ in self.pairs)

    @property
    def steps(self) -> list[float]:
        """Ratios, seed by seed."""
        return [full["steps"] / sum(ours["steps"].values()) for ours, full in self.pairs]

    @property
    def reached(self) -> list[float | None]:
        """Seconds until full training has the Dice of continual tuning, seed by seed; None: never."""
        out = []
        for end, (ours, full) in zip(self.ends, self.pairs, strict=True):
            at = first_at(full, self.unit, self.new, mean_dice(ours["dice"], self.new))
            out.append(None if at is None else at * end / full["curve"][-1][self.unit])
        return out

    @property
    def targets(self) -> list[float]:
        """How many times as long as continual tuning full training needs for its Dice, in the seeds where it came there."""
        found = zip(self.reached, self.pairs, strict=True)
        return [seconds / ours[self.unit] for seconds, (ours, _) in found if seconds is not None]

    @property
    def quickest(self) -> list[float | None]:
        """Seconds of the quickest tuning, of any length, with the Dice of full training at its end, seed by seed; None: none."""
        theirs = [mean_dice(seed["full"]["rival"]["dice"], self.new) for seed in self.seeds]
        return [quickest(s, self.new, self.unit, d) for s, d in zip(self.seeds, theirs, strict=True)]

    @property
    def first_at_its_end(self) -> list[float]:
        """Seconds until full training first has the Dice with which it ends, seed by seed."""
        out = []
        for end, (_, full) in zip(self.ends, self.pairs, strict=True):
            # The last look is at the same network as the Dice by case: equal but for the order of the sum.
            at = first_at(full, self.unit, self.new, mean_dice(full["dice"], self.new) - 1e-9)
            whole = float(full["curve"][-1][self.unit])
            out.append((whole if at is None else at) * end / whole)
        return out

    def lengths(self) -> list[Table]:
        """What tunings of other lengths took and gave; empty where a seed has none."""
        known = [seed for seed in self.seeds if seed.get("lengths") and seed.get("scale")]
        if len(known) < len(self.seeds) or len({tuple(seed["lengths"]) for seed in known}) > 1:
            return []
        own = int(known[0]["scale"]["tune_epochs"])
        found = [by_epochs(seed, own) for seed in known]
        rows = []
        for epochs in found[0]:
            same = [tunings[epochs] for tunings in found]
            rows.append([f"{epochs}, compared above" if epochs == own else str(epochs),
                         ranged([sum(one["steps"].values()) for one in same]), ranged([one[self.unit] for one in same]),
                         spread([mean_dice(one["dice"], self.new) for one in same])])  # fmt: skip
        caption = (
            "Each from the registered base to the registered heads with an empty cache; it warms up for a third of its length at most, and then "
            "its learning rate falls. The lengths are not chosen by validation cases: what is best here was seen on the test cases; "
            f"{seed_count(len(known))}, mean, and lowest to highest."
        )
        return [Table("Continual tuning of other lengths", ["epochs", "steps", self.seconds, "mean of the new"], rows, caption)]  # fmt: skip

    @property
    def data(self) -> list[float]:
        """Cases of full training over revised cases, seed by seed."""
        return [scale["cases"] / scale["revised"] for scale in self.scales if scale]

    def table(self) -> Table:
        full_s = self.ends
        ours_s = [ours[self.unit] for ours, _ in self.pairs]
        never = f"not reached in {ranged(full_s)} s"
        missed = [f"not reached in {figure(end)} s" for end in full_s]
        known = [s for s in self.scales if s]
        rows = [
            ["steps", ranged([f["steps"] for _, f in self.pairs]), ranged([sum(o["steps"].values()) for o, _ in self.pairs]),
             ranged(self.steps)],
            [f"time, to the end ({self.seconds})", ranged(full_s), ranged(ours_s), ranged(self.times)],
            ["time, to the Dice of continual tuning", each(self.reached, missed) if self.targets else never, ranged(ours_s),
             f"{ranged(self.targets)}, in {len(self.targets)} of {seed_count(len(self.pairs))}" if self.targets else never],
        ]  # fmt: skip
        if all(seed.get("lengths") for seed in self.seeds) and len(self.pairs) == len(self.seeds):
            quick, none = self.quickest, "not reached by any length"
            first = self.first_at_its_end
            ratios = [full / ours for full, ours in zip(first, quick, strict=True) if ours]
            rows.append(["time, to the Dice of full training at its end", ranged(first), each(quick, [none] * len(quick)),
                         f"{ranged(ratios)}, in {len(ratios)} of {seed_count(len(quick))}" if ratios else none])  # fmt: skip
        if bases := [base for seed in self.seeds if (base := _base_seconds(seed, self.unit))]:
            both = [full / (ours + base) for full, ours, base in zip(full_s, ours_s, bases, strict=False)]
            rows.append(
                [
                    f"the base, once for all rounds ({self.seconds})",
                    "",
                    ranged(bases),
                    f"{ranged(both)} with it, once",
                ]
            )
        if known:
            cases = [
                "cases", ranged([s["cases"] for s in known]), ranged([s["revised"] for s in known]), ranged(self.data)
            ]  # fmt: skip
            rows.insert(0, cases)
        epochs = ranged([full["curve"][-1]["epoch"] for _, full in self.pairs])
        caption = (
            f"Full training on the same annotations, {epochs} epochs; {seed_count(len(self.pairs))}, mean, and lowest to highest. "
            "Continual tuning is timed from the registered base to the registered heads, full training by its steps alone"
            f"{', at the pace of steps that were timed right beside each tuning' if self.beside else ''}. "
            "Time to a Dice: a figure a seed, looked up at the looks at the test cases, and for continual tuning among its lengths."
        )
        return Table("What it cost", ["", "full", "continual", "full over continual"], rows, caption)

    def said(self) -> str:
        missed = len(self.pairs) - len(self.targets)
        if not missed:
            return (
                f"Full training needs {ranged(self.targets)} times as long for the Dice of continual tuning."
            )
        of = "any seed" if missed == len(self.pairs) else f"{missed} of {seed_count(len(self.pairs))}"
        return f"Full training did not come to the Dice of continual tuning in {of} within its {figure(mean(f['curve'][-1]['epoch'] for _, f in self.pairs))} epochs; what more would bring was not measured."  # fmt: skip


def _base_seconds(seed: Mapping[str, Any], unit: str) -> float | None:
    """What training the base took, as it was trained; None where the result does not say."""
    curve = seed.get("base", {}).get("curve") or [{}]
    return float(curve[-1][unit]) if unit in curve[-1] else None


def full_seconds(ours: Mapping[str, Any], full: Mapping[str, Any], unit: str) -> float:
    """What full training takes: its steps at the pace of those that were timed beside the tuning, else as it was trained."""
    beside = ours.get("full_step")
    return float(full["steps"] * beside[unit] if beside else full["curve"][-1][unit])


def rising(seeds: Sequence[Any], new: Sequence[str]) -> list[str]:
    """Whether full training had come to its end: by how much it rose from its last look but one to its last."""
    out = []
    for way in (RIVAL, CEILING):
        looks = [[row for row in one["curve"] if "dice" in row] for seed in seeds if (one := arm(seed, way))]
        looks = [rows for rows in looks if len(rows) > 1]
        if looks:
            rises = [mean(rows[-1]["dice"][n] - rows[-2]["dice"][n] for n in new) for rows in looks]
            epochs = ranged([rows[-1]["epoch"] - rows[-2]["epoch"] for rows in looks])
            out.append(
                f"In its last {epochs} epochs full training ({way.removeprefix('full, ')}) changed by {spread(rises, 3)} Dice."
            )
    return out


def first_at(full: Mapping[str, Any], unit: str, new: Sequence[str], target: float) -> float | None:
    """Seconds at the first look where the mean Dice of the new classes was at least `target`; None: never."""
    looks = [row for row in full["curve"] if "dice" in row]
    return next((row[unit] for row in looks if mean(row["dice"][n] for n in new) >= target), None)


def scale_of(seed: Mapping[str, Any], result: BenchResult) -> Mapping[str, Any] | None:
    """Cases and so on of a seed as it says; else those of its preset, None where that is not known."""
    if "scale" in seed:
        return dict(seed["scale"])
    # Imported here: with it comes torch, which a page does not need otherwise.
    from ctune.bench.speed.protocol import HIPPOCAMPUS, SCALES

    scale = (HIPPOCAMPUS if result.what == "hippocampus" else SCALES).get(result.preset)  # type: ignore[call-overload]
    return vars(scale) if scale else None
