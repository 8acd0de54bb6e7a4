"""The page itself: a template filled in, written whole."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ctune.data.files import write_atomically
from ctune.report.collect import ReportData
from ctune.report.figures import dice_by_round, forgetting, style, tuning_loss
from ctune.report.overlays import picture


def write_report(path: Path, data: ReportData) -> None:
    """Write the page to `path`, whole or not at all."""
    with write_atomically(path) as temporary:
        temporary.write_text(render(data), encoding="utf-8")


def render(data: ReportData) -> str:
    """The page as HTML."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("ctune.report", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": _number, "words": lambda name: str(name).replace("_", " ")}
    colours = {name: colour for name, (colour, _) in style(data.classes).items()}
    return environment.get_template("page.html").render(
        data=data,
        colours=colours,
        rows=[_row(data, name) for name in data.classes],
        dice=dice_by_round(data),
        forgetting=forgetting(data),
        losses=[tuning_loss(data, r) for r in data.rounds],
        pictures=[(o, picture(o, colours)) for o in data.overlays],
        change=_change(data),
    )


def _change(data: ReportData) -> float | None:
    """The largest change of an unrevised logit in any round; None when the settings let more than heads train."""
    changes = [r.state.arrows["tune"].summary["unrevised_max_abs_logit_change"] for r in data.rounds]
    return None if None in changes else max(changes, default=0.0)


def _row(data: ReportData, name: str) -> Mapping[str, Any]:
    last = data.stages[-1].get(name)
    revised = {r.state.number for r in data.rounds if name in r.state.classes}
    return {
        "name": name,
        "dice": [s[name].dice if name in s else None for s in data.stages],
        "last": last,
        "revised": [number in revised for number in (0, *(r.state.number for r in data.rounds))],
        "unrevised": not revised,
    }


def _number(value: float | None, digits: int = 3) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
