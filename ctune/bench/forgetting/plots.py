"""What the benchmark of forgetting draws."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import mean
from typing import Any

from ctune.bench.forgetting.figures import way_figures
from ctune.bench.report.plots import Bar, Bars, Lines, Plot, Series
from ctune.bench.report.tables import seeds_of
from ctune.bench.result import BenchResult
from ctune.bench.statistics import case_differences, mean_interval, shares_cases


def plots(result: BenchResult) -> list[Plot]:
    """What is lost of the first classes round by round, all classes at the end, backward transfer; by way."""
    seeds = seeds_of(result)
    return [*by_round(seeds, shares_cases(result.data)), at_the_end(seeds), transfer(seeds)]


_ORDER = ("continual", "rehearsal", "LwF", "PLOP", "EWC", "fine-tuning", "background")
"""Of lines and bars, so that a way has its colour everywhere; a result has its ways in the order of their names."""


def ways_of(seeds: Sequence[Mapping[str, Any]]) -> list[str]:
    """Every way; one that was given more stands behind its own kind."""
    return sorted(seeds[0]["ways"], key=lambda way: (_place(way), way))


def _place(way: str) -> int:
    kind = way.partition(",")[0]
    return _ORDER.index(kind) if kind in _ORDER else len(_ORDER)


NEAR = 0.1
"""Change of Dice within which a way is drawn a second time, enlarged."""


def by_round(seeds: Sequence[Mapping[str, Any]], shared: bool = False) -> list[Lines]:
    """Change of the classes that the base brought along since then; and enlarged, the ways that stay near zero."""
    old = list(seeds[0]["base"]["dice"])
    drawn = []
    for way in ways_of(seeds):
        found = [s for s in seeds if s["ways"].get(way)]
        points = [
            mean_interval([_changes(s["base"], s["ways"][way][r], old) for s in found], shared=shared)
            for r in range(len(found[0]["ways"][way]))
        ]
        ys, low, high = ([0.0, *(getattr(p, end) for p in points)] for end in ("mean", "low", "high"))
        drawn.append(
            Series(
                name_of(way),
                list(range(len(points) + 1)),
                ys,
                low,
                high,
                dashed="," in way,
                colour=_place(way) + 1,
            )
        )
    organs = ", ".join(n.replace("_", " ") for n in old)
    whole = Lines(
        "What is lost of the classes that the base brought along",
        "rounds, each adds one class",
        "change of Dice since the base",
        drawn,
        f"Mean over {organs}, none of which is revised in any round; of continual tuning it is exactly zero. Rehearsal alone may keep "
        f"old cases with their labels. Bands: 95 % bootstrap intervals over cases and seeds ({points[0].n}).",
        figure=3,
        zero=True,
    )
    near = [s for s in drawn if max(map(abs, (*s.low, *s.high))) <= NEAR]
    if len(near) in (0, len(drawn)):
        return [whole]
    enlarged = Lines(
        "The same near zero",
        whole.x_label,
        f"change of Dice, enlarged: within {NEAR:g}",
        near,
        "The ways that stay near zero, on an axis that is enlarged.",
        figure=3,
        zero=True,
    )
    return [whole, enlarged]


def _changes(base: Mapping[str, Any], stage: Mapping[str, Any], names: Sequence[str]) -> list[float]:
    """For each test case the mean change over `names`; an absent organ counts as in ``statistics.case_differences``."""
    return case_differences(stage["dice"], base["dice"], names)


def at_the_end(seeds: Sequence[Mapping[str, Any]]) -> Bars:
    """Mean Dice of all classes after the last round."""
    ways = ways_of(seeds)
    bars = [_bar(way, [_dice(s["ways"][way][-1]) for s in seeds if s["ways"].get(way)]) for way in ways]
    steps = sorted({stage["steps"] for way in ways[1:] for s in seeds for stage in s["ways"].get(way, ())})
    span = str(steps[0]) if len(steps) == 1 else f"{steps[0]} to {steps[-1]}" if steps else ""
    given = f" A rival takes {span} steps over all weights in each round; what more would bring was not measured." if steps else ""  # fmt: skip
    return Bars(
        "All nine classes after the last round",
        "mean Dice, test cases",
        bars,
        f"What is kept and what is learnt, together: a way that forgets nothing because it learns nothing is low here.{given}{_ends(seeds)}",
        x_limits=(0.0, 1.0),
    )


def transfer(seeds: Sequence[Mapping[str, Any]]) -> Bars:
    """How much of what was learnt is gone at the end."""
    bars = [
        _bar(w, [-way_figures(s["base"], s["ways"][w])["bwt"] for s in seeds if s["ways"].get(w)])
        for w in ways_of(seeds)
    ]
    return Bars(
        "Mean Dice lost of a class since the round that learnt it",
        "minus backward transfer",
        bars,
        f"Over the classes that were known before the last round; of continual tuning it is exactly zero.{_ends(seeds)}",
        mark=0.0,
        mark_text="0: nothing lost",
    )


def _ends(seeds: Sequence[Any]) -> str:
    return f" Lines from the lowest to the highest of {len(seeds)} seeds." if len(seeds) > 1 else " One seed."


def _bar(way: str, values: Sequence[float]) -> Bar:
    return Bar(name_of(way), mean(values), min(values), max(values), f"{mean(values):.3f}", _place(way) + 1)


def _dice(stage: Mapping[str, Any], names: Sequence[str] | None = None) -> float:
    by_class: Mapping[str, Mapping[str, float | None]] = stage["dice"]
    chosen = by_class if names is None else names
    return mean(mean([v for v in by_class[n].values() if v is not None] or [0.0]) for n in chosen)


def name_of(way: str) -> str:
    kind, comma, more = way.partition(",")
    return {"background": "background taught", "continual": "continual tuning"}.get(kind, kind) + comma + more
