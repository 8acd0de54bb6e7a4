"""The page itself: a template filled in, written whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ctune.data.files import write_atomically
from ctune.report.data import ReportData, RoundSummary
from ctune.report.figures import dice_by_round, forgetting, tuning_loss
from ctune.report.overlays import picture
from ctune.report.palette import ON_BLACK, ON_DARK, ON_WHITE

NOTHING = "\N{EN DASH}"
"""In place of what was not measured."""


def write_report(path: Path, data: ReportData) -> None:
    """Write the page to `path`, whole or not at all; the same data gives the same bytes."""
    with write_atomically(path) as temporary:
        temporary.write_text(render(data), encoding="utf-8")


def render(data: ReportData) -> str:
    """The page as HTML: no links, no scripts, nothing fetched; plots and pictures are inside."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("ctune.report", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "number": number,
        "words": words,
        "duration": duration,
        "listed": listed,
        "reason": reason,
        "change": change_of,
    }
    numbers = {name: data.number(name) for name in data.classes}
    return environment.get_template("page.html").render(
        data=data,
        numbers=numbers,
        tints={"white": ON_WHITE, "dark": ON_DARK, "black": ON_BLACK},
        dice=dice_by_round(data),
        forgetting=forgetting(data),
        losses=[tuning_loss(data, r) for r in data.rounds],
        pictures={id(v): [(p, picture(p, numbers)) for p in v.panels] for v in (*data.views, *data.tests)},
        logits=logits,
        id=id,
    )


def logits(data: ReportData, name: str) -> str:
    """What is known of the change of a class's logits in the rounds that did not revise it."""
    tuned = [r for r in data.rounds if name in r.revised_classes]
    held = [r for r in data.rounds if r not in tuned and _had_head(data, r, name)]
    parts = [f"revised: {', '.join(str(r.number) for r in tuned)}"] if tuned else []
    if held:
        changes = [r.max_abs_logit_change for r in held]
        change = change_of(None if None in changes else max(c for c in changes if c is not None))
        parts.append(f"else {change}" if tuned else change)
    return ", ".join(parts) or NOTHING


def _had_head(data: ReportData, report: RoundSummary, name: str) -> bool:
    earlier = [r for r in data.rounds if r.number < report.number]
    return name in data.base_classes or any(name in r.revised_classes for r in earlier)


def change_of(value: float | None) -> str:
    """A change of logits in words: nothing is rounded down to 0, and what was not compared is not called 0."""
    if value is None:
        return "not compared"
    return "exactly 0" if value == 0 else f"{value:.2g}"


def number(value: float | None, digits: int = 3) -> str:
    """With thousands apart; a dash for what was not measured."""
    return NOTHING if value is None else f"{value:,.{digits}f}"


def words(name: object) -> str:
    """A class name as people write it."""
    return str(name).replace("_", " ")


def reason(text: str) -> str:
    """Why a case was selected, with its new classes gathered.

    >>> reason("aorta: new class; gall_bladder: new class; liver: 3.1 of 900.0 mL uncertain")
    'new: aorta and gall bladder; liver: 3.1 of 900.0 mL uncertain'
    """
    parts = text.split("; ")
    new = [part for part in parts if part.endswith(": new class")]
    gathered = f"new: {listed(part.removesuffix(': new class') for part in new)}"
    return "; ".join(gathered if part in new[:1] else words(part) for part in parts if part not in new[1:])


def duration(seconds: float | None) -> str:
    """Seconds as people say them.

    >>> duration(42.3), duration(341), duration(8000)
    ('42 s', '5 min 41 s', '2 h 13 min')
    """
    if seconds is None:
        return NOTHING
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"
    return (
        f"{whole // 60} min {whole % 60} s" if whole < 3600 else f"{whole // 3600} h {whole % 3600 // 60} min"
    )


def listed(names: Any) -> str:
    """a, b and c.

    >>> listed(["aorta", "gall_bladder"])
    'aorta and gall bladder'
    """
    parts = [words(n) for n in names]
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)
