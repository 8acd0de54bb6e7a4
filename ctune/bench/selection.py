"""What importance is worth: errors found by region, the order of the queue, and Dice against the expert's minutes.

For each seed and data set: a cohort with a base that is wrong on purpose (``selection_cohort``), scores and attention of its pool by
both recipes (``selection_finding``), and rounds for every way of choosing (``selection_worth``). Hippocampus is measured where
CTUNE_HIPPOCAMPUS names the folder of the Decathlon's Task04_Hippocampus.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ctune.bench.catalogue import Preset
from ctune.bench.result import Measured
from ctune.bench.run import part
from ctune.bench.selection_cohort import (
    COARSE,
    HIPPOCAMPUS,
    SCALES,
    Cohort,
    hippocampus_folder,
    make_cohort,
)
from ctune.bench.selection_figures import gates, summary
from ctune.bench.selection_finding import RECIPES, measure, predict_candidates
from ctune.bench.selection_large import measure as measure_large
from ctune.bench.selection_worth import measure as measure_worth
from ctune.types import OnProgress, Progress


def run(preset: str, seeds: Sequence[int], work: Path, on_progress: OnProgress) -> Measured:
    """See ``ctune.bench.catalogue.Bench``."""
    size, real = Preset(preset), hippocampus_folder()
    data_sets = [name for name, sizes in SCALES.items() if size in sizes and (real or name != HIPPOCAMPUS)]
    by_seed, data = dict[str, Any](), dict[str, str]()
    for order, seed in enumerate(seeds):
        for number, name in enumerate(data_sets):
            folder = work / f"seed-{seed}" / name.replace(" ", "-")
            rounds = order < SCALES[name][size].worth_seeds
            if name == COARSE and not rounds:
                continue  # it is there for its rounds
            found = part(folder / "found.json", one, folder, name, size, seed, rounds, on_progress)
            by_seed.setdefault(f"seed {seed}", {})[name] = found
            data[f"{name}, seed {seed}"] = found["digest"]
            on_progress(Progress("selection", number + 1, len(data_sets), f"{name}, seed {seed}"))
    large = part(work / "large.json", measure_large, work / "large", preset, seeds[0], RECIPES)
    measures = summary(list(by_seed.values()), large)
    missing = () if real else ("hippocampus: CTUNE_HIPPOCAMPUS names no folder",)
    return Measured(measures, {**by_seed, "large": large}, missing, data, gates(measures, size))


def one(
    folder: Path, data: str, preset: Preset, seed: int, rounds: bool, on_progress: OnProgress
) -> dict[str, Any]:
    """Everything of one data set and seed, with rounds or without; each way of choosing is kept as it ends."""
    cohort = make_cohort(folder, data, preset, seed, on_progress)
    predictions = folder / "predictions"
    spent = part(folder / "predicted.json", _predict, cohort, predictions, on_progress)
    found = part(folder / "finding.json", measure, cohort, predictions, folder / "scores", on_progress)
    worth = measure_worth(cohort, predictions, folder, on_progress) if rounds else {}
    for done in (predictions, folder / "scores", cohort.project.cache):
        shutil.rmtree(done, ignore_errors=True)
    return {"finding": found, "worth": worth, "predicting": spent, "digest": cohort.digest}


def _predict(cohort: Cohort, folder: Path, on_progress: OnProgress) -> Mapping[str, float]:
    return {
        "cpu_seconds": round(predict_candidates(cohort, folder, on_progress), 3),
        "cases": len(cohort.candidates),
    }
