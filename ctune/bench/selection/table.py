"""The table of docs/selection.md, made from a result: numbers stand in the page once, and a test holds them to the newest one.

``python -c "from ctune.bench.selection.table import rewrite; rewrite()"`` after a new result.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ctune.bench.result import BenchResult, all_results
from ctune.bench.run import RESULTS
from ctune.bench.selection.chapter import compared_in_words, gain_in_words
from ctune.bench.selection.cohort import COARSE, HIPPOCAMPUS, PHANTOMS
from ctune.bench.selection.compared import against, gain, with_rounds
from ctune.bench.selection.figures import ENDS, mean_curve, spearman_ends, with_arm
from ctune.bench.selection.finding import PLAIN, RECIPES, SEVERAL, VIEWS
from ctune.bench.selection.joined import joined
from ctune.bench.selection.plots import made_from
from ctune.bench.selection.worth import WAYS
from ctune.bench.statistics import SEEDS_ASKED
from ctune.data.files import write_atomically
from ctune.errors import DataError

PAGE = Path("docs/selection.md")
_BEGIN, _END = "<!-- measured -->\n", "<!-- /measured -->\n"
_ROWS = (
    ("sensitivity", "sensitivity", "at least .85"),
    ("precision", "precision", "at least .85"),
    ("attention over the volume of all errors", "attention_over_error_volume", "at most 3"),
    ("Spearman with 1 - Dice", "spearman", "at least .6"),
    ("of the worst tenth in the first fifth", "worst_tenth_in_first_fifth", "at least .8"),
    ("scoring over prediction", "scoring_over_prediction_time", "at most .1"),
)
_ALSO = (
    ("sensitivity", "sensitivity"),
    ("precision", "precision"),
    ("attention over errors", "attention_over_error_volume"),
    ("Spearman", "spearman"),
    ("worst tenth in the first fifth", "worst_tenth_in_first_fifth"),
)
"""Figures that are told of scores from views and from several models too."""


def newest(folder: Path = RESULTS, preset: str = "cpu") -> tuple[Path, BenchResult]:
    """The newest result of selection, with what older ones alone have measured. Raises DataError where there is none."""
    found = [
        (path, one) for path, one in all_results(folder) if (one.what, one.preset) == ("selection", preset)
    ]
    if not found:
        raise DataError(
            f"expected a result of selection in {folder}, found none; run `ctune bench selection`"
        )
    return found[-1][0], joined([one for _, one in found])


def table(name: str, result: BenchResult) -> str:
    """Both parts in Markdown: what was found before any round, and Dice against minutes. name: of the result's file."""
    measures: Mapping[str, Any] = result.measures
    sides = [(data, way) for data in ("", ENDS[HIPPOCAMPUS]) for way in ("ctune", "aa8k")]
    older = "".join(f" {text}." for text in result.failures if ": measured " in text)
    lines = [
        f"{len(result.seeds)} seeds, `{name}`.{older}\n",
        "| | promised | phantoms, `ctune` | phantoms, published recipe | hippocampus, `ctune` | hippocampus, published recipe |",
        "|---|---|---|---|---|---|",
    ]
    for words, figure, promised in _ROWS:
        cells = [_cell(measures, f"{figure}{end}", way) for end, way in sides]
        if any(cell != "-" for cell in cells):
            lines.append(f"| {words} | {promised} | {' | '.join(cells)} |")
            if figure == "spearman":
                cells = [_interval(result, data, way) for data in (PHANTOMS, HIPPOCAMPUS) for way in RECIPES]
                lines.append(f"| its 95 % interval, over seeds | | {' | '.join(cells)} |")
    entropy = [_cell(measures, f"spearman{end}", "entropy") for end in ("", ENDS[HIPPOCAMPUS])]
    lines.append(f"| Spearman of entropy alone | below `ctune` | {entropy[0]} | | {entropy[1]} | |")
    large = [
        f"{measures[f'large_case_seconds_{way}']:.1f} s, {measures[f'large_case_peak_mb_{way}']:.0f} MiB"
        for way in ("ctune", "aa8k")
        if f"large_case_seconds_{way}" in measures
    ]
    if large:
        lines.append(f"| a CT of 512x512x200, nine classes | reported | {' | '.join(large)} | | |")
    return "\n".join([*lines, "", *_made_from(result), *_rounds(result), ""])


