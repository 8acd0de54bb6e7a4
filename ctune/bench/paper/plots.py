"""What the benchmark of the paper's protocol draws: ours beside what was published, for each table."""

from __future__ import annotations

from typing import Any

from ctune.bench.report.plots import Bar, Bars, Plot
from ctune.bench.report.tables import seeds_of
from ctune.bench.result import BenchResult

_DATA = ("before", "revised-only", "hybrid", "full")
_TITLES = {
    "table 1": "Table 1: the base knows nine organs, four of them from bad annotations",
    "table 2": "Table 2: the base never saw four of the nine organs",
}


def plots(result: BenchResult) -> list[Plot]:
    """One drawing a setting and group of organs, of the first backbone."""
    measures: dict[str, Any] = result.measures
    found: list[Plot] = []
    main = next(
        (name for name in ("unet_small", "unet") if name in next(iter(seeds_of(result)))), "swin_unetr"
    )
    for setting, title in _TITLES.items():
        for number, group in enumerate(("new four", "old five")):
            found.append(_bars(measures, setting, title, group, number, str(result.details["differs"]), main))
    return found


def _bars(
    measures: dict[str, Any], setting: str, title: str, group: str, number: int, differs: str, main: str
) -> Bars:
    # Of the same network where the paper prints it: a U-Net in table 2 alone.
    same = f"{setting}, unet"
    known = main != "swin_unetr" and same in measures["published"]
    ours, theirs = measures["dice"][setting], measures["published"][same if known else setting]
    name = "U-Net" if known else "Swin UNETR"
    bars = [
        Bar(f"published, {name}: {way}", dice[group], text=f"{dice[group]:.2f}", colour=9)
        for way, dice in theirs.items()
    ]
    ways = sorted(
        ours, key=lambda way: (way != "before", way.endswith("all"), _DATA.index(way.partition(",")[0]))
    )
    bars += [
        Bar(way, ours[way][group], text=f"{ours[way][group]:.2f}", colour=2 if way.endswith("all") else 7 if way == "before" else 1)
        for way in ways
    ]  # fmt: skip
    what = "the four revised organs" if group == "new four" else "the five that are not revised"
    caption = (
        f"What differs from the paper: {differs}."
        if number == 0
        else "The same for the organs that must not change. Through heads they are as before, bit for bit."
    )
    colours = (
        f"Ours: {'Swin UNETR' if main == 'swin_unetr' else 'U-Net'}, means of all seeds. Grey: published; olive: before; blue: through heads; "
        "orange: through all weights, after two rounds."
    )
    return Bars(
        f"{title}: {what}", "mean Dice, test cases", bars, f"{colours} {caption}", x_limits=(0.0, 1.0)
    )
