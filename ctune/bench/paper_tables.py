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
from ctune.classes import NEW_FOUR, OLD_FIVE

GROUPS = {"old five": OLD_FIVE, "new four": NEW_FOUR}
MARGIN = 0.01
TABLES = Path(__file__).resolve().parents[3] / "shared" / "paper" / "tables.json"
"""Where the paper's tables lie beside a checkout; CTUNE_PAPER_TABLES names another place."""

PUBLISHED: Mapping[str, Mapping[str, Mapping[str, float]]] = {
    "table 1": {
        "before": {"old five": 0.908, "new four": 0.81},
        "revised-only": {"old five": 0.106, "new four": 0.825},
        "hybrid": {"old five": 0.912, "new four": 0.838},
        "full": {"old five": 0.91, "new four": 0.818},
    },
    "table 2": {
        "hybrid": {"old five": 0.886, "new four": 0.617},
        "full": {"old five": 0.902, "new four": 0.818},
    },
    "table 2, unet": {
        "hybrid": {"old five": 0.89, "new four": 0.578},
        "full": {"old five": 0.896, "new four": 0.81},
    },
}
"""Mean Dice of Zhang et al., ISBI 2024 (arXiv 2402.19423), tables 1 and 2: Swin UNETR, and U-Net where it says so."""


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
        setting: {
            column.replace("_", "-"): {
                group: round(mean(dice[n] for n in names), 3) for group, names in GROUPS.items()
            }
            for column, dice in columns.items()
        }
        for setting, columns in named.items()
    }


def summary(seeds: Sequence[Mapping[str, Any]], main: str) -> dict[str, Any]:
    """The measures: {setting: {way: {group: mean Dice}}} of the backbone `main` after the last round, published beside it."""
    out: dict[str, Any] = {"dice": {}, "published": published(find_tables())}
    changes = []
    for backbone in seeds[0]:
        for setting, cell in seeds[0][backbone].items():
            ways = list(cell)
            key = setting if backbone == main else f"{setting}, {backbone}"
            out["dice"][key] = {
                way: {
                    group: mean(_group(_last(seed[backbone][setting][way]), names) for seed in seeds)
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
    out["hybrid_heads_less_full_all"] = {
        setting: _against(seeds, main, setting)
        for setting in seeds[0][main]
        if "full, all" in seeds[0][main][setting]
    }
    return out


def _against(seeds: Sequence[Mapping[str, Any]], backbone: str, setting: str) -> dict[str, Any]:
    """Hybrid data through heads less full data through all weights, the four revised organs."""
    found = [
        case_differences(
            _last(seed[backbone][setting]["hybrid, heads"]),
            _last(seed[backbone][setting]["full, all"]),
            NEW_FOUR,
        )
        for seed in seeds
    ]
    return comparisons({"full": found}, MARGIN)["full"]


def _last(found: Any) -> Mapping[str, Mapping[str, float | None]]:
    """Dice after the last round; "before" has no rounds."""
    dice: Mapping[str, Mapping[str, float | None]] = found[-1]["dice"] if isinstance(found, list) else found
    return dice


def _group(dice: Mapping[str, Mapping[str, float | None]], names: Sequence[str]) -> float:
    """Mean over `names`; a class without a head finds nothing and counts as 0."""
    known = means({name: dice[name] for name in names if name in dice})
    return sum(known.values()) / len(names)
