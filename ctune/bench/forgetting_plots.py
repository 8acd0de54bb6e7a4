"""What the benchmark of forgetting draws."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import mean
from typing import Any

from ctune.bench.forgetting_figures import way_figures
from ctune.bench.plots import Bar, Bars, Lines, Plot, Series
from ctune.bench.result import BenchResult


def plots(result: BenchResult) -> list[Plot]:
    """The first classes after each round, all classes at the end, backward transfer; by way."""
    seeds: list[Mapping[str, Any]] = [s for n, s in sorted(result.details.items()) if n.startswith("seed ")]  # type: ignore[misc]
    return [by_round(seeds), at_the_end(seeds), transfer(seeds)]


_ORDER = ("continual", "rehearsal", "LwF", "PLOP", "EWC", "fine-tuning", "background")
"""Of lines and bars, so that a way has its colour everywhere; a result has its ways in the order of their names."""


def _ways(seeds: Sequence[Mapping[str, Any]]) -> list[str]:
    return sorted(
        seeds[0]["ways"], key=lambda way: (_ORDER.index(way) if way in _ORDER else len(_ORDER), way)
    )


def by_round(seeds: Sequence[Mapping[str, Any]]) -> Lines:
    """Mean Dice of the classes that the base brought along."""
    old = list(seeds[0]["base"]["dice"])
    drawn = []
    for way in _ways(seeds):
        rounds = seeds[0]["ways"][way]
        of_seeds = [[_dice(stage, old) for stage in (s["base"], *s["ways"][way])] for s in seeds]
        columns = list(zip(*of_seeds, strict=True))
        several = len(seeds) > 1
        low, high = ([end(column) for column in columns] for end in (min, max))
        band = {"low": low, "high": high} if several else {}
        means = [mean(column) for column in columns]
        drawn.append(
            Series(_name(way), list(range(len(rounds) + 1)), means, dashed=way == "rehearsal", **band)
        )
    bands = f"Band: lowest to highest of {len(seeds)} seeds." if len(seeds) > 1 else "One seed."
    return Lines(
        "Forgetting by round: the classes that the base brought along",
        "rounds, each adds one class",
        "mean Dice, test cases",
        drawn,
        f"Mean over {', '.join(n.replace('_', ' ') for n in old)}; none of them is revised in any round. Rehearsal (dashed) alone "
        f"may keep old cases with their labels. {bands}",
        y_limits=(0.0, 1.0),
    )


def at_the_end(seeds: Sequence[Mapping[str, Any]]) -> Bars:
    """Mean Dice of all classes after the last round."""
    ways = _ways(seeds)
    bars = [_bar(way, [_dice(s["ways"][way][-1]) for s in seeds]) for way in ways]
    steps = [seeds[0]["ways"][way][0]["steps"] for way in ways[1:]]
    given = (
        f" A rival takes {steps[0]} steps over all weights in each round; what more would bring was not measured."
        if steps
        else ""
    )
    return Bars(
        "All nine classes after the last round",
        "mean Dice, test cases",
        bars,
        f"What is kept and what is learnt, together: a way that forgets nothing because it learns nothing is low here.{given}{_ends(seeds)}",
    )


def transfer(seeds: Sequence[Mapping[str, Any]]) -> Bars:
    """How much of what was learnt is gone at the end."""
    bars = [_bar(w, [-way_figures(s["base"], s["ways"][w])["bwt"] for s in seeds]) for w in _ways(seeds)]
    return Bars(
        "Mean Dice lost of a class since the round that learnt it",
        "minus backward transfer",
        bars,
        f"Over the classes that were known before the last round; of continual tuning it is exactly zero.{_ends(seeds)}",
        mark=0.0,
    )


def _ends(seeds: Sequence[Any]) -> str:
    return f" Lines from the lowest to the highest of {len(seeds)} seeds." if len(seeds) > 1 else " One seed."


def _bar(way: str, values: Sequence[float]) -> Bar:
    return Bar(_name(way), mean(values), min(values), max(values), f"{mean(values):.3f}")


def _dice(stage: Mapping[str, Any], names: Sequence[str] | None = None) -> float:
    by_class: Mapping[str, Mapping[str, float | None]] = stage["dice"]
    chosen = by_class if names is None else names
    return mean(mean([v for v in by_class[n].values() if v is not None] or [0.0]) for n in chosen)


def _name(way: str) -> str:
    return {"background": "background taught", "continual": "continual tuning"}.get(way, way)
