"""What importance is worth: errors found by region, the order of the queue, and Dice against the expert's minutes.

For each seed and data set: a cohort with a base that is wrong on purpose (``cohort``), scores and attention of its pool by
both recipes (``finding``), and rounds for every way of choosing (``worth``). Once: what scoring costs (``cost``), and a large case (``large``). Hippocampus is measured where
CTUNE_HIPPOCAMPUS names the folder of the Decathlon's Task04_Hippocampus. Seeds and data sets can be measured by several
processes and put together (``parts``).
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ctune.bench.catalogue import Preset
from ctune.bench.parts import part
from ctune.bench.result import Measured
from ctune.bench.selection.cohort import (
    COARSE,
    HIPPOCAMPUS,
    PHANTOMS,
    SCALES,
    Cohort,
    hippocampus_folder,
    make_cohort,
)
from ctune.bench.selection.cost import measure as measure_cost
from ctune.bench.selection.figures import gates, summary
from ctune.bench.selection.finding import PLAIN, RECIPES, SEVERAL, VIEWS, measure, predict_candidates
from ctune.bench.selection.large import measure as measure_large
from ctune.bench.selection.parts import Earlier, asked, folder_of
from ctune.bench.selection.worth import measure as measure_worth
from ctune.types import OnProgress, Progress

LARGE, COST = "large case", "cost"
ALONE = {LARGE: "large", COST: "cost"}
"""What is measured once and not for each seed: {name: where it stands in a result's details}."""


def run(preset: str, seeds: Sequence[int], work: Path, on_progress: OnProgress) -> Measured:
    """See ``ctune.bench.catalogue.Bench``."""
    size, real, earlier = Preset(preset), hippocampus_folder(), Earlier(preset)
    every = [name for name, sizes in SCALES.items() if size in sizes]
    wanted = asked([*every, *ALONE])
    missing = [
        f"{name}: not among those of CTUNE_SELECTION_DATA" for name in (*every, *ALONE) if name not in wanted
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
        details["large"] = earlier.alone("large") or part(
            work / "large.json", measure_large, work / "large", preset, seeds[0], RECIPES
        )
    if COST in wanted:
        alike = asdict(replace(SCALES[PHANTOMS][size], models=1))
        details["cost"] = earlier.alone("cost", alike) or part(
            work / "cost.json", measure_cost, work / "cost", size, seeds[0], on_progress
        )
    measures = summary(list(by_seed.values()), details.get("large"), details.get("cost"))
    return Measured(measures, details, missing, data, gates(measures, size), earlier.parts)


def one(
    folder: Path, data: str, preset: Preset, seed: int, rounds: bool, on_progress: OnProgress
) -> dict[str, Any]:
    """Everything of one data set and seed, with rounds or without; each way of choosing is kept as it ends."""
    cohort = make_cohort(folder, data, preset, seed, on_progress)
    places = _Places(folder)
    spent = part(folder / "predicted.json", _predict, cohort, places, on_progress)
    arms = places.arms(cohort)
    found = {
        arm: part(folder / f"finding-{arm}.json", measure, cohort, predictions, folder / f"scores-{arm}", on_progress)
        for arm, predictions in arms.items()
    }  # fmt: skip
    worth = measure_worth(cohort, arms[PLAIN][0], folder, on_progress) if rounds else {}
    done = {place for predictions in arms.values() for place in predictions}
    for place in (*done, *(folder / f"scores-{arm}" for arm in arms), cohort.project.cache):
        shutil.rmtree(place, ignore_errors=True)
    measured: dict[str, Any] = shortened({
        "scale": asdict(cohort.scale),
        "model": cohort.model,
        "predicting": spent,
        "finding": found.pop(PLAIN),
        "finding_also": found,
        "worth": worth,
        "digest": cohort.digest,
    })  # fmt: skip
    return measured


def shortened(value: Any) -> Any:
    """The same with numbers of six digits: a result holds those of some ten thousand cases, and no figure is told with more.

    >>> shortened({"dice": [0.8123456789, 3]})
    {'dice': [0.812346, 3]}
    """
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, Mapping):
        return {key: shortened(item) for key, item in value.items()}
    return [shortened(item) for item in value] if isinstance(value, list | tuple) else value


@dataclass(frozen=True)
class _Places:
    """Where predictions of the pool lie."""

    folder: Path

    def arms(self, cohort: Cohort) -> dict[str, list[Path]]:
        """{what scores are made from: the predictions}: one model's plain pass, as rounds have it; that model and its views; the plain
        passes of several models. Where there is one model, as of phantoms that are there for their rounds, the first alone."""
        plain = [self.folder / f"predictions-{n + 1}" for n in range(1 + len(cohort.others))]
        also = {VIEWS: [self.folder / "predictions-views"], SEVERAL: plain} if cohort.others else {}
        return {PLAIN: plain[:1], **also}


def _predict(cohort: Cohort, places: _Places, on_progress: OnProgress) -> Mapping[str, Any]:
    """Processor seconds of predicting the pool, by arm."""
    arms = places.arms(cohort)
    for begun in {place for predictions in arms.values() for place in predictions}:
        # Of a run that was killed: what is there already would take no time.
        shutil.rmtree(begun, ignore_errors=True)
    plain = [
        predict_candidates(cohort, place, (), on_progress, model)
        for place, model in zip(arms.get(SEVERAL, arms[PLAIN]), (cohort.model, *cohort.others), strict=True)
    ]
    out = {"cases": len(cohort.candidates), "cpu_seconds": round(plain[0], 3)}
    if VIEWS in arms:
        views = cohort.project.config.importance.views
        seconds = predict_candidates(cohort, arms[VIEWS][0], views, on_progress)
        out |= {"views_cpu_seconds": round(seconds, 3), "several_cpu_seconds": round(sum(plain), 3)}
    return out
