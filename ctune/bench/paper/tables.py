"""The tables of the paper, published and ours side by side."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from ctune.bench.statistics import case_differences, comparisons
from ctune.bench.study import means
from ctune.classes import NEW_FOUR, NINE_ORGANS, OLD_FIVE

GROUPS = {"old five": OLD_FIVE, "new four": NEW_FOUR}
MARGIN = 0.01
TABLES = Path(__file__).resolve().parents[4] / "shared" / "paper" / "tables.json"
"""Where the paper's tables lie beside a checkout; CTUNE_PAPER_TABLES names another place."""

_COLUMNS: Mapping[str, Mapping[str, tuple[float, ...]]] = {
    "table 1": {
        "before": (0.94, 0.92, 0.91, 0.81, 0.96, 0.93, 0.73, 0.76, 0.82),
        "revised-only": (0.25, 0.08, 0.12, 0.07, 0.01, 0.90, 0.83, 0.75, 0.82),
        "hybrid": (0.95, 0.92, 0.91, 0.82, 0.96, 0.93, 0.83, 0.77, 0.82),
        "full": (0.94, 0.92, 0.91, 0.82, 0.96, 0.93, 0.75, 0.77, 0.82),
    },
    "table 2": {
        "hybrid": (0.93, 0.92, 0.90, 0.73, 0.95, 0.77, 0.69, 0.58, 0.43),
        "full": (0.93, 0.92, 0.90, 0.80, 0.96, 0.89, 0.80, 0.76, 0.82),
    },
    "table 2, unet": {
        "hybrid": (0.92, 0.90, 0.89, 0.79, 0.95, 0.64, 0.70, 0.55, 0.42),
        "full": (0.90, 0.92, 0.90, 0.81, 0.95, 0.86, 0.79, 0.76, 0.83),
    },
}
BY_ORGAN: Mapping[str, Mapping[str, Mapping[str, float]]] = {
    setting: {way: dict(zip(NINE_ORGANS, dice, strict=True)) for way, dice in columns.items()}
    for setting, columns in _COLUMNS.items()
}
"""Dice of Zhang et al., ISBI 2024 (arXiv 2402.19423), tables 1 and 2, by organ: Swin UNETR, and U-Net where it says so."""


FIGURE_1: Mapping[str, tuple[float | None, float | None]] = {
    "published: continual, Swin UNETR": (0.542, 0.761),
    "published: full, Swin UNETR": (0.544, None),
    "published: continual, U-Net": (None, 0.788),
}
"""Mean Dice of the nine organs after each of two rounds, figure 1 of the same; its "speed-up of 16" is 200 cases over 12 to 13."""


def by_group(dice: Mapping[str, float]) -> dict[str, float]:
    """The mean of each of ``GROUPS``."""
    return {group: round(mean(dice[name] for name in names), 3) for group, names in GROUPS.items()}


PUBLISHED = {
    setting: {way: by_group(dice) for way, dice in ways.items()} for setting, ways in BY_ORGAN.items()
}
"""The same as means."""


def find_tables() -> dict[str, Any] | None:
    """The paper's tables as they were transcribed, class by class; None where they are not there."""
    path = Path(os.environ.get("CTUNE_PAPER_TABLES") or TABLES)
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else None


def published(tables: Mapping[str, Any] | None) -> dict[str, dict[str, dict[str, float]]]:
    """{setting: {column: {group: mean Dice}}}: computed from the transcribed tables, or as quoted here."""
    if tables is None:
        return {s: {c: dict(g) for c, g in columns.items()} for s, columns in PUBLISHED.items()}
    second = tables["table2_one_dataset"]
    named = {
        "table 1": tables["table1_swin_unetr_14_datasets"], "table 2": second["swin_unetr"], "table 2, unet": second["unet"],
    }  # fmt: skip
    return {
        setting: {column.replace("_", "-"): by_group(dice) for column, dice in columns.items()}
        for setting, columns in named.items()
    }


def summary(seeds: Sequence[Mapping[str, Any]], main: str) -> dict[str, Any]:
    """The measures: {setting: {way: {group: mean Dice}}} of the backbone `main` after the last round, published beside it."""
    out: dict[str, Any] = {"dice": {}, "published": published(find_tables())}
    changes = []
    for backbone in seeds[0]:
        for setting, cell in seeds[0][backbone].items():
            ways = list(cell)
            out["dice"][key_of(setting, backbone, main)] = {
                way: {
                    group: mean(_group(last(seed[backbone][setting][way]), names) for seed in seeds)
                    for group, names in GROUPS.items()
                }
                for way in ways
            }
            changes += [
                round_["max_abs_logit_change"]
                for seed in seeds
                for way in ways
                if way.endswith("heads")
                for round_ in seed[backbone][setting][way]
            ]
    out["unrevised_max_abs_logit_change"] = max(changes)
    found = compared(seeds, main)
    out |= {f"hybrid_heads_less_{rival.replace(', ', '_')}": found[rival] for rival in RIVALS}
    return out


def key_of(setting: str, backbone: str, main: str) -> str:
    """The name of a table: the setting, and the backbone where it is not the first."""
    return setting if backbone == main else f"{setting}, {backbone}"


OURS, RIVALS = "hybrid, heads", ("full, all", "hybrid, all")
"""What is compared with what: the paper's full training, and all weights on the very data that heads have."""


def compared(seeds: Sequence[Mapping[str, Any]], main: str) -> dict[str, dict[str, Any]]:
    """{rival: {table: comparison}}: hybrid data through heads less each rival that was measured, the four revised organs.

    All stand side by side, settings, backbones and rivals, and are one family for Holm. Every seed has a cohort of its own.
    """
    asked = {
        (rival, key_of(setting, backbone, main)): [
            case_differences(last(of[OURS]), last(of[rival]), NEW_FOUR)
            for of in (seed[backbone][setting] for seed in seeds)
        ]
        for rival in RIVALS
        for backbone, cells in seeds[0].items()
        for setting, cell in cells.items()
        if {OURS, rival} <= set(cell)
    }
    numbered = {str(number): found for number, found in enumerate(asked.values())}
    out: dict[str, dict[str, Any]] = {rival: {} for rival in RIVALS}
    for (rival, key), found in zip(asked, comparisons(numbered, MARGIN).values(), strict=True):
        out[rival][key] = found
    return out


def last(found: Any) -> Mapping[str, Mapping[str, float | None]]:
    """Dice after the last round; "before" has no rounds."""
    dice: Mapping[str, Mapping[str, float | None]] = found[-1]["dice"] if isinstance(found, list) else found
    return dice


def _group(dice: Mapping[str, Mapping[str, float | None]], names: Sequence[str]) -> float:
    """Mean over `names`; a class without a head finds nothing and counts as 0."""
    known = means({name: dice[name] for name in names if name in dice})
    return sum(known.values()) / len(names)
