"""What brings tuned heads nearer to full training with everything annotated: more revised cases, or more steps.

``python benchmarks/growth.py WORK/seed-K CASESxEPOCHS ...``, as in ``seed-0 12x3 50x3``, tunes fresh pyramid heads of the new classes on the
base that ``ctune bench speed --preset cpu`` has for seed K, from so many revised cases in so many epochs, and prints a line of JSON each:
steps a class, processor seconds, mean Dice of each new class on the test cases. Cohort and base are made in the folder (half an
hour) unless they are there, from an unfinished run of the benchmark or from here. One process, one core.
"""

from __future__ import annotations

import json
import re
import sys
import tempfile
import time
from pathlib import Path

import torch

from ctune.bench.catalogue import Preset
from ctune.bench.speed.protocol import SCALES, config_of
from ctune.bench.study import Study, full_training, make_study, means, score_tests
from ctune.model.heads import build_head
from ctune.tune import tune_heads
from ctune.types import Split, silent

CPU = torch.device("cpu")


def main(folder: Path, sizes: list[tuple[int, int]]) -> None:
    """Measure each size in turn; features of a case are computed once for all of them."""
    seed = int(folder.name.removeprefix("seed-"))
    study = make_study(folder, config_of(Preset.CPU, seed), SCALES[Preset.CPU], seed, silent)
    with tempfile.TemporaryDirectory() as cache:
        for cases, epochs in sizes:
            print(json.dumps(measure(study, folder, cases, epochs, Path(cache))), flush=True)


def measure(study: Study, folder: Path, count: int, epochs: int, cache: Path) -> dict[str, object]:
    """Tune and score once. The first cases are those that the benchmark itself revised."""
    config, scale = study.project.config, study.scale
    network = full_training(study, "base", folder / "base", CPU, silent)
    for name in scale.new:
        network.set_head(name, build_head(name, "pyramid", network.base, study.seed, config.heads))
    others = [c.id for c in study.project.pool.cases(Split.POOL) if c.id not in study.revised]
    cases = [study.prepared(case_id, scale.classes) for case_id in [*study.revised, *others][:count]]
    begun = time.process_time()
    tuned = tune_heads(
        network,
        scale.new,
        cases,
        config.tune.model_copy(update={"epochs": epochs}),
        window=config.inference.patch_size,
        overlap=config.inference.overlap,
        seed=study.seed,
        device=CPU,
        cache=cache,
    )
    spent = time.process_time() - begun
    dice = score_tests(study, network, study.tests(), CPU)
    found = means({name: dice[name] for name in scale.new})
    return {
        "cases": count,
        "epochs": epochs,
        "steps": dict(tuned.steps),
        "cpu_seconds": round(spent, 1),
        "dice": {name: round(value, 4) for name, value in found.items()},
        "mean": round(sum(found.values()) / len(found), 4),
    }


if __name__ == "__main__":
    torch.set_num_threads(1)
    place, *sizes = sys.argv[1:] or [""]
    if not re.fullmatch(r"seed-\d+", Path(place).name) or not all(re.fullmatch(r"\d+x\d+", s) for s in sizes):
        sys.exit(
            f"expected a folder seed-K and sizes as 12x3 (cases x epochs), got {sys.argv[1:]}; see the head of this file"
        )
    main(Path(place), [(int(c), int(e)) for c, e in (size.split("x") for size in sizes)])
