"""What importance is worth: errors found by region, the order of the queue, and Dice against the expert's minutes.

For each seed and data set: a cohort with a base that is wrong on purpose (``cohort``), scores and attention of its pool by
both recipes (``finding``), and rounds for every way of choosing (``worth``). Hippocampus is measured where
CTUNE_HIPPOCAMPUS names the folder of the Decathlon's Task04_Hippocampus. Seeds and data sets can be measured by several
processes and put together (``parts``).
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ctune.bench.catalogue import Preset
from ctune.bench.parts import part
from ctune.bench.result import Measured
from ctune.bench.selection.cohort import (
    COARSE,
    HIPPOCAMPUS,
    SCALES,
    Cohort,
    hippocampus_folder,
    make_cohort,
)
from ctune.bench.selection.figures import gates, summary
from ctune.bench.selection.finding import RECIPES, measure, predict_candidates
from ctune.bench.selection.large import measure as measure_large
from ctune.bench.selection.parts import Earlier, asked, folder_of
from ctune.bench.selection.worth import measure as measure_worth
from ctune.types import OnProgress, Progress

LARGE = "large case"


def run(preset: str, seeds: Sequence[int], work: Path, on_progress: OnProgress) -> Measured:
    """See ``ctune.bench.catalogue.Bench``."""
    size, real, earlier = Preset(preset), hippocampus_folder(), Earlier(preset)
    every = [name for name, sizes in SCALES.items() if size in sizes]
    wanted = asked([*every, LARGE])
    missing = [
        f"{name}: not among those of CTUNE_SELECTION_DATA" for name in (*every, LARGE) if name not in wanted
    ]
    by_seed, data = dict[str, Any](), dict[str, str]()
    for order, seed in enumerate(seeds):
        for number, name in enumerate(name for name in every if name in wanted):
            scale, folder = SCALES[name][size], work / folder_of(seed, name)
            rounds = order < scale.worth_seeds
            if name == COARSE and not rounds:
                continue  # it is there for its rounds
            found = earlier.data_set(seed, name, asdict(scale), rounds)
            if found is None and name == HIPPOCAMPUS and not real:
                continue
            found = found or part(folder / "found.json", one, folder, name, size, seed, rounds, on_progress)
            by_seed.setdefault(f"seed {seed}", {})[name] = found
            data[f"{name}, seed {seed}"] = found["digest"]
            on_progress(Progress("selection", number + 1, len(wanted), f"{name}, seed {seed}"))
    if HIPPOCAMPUS in wanted and not all(HIPPOCAMPUS in found for found in by_seed.values()):
        missing.append("hippocampus: CTUNE_HIPPOCAMPUS names no folder")
    details = dict(by_seed)
    if LARGE in wanted:
        details["large"] = earlier.large() or part(
            work / "large.json", measure_large, work / "large", preset, seeds[0], RECIPES
        )
    measures = summary(list(by_seed.values()), details.get("large"))
    return Measured(measures, details, missing, data, gates(measures, size), earlier.parts)


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
    return {
        "scale": asdict(cohort.scale),
        "model": cohort.model,
        "predicting": spent,
        "finding": found,
        "worth": worth,
        "digest": cohort.digest,
    }


def _predict(cohort: Cohort, folder: Path, on_progress: OnProgress) -> Mapping[str, Any]:
    """With the views that scoring asks for, which stay; and plainly, to know what that alone would take."""
    plain = folder.with_name(f"{folder.name}-plain")
    for begun in (folder, plain):
        # Of a run that was killed: what is there already would take no time.
        shutil.rmtree(begun, ignore_errors=True)
    views = cohort.project.config.importance.views
    flipped, plainly = (
        predict_candidates(cohort, place, seen, on_progress) for place, seen in ((folder, views), (plain, ()))
    )
    shutil.rmtree(plain)
    return {
        "cpu_seconds": round(flipped, 3),
        "plain_cpu_seconds": round(plainly, 3),
        "cases": len(cohort.candidates),
    }
