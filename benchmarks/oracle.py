"""What the best possible order of the queue is worth: rounds of the cases that are worst in truth, which no score can know.

``python benchmarks/oracle.py WORK SEED [LIST ...]`` makes the hippocampus cohort of ``ctune bench selection --preset cpu`` for the seed in WORK
(CTUNE_HIPPOCAMPUS names the data), predicts its pool, and follows three lists from the same model, or those that are named: ``worst``, the worst cases
first, by Dice with the truth; ``importance``; ``random``, which are the benchmark's own. A line of JSON each: minutes of the simulated expert and mean Dice on
the test cases, before and after each round. Five minutes a list on one core.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ctune.bench.catalogue import Preset
from ctune.bench.parts import part
from ctune.bench.selection.cohort import HIPPOCAMPUS, hippocampus_folder, make_cohort
from ctune.bench.selection.figures import curve
from ctune.bench.selection.finding import dice_of_predictions, mean_of, predict_candidates
from ctune.bench.selection.worth import follow
from ctune.types import silent

LISTS = {"worst", "importance", "random"}


def main(work: Path, seed: int, lists: Sequence[str]) -> None:
    """Each list is kept as it ends; the same command goes on."""
    # Other models than the first take no part in rounds.
    cohort = make_cohort(work, HIPPOCAMPUS, Preset.CPU, seed, silent, models=1)
    predictions = work / "predictions"
    predict_candidates(cohort, predictions, (), silent)
    dice = part(work / "dice.json", dice_of_predictions, cohort, [predictions])
    worst = sorted(cohort.candidates, key=lambda case: (mean_of(list(dice[case].values())), case))
    ways: dict[str, tuple[str, list[str]]] = {
        "worst": ("random", worst),
        "importance": ("ctune", []),
        "random": ("random", []),
    }
    for name in lists or ways:
        way, only = ways[name]
        found: dict[str, Any] = part(
            work / f"{name}.json", follow, cohort, way, predictions, work / f"project-{name}", silent, only
        )
        points = [(round(minutes, 1), round(mean_dice, 4)) for minutes, mean_dice in curve(found)]
        print(json.dumps({"seed": seed, "list": name, "minutes_dice": points}), flush=True)


if __name__ == "__main__":
    if len(sys.argv) < 3 or not sys.argv[2].isdigit() or set(sys.argv[3:]) - LISTS:
        sys.exit(
            f"expected a folder, a seed and some of {', '.join(sorted(LISTS))}, got {sys.argv[1:]}; see the head of this file"
        )
    if hippocampus_folder() is None:
        sys.exit(
            "expected CTUNE_HIPPOCAMPUS to name the folder with imagesTr and labelsTr, got nothing; set it"
        )
    main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])