def _made_from(result: BenchResult) -> list[str]:
    """What more passes are worth: one model's, with views, and several models'. Nothing where it was not measured."""
    measures: Mapping[str, Any] = result.measures
    if not any(name.startswith(f"sensitivity_{SEVERAL}") for name in measures):
        return []
    rows = [
        f"| {data}{words or made_from(arm, _seeds_with(result, data, arm))} | "
        + " | ".join(
            f"{_cell(measures, f'{figure}{_of(arm)}{end}', 'ctune')} / {_cell(measures, f'{figure}{_of(arm)}{end}', 'aa8k')}"
            for _, figure in _ALSO
        )
        + " |"
        for data, end in (("phantoms", ""), (HIPPOCAMPUS, ENDS[HIPPOCAMPUS]))
        for words, arm in ((", one pass", PLAIN), (", with two views", VIEWS), ("", SEVERAL))
        if f"sensitivity{_of(arm)}{end}" in measures
    ]
    head = " | ".join(words for words, _ in _ALSO)
    title = f"| `ctune` / published recipe, from | {head} |"
    return [title, "|---" * (len(_ALSO) + 1) + "|", *rows, ""]


def _of(arm: str) -> str:
    return "" if arm == PLAIN else f"_{arm}"


def _seeds_with(result: BenchResult, data: str, arm: str = PLAIN) -> list[Any]:
    seeds: list[Any] = [found for seed, found in sorted(result.details.items()) if seed.startswith("seed ")]
    return with_arm([seed[data] for seed in seeds if data in seed], arm)


def _interval(result: BenchResult, data: str, way: str) -> str:
    found = _seeds_with(result, data)
    return "[{}, {}]".format(*map(_short, spearman_ends(found, way))) if len(found) >= SEEDS_ASKED else "-"


def _rounds(result: BenchResult) -> list[str]:
    lines = []
    for data, end in ((COARSE, ""), (HIPPOCAMPUS, ENDS[HIPPOCAMPUS])):
        ran = with_rounds(_seeds_with(result, data))
        if not ran:
            continue
        worth = [one["worth"] for one in ran]
        curves = {way: mean_curve([one[way] for one in worth]) for way in worth[0]}
        count = len(curves["random"]) - 1
        head = " | ".join(["start", *(f"round {n + 1}" for n in range(count))])
        words = "one seed" if len(worth) == 1 else f"{len(worth)} seeds"
        lines += [
            f"| {data}, {words}: minutes: Dice | {head} | minutes to random's last Dice, over random's | seed by seed |",
            "|---" * (count + 4) + "|",
        ]
        for way in [name for name in WAYS if name in curves]:
            points = [f"{minutes:.0f}: {_short(dice)}" for minutes, dice in curves[way]]
            decided: Any = result.measures[f"minutes_ratio_to_random{end}"]
            ratio = "not decided" if decided[way] is None else _short(decided[way])
            each: Any = result.measures.get(f"minutes_ratio_to_random_by_seed{end}")
            by_seed = ", ".join(_short(value) for value in each[way]) if each else "-"
            lines.append(f"| `{WAYS[way][0]}` | {' | '.join(points)} | {ratio} | {by_seed} |")
        said = f"Gain of random choice: {gain_in_words(gain(ran))}."
        if compared := against(ran):
            said += f" {compared_in_words(data, compared)}"
        lines += ["", said, ""]
    return lines[:-1]


def _cell(measures: Mapping[str, Any], figure: str, way: str) -> str:
    return _short(measures[figure].get(way)) if figure in measures else "-"


def _short(value: float | None) -> str:
    """Three figures at most, without the leading 0.

    >>> _short(0.9207), _short(2.3299), _short(None), _short(-0.0131)
    ('.921', '2.33', 'never', '-.013')
    """
    if value is None:
        return "never"
    small = abs(round(value, 3)) < 1
    return f"{value:.3f}".replace("0.", ".", 1) if small else f"{value:.2f}"


def with_table(page: str, made: str) -> str:
    """The page with `made` between its two marks. Raises DataError where a mark is missing."""
    before, begin, rest = page.partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if not (begin and end):
        raise DataError(
            f"expected {_BEGIN.strip()} and {_END.strip()} in the page, found not both; restore them"
        )
    return f"{before}{begin}{made}{end}{after}"


def rewrite(page: Path = PAGE, results: Path = RESULTS) -> None:
    """Put the newest result's numbers into the page."""
    path, result = newest(results)
    text = with_table(page.read_text(encoding="utf-8"), table(path.name, result))
    with write_atomically(page) as temporary:
        temporary.write_text(text, encoding="utf-8")
