"""What scoring adds to predicting: one model's phantoms, predicted and scored by turns.

Apart from the data sets, whose seeds are often measured side by side: another process on the machine slows scoring, which
waits for memory, more than predicting. Whoever measures this sees to it that nothing runs beside it.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

from ctune.bench.catalogue import Preset
from ctune.bench.selection.cohort import PHANTOMS, make_cohort
from ctune.bench.selection.finding import RECIPES, predict_candidates, score_candidates
from ctune.types import OnProgress

TURNS = 3


def measure(folder: Path, preset: Preset, seed: int, on_progress: OnProgress) -> dict[str, Any]:
    """{"scale": as of a data set, "turns": [{"prediction", and each recipe: processor seconds}]}. The machine's load when it began stands
    with what the part took."""
    cohort = make_cohort(folder, PHANTOMS, preset, seed, on_progress, models=1)
    place, turns = folder / "predictions", []
    for _ in range(TURNS):
        shutil.rmtree(place, ignore_errors=True)
        turn = {"prediction": predict_candidates(cohort, place, (), on_progress)}
        for recipe in RECIPES:
            scores = folder / f"scores-{recipe}"
            shutil.rmtree(scores, ignore_errors=True)
            _, turn[recipe] = score_candidates(cohort, recipe, [place], scores, on_progress)
        turns.append(turn)
    return {"scale": asdict(cohort.scale), "turns": turns}


def ratios(cost: Mapping[str, Any]) -> dict[str, tuple[float, ...]]:
    """{recipe: processor seconds of scoring over those of predicting, of each turn}."""
    return {r: tuple(turn[r] / turn["prediction"] for turn in cost["turns"]) for r in RECIPES}


def typical(cost: Mapping[str, Any]) -> dict[str, float]:
    """{recipe: the median of the turns}.

    >>> typical({"turns": [{"prediction": 10.0, "ctune": s, "aa8k": 2 * s} for s in (0.5, 0.6, 3.0)]})
    {'ctune': 0.06, 'aa8k': 0.12}
    """
    return {recipe: median(turns) for recipe, turns in ratios(cost).items()}
