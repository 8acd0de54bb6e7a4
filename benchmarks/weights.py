"""What the best possible weights are worth: the order of the queue by weights that were told the truth of every other case.

``python benchmarks/weights.py WORK SEED`` makes the hippocampus cohort of ``ctune bench selection --preset cpu`` for the seed in WORK, as
``oracle.py`` does (CTUNE_HIPPOCAMPUS names the data), predicts its pool once and scores it. A line of JSON: Spearman's rank correlation with
1 - Dice of the score as it is, of a ridge regression of 1 - Dice on all measures of both classes with the case itself left out, the truth of all others
known, and of the same with the case itself known, which is more than any weights can be worth.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy.stats import spearmanr

from ctune.bench.catalogue import Preset
from ctune.bench.selection.cohort import HIPPOCAMPUS, hippocampus_folder, make_cohort
from ctune.bench.selection.finding import (
    dice_of_predictions,
    mean_of,
    predict_candidates,
    score_candidates,
)
from ctune.types import silent

RIDGE = 10.0
"""Of measures in units of their deviation over the pool; 1 and 100 gave the same to .03."""

Values = npt.NDArray[np.float64]


def main(work: Path, seed: int) -> None:
    """The same command goes on where it was stopped."""
    cohort = make_cohort(work, HIPPOCAMPUS, Preset.CPU, seed, silent, models=1)
    predictions = [work / "predictions"]
    predict_candidates(cohort, predictions[0], (), silent)
    scored, _ = score_candidates(cohort, "ctune", predictions, work / "scores", silent)
    dice = dice_of_predictions(cohort, predictions)
    wrong = np.array([1 - mean_of(list(dice[one.case_id].values())) for one in scored])
    measures = np.array(
        [[value for of in one.classes.values() for _, value in sorted(of.measures.items())] for one in scored]
    )
    left_out = [
        fitted(np.delete(measures, n, 0), np.delete(wrong, n), measures[n]) for n in range(len(wrong))
    ]
    found = {
        "given": [one.score for one in scored],
        "told the truth of the others": left_out,
        "told all": [fitted(measures, wrong, row) for row in measures],
    }
    rho = {name: round(float(spearmanr(values, wrong).statistic), 3) for name, values in found.items()}
    print(json.dumps({"seed": seed, "cases": len(wrong), "spearman": rho}), flush=True)


def fitted(measures: Values, wrong: Values, row: Values) -> float:
    """What a ridge regression of `wrong` (N,) on `measures` (N, M) says of a `row` (M,)."""
    middle, unit = measures.mean(axis=0), measures.std(axis=0) + 1e-9
    known = (measures - middle) / unit
    weights = np.linalg.solve(
        known.T @ known + RIDGE * np.eye(known.shape[1]), known.T @ (wrong - wrong.mean())
    )
    return float(wrong.mean() + (row - middle) / unit @ weights)


if __name__ == "__main__":
    if len(sys.argv) != 3 or not sys.argv[2].isdigit():
        sys.exit(f"expected a folder and a seed, got {sys.argv[1:]}; see the head of this file")
    if hippocampus_folder() is None:
        sys.exit(
            "expected CTUNE_HIPPOCAMPUS to name the folder with imagesTr and labelsTr, got nothing; set it"
        )
    main(Path(sys.argv[1]), int(sys.argv[2]))
