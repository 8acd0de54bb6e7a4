"""What a round costs against pool size, revised cases, classes and rounds: measured on phantoms, and carried on by a model.

Measured: processor seconds of each stage of a round (predict and score the pool, tune, evaluate) for some sizes. A straight
line is fitted to part of them and has to predict the others; its error there stands in the result. Modelled: what a pool of
8,448 CTs would take on 1, 16 and 128 H200 (``costs``), from operations that are counted and a rate that is measured where there is an
accelerator and assumed, as said, where there is none. That arithmetic is checked too: with the rate of this device it has to
predict the rounds that were measured here, and its error there stands beside the line's.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ctune.bench.catalogue import Preset
from ctune.bench.machine import device_name, torch_device
from ctune.bench.result import Measured
from ctune.bench.run import part
from ctune.bench.scaling.model import ASSUMED, Round, carried_on, errors, fit, modelled_errors, rate_of
from ctune.bench.study import EXPERT, Clock, Scale, Study, full_training, make_study, wide
from ctune.classes import NEW_FOUR, OLD_FIVE
from ctune.cohort import evaluate_cases, predict_cases
from ctune.compositions import Tuned, load_model, register_model
from ctune.config import Config
from ctune.config import preset as settings_of
from ctune.foundation import retune_model
from ctune.importance.pool import score_pool
from ctune.inference.clock import Clock as StageClock
from ctune.inference.engine import Job, predict_jobs
from ctune.inference.runtime import TorchRuntime
from ctune.model.features import window_corners
from ctune.types import OnProgress, Progress, Source


@dataclass(frozen=True)
class Plan:
    """fitted, held_out: rounds whose seconds the model learns from and has to predict. rounds: of one project in a row."""

    fitted: tuple[Round, ...]
    held_out: tuple[Round, ...]
    rounds: int
    epochs: int
    size: str = "small"
    channels: tuple[int, ...] = (8, 16, 32, 64)

    @property
    def pool(self) -> int:
        """Cases of the largest pool."""
        return max(r.pool for r in (*self.fitted, *self.held_out))


_FITTED = (Round(4, 2, 1), Round(8, 2, 1), Round(4, 4, 1), Round(4, 2, 2), Round(8, 4, 2))
PLANS = {
    Preset.SMOKE: Plan(
        (Round(2, 1, 1), Round(3, 1, 1), Round(2, 2, 1), Round(2, 1, 2)),
        (Round(4, 3, 2),),
        2,
        1,
        channels=(4, 8, 16),
    ),
    Preset.CPU: Plan(_FITTED, (Round(16, 4, 2), Round(8, 8, 2), Round(24, 8, 4)), 5, 8),
    Preset.GPU: Plan(_FITTED, (Round(16, 4, 2), Round(8, 8, 2), Round(48, 12, 4)), 5, 8, "medium"),
}


def run(preset: str, seeds: Sequence[int], work: Path, on_progress: OnProgress) -> Measured:
    """See ``ctune.bench.catalogue.Bench``."""
    device, plan = torch.device(torch_device(preset)), PLANS[Preset(preset)]
    unit = "cpu_seconds" if device.type == "cpu" else "seconds"
    by_seed, data = dict[str, Any](), dict[str, str]()
    for seed in seeds:
        folder = work / f"seed-{seed}"
        scale = Scale(plan.pool, 0, 2, plan.epochs, plan.size, look_every=1000, tune_epochs=1)
        study = make_study(folder, config_of(preset, seed), scale, seed, on_progress)
        data[f"cohort, seed {seed}"] = study.digest()
        by_seed[f"seed {seed}"] = measure(study, plan, folder, device, on_progress)
    config = config_of(preset, seeds[0])
    beside = [seed["around"] for seed in by_seed.values()]
    here = {
        **beside[0],
        # Each seed's rate was measured beside its rounds: a busy machine slows both down.
        "flops": sum(each["flops"] for each in beside) / len(beside),
        "cores": None if device.type == "cpu" else len(os.sched_getaffinity(0)),
    }
    rate = ASSUMED if device.type == "cpu" else here
    measures = summary(list(by_seed.values()), plan, rate, unit)
    missed = modelled_errors(list(by_seed.values()), [*plan.fitted, *plan.held_out], config, here, unit)
    measures |= {
        "modelled_relative_error": missed,
        "largest_modelled_relative_error": max(missed.values(), key=abs),
        "flops_per_second_here": here["flops"],
    }
    return Measured(measures, {**by_seed, "this device": here}, _assumed(preset, rate), data)


def _assumed(preset: str, rate: Mapping[str, Any]) -> list[str]:
    """What the hours on an H200 rest on, where they were not measured on one."""
    if not rate["measured"]:
        return [
            "no accelerator here: an H200's rate is its data sheet's times an assumed share, so hours on H200 are modelled"
        ]
    name = device_name(preset)
    return [] if "H200" in name else [f"hours on H200 are modelled with the rate of another device, {name}"]


def config_of(preset: str, seed: int) -> Config:
    """The phantom preset on a CPU, Swin UNETR 48 on an accelerator."""
    gpu, plan = preset == Preset.GPU, PLANS[Preset(preset)]
    config = settings_of(
        "ct" if gpu else "phantom", name="scaling", seed=seed, classes=(*OLD_FIVE, *NEW_FOUR)
    )
    changes = {
        "epochs": plan.epochs,
        "checkpoint_every": 2,
        "validate_every": 0,
        **wide(preset)[0],
    }
    train = config.train.model_copy(update=changes)
    tune = config.tune.model_copy(update={"epochs": 1, "validate_every": 0})
    base = config.base if gpu else config.base.model_copy(update={"channels": plan.channels})
    return config.model_copy(
        update={"train": train, "tune": tune, "base": base, "device": torch_device(preset)}
    )


def measure(
    study: Study, plan: Plan, folder: Path, device: torch.device, on_progress: OnProgress
) -> dict[str, Any]:
    """Seconds by stage of every round of the plan, and of some rounds in a row."""
    base = full_training(study, "base", folder / "base", device, on_progress)
    (folder / "base" / "checkpoint.safetensors").unlink(
        missing_ok=True
    )  # the weights are there: it is three times as large
    registry = study.project.open_registry()
    if not any(found.name == "base" for found in registry.names()):
        made = {name: Tuned((), {}, study.seed, 0) for name in base.classes}
        register_model(registry, "base", base, study.project.config, made, note="base of a benchmark")
    sizes = sorted({*plan.fitted, *plan.held_out}, key=lambda r: (r.revised, r.pool, r.classes))
    out: dict[str, Any] = {"sizes": {}, "rounds": []}
    run = _Warm(partial(one_round, study, sizes[0], "base", folder, device, on_progress))
    for number, size in enumerate(sizes):
        # Revised cases come from small to many: an annotation of the pool stays there.
        place = folder / f"size-{size}.json"
        out["sizes"][str(size)] = part(place, run, study, size, "base", folder, device, on_progress)
        on_progress(Progress("sizes", number + 1, len(sizes) + plan.rounds, str(size)))
    reference = "base"
    for number in range(plan.rounds):
        size = plan.fitted[0]
        found = part(
            folder / f"round-{number}.json", run, study, size, reference, folder, device, on_progress
        )
        out["rounds"].append(found)
        reference = f"sha256:{found['model']}"
        on_progress(Progress("rounds", len(sizes) + number + 1, len(sizes) + plan.rounds))
    out["around"] = part(folder / "around.json", around, study, "base", folder / "around", device)
    return out


class _Warm:
    """``one_round``, after one in this process that nobody times: the first of each stage pays for what all later ones share
    (imports, memory, kernels that are chosen), 2.6 s of an evaluation of .33 s."""

    def __init__(self, first: Any) -> None:
        self._first = first

    def __call__(self, *arguments: Any) -> dict[str, Any]:
        if self._first is not None:
            self._first()
            self._first = None
        return one_round(*arguments)


class _Counting(TorchRuntime):
    """Counts the windows that run."""

    ran = 0

    def logits(self, windows: torch.Tensor) -> Iterator[torch.Tensor]:
        self.ran += len(windows)
        yield from super().logits(windows)


def around(study: Study, reference: str, folder: Path, device: torch.device) -> dict[str, Any]:
    """Windows of a case, how many of them run, processor seconds of one pass over it around the network (of two cases, the
    second), and this device's rate (``rate_of``)."""
    config, case_ids = study.project.config, sorted(study.truth)[:2]
    network = load_model(study.project.open_registry(), reference, device).network
    for case_id in case_ids:
        clock, runtime = StageClock(), _Counting(network, network.classes[:1], config.inference)
        shutil.rmtree(folder, ignore_errors=True)
        job = Job(case_id, partial(study.project.pool.load, case_id), folder / case_id)
        predict_jobs(runtime, [job], config, model="around", clock=clock)
    shape = study.prepared(case_ids[-1], study.scale.old[:1]).image.shape
    corners = window_corners(shape, config.inference.patch_size, config.inference.overlap)
    seconds = sum(spent for stage, spent in clock.processor.items() if stage != "network")
    return {"windows": len(corners), "runs": runtime.ran, "around_s": seconds, **rate_of(str(device), config)}


def one_round(
    study: Study, size: Round, reference: str, folder: Path, device: torch.device, on_progress: OnProgress
) -> dict[str, Any]:
    """Predict and score `size.pool` cases, tune `size.classes` on `size.revised`, evaluate; the clock leaves the expert out."""
    project, names = study.project, study.scale.new[: size.classes]
    ids, digest = sorted(study.truth)[: size.pool], project.open_registry().resolve(reference)
    network = load_model(project.open_registry(), reference, device).network
    out, place, views = dict[str, Any](), folder / "predictions", project.config.importance.views_of_rounds

    def timed(stage: str, function: Any, *arguments: Any, **named: Any) -> Any:
        clock = Clock()
        clock.start()
        found = function(*arguments, **named)
        clock.stop()
        out[stage] = clock.read()
        return found

    maps = folder / "attention"
    for made in (place, maps, project.cache / "features"):
        shutil.rmtree(made, ignore_errors=True)
    classes = network.classes[: size.classes]
    timed("predict", predict_cases, project, network, digest, ids, place, classes=classes, views=views)
    timed(
        "score",
        score_pool,
        [place],
        ids,
        maps,
        grid_of=project.pool.grid,
        classes=classes,
        config=project.config,
    )
    for case_id in ids[: size.revised]:
        known = {a.class_name for a in project.pool.annotations(case_id) if a.source == Source.REVISED}
        for name, mask in study.masks(case_id, names).items():
            if name not in known:
                project.pool.annotate(case_id, name, mask, source=Source.REVISED, author=EXPERT, round=1)
    model, done = timed("tune", retune_model, project, reference, names, name="tuned", device=device)
    network = load_model(project.open_registry(), f"sha256:{model}", device).network
    timed("evaluate", evaluate_cases, project, network, folder / "scores")
    return {"stages": out, "model": model, "steps": sum(done.result.steps.values())}


def summary(seeds: Sequence[Any], plan: Plan, rate: Any, unit: str) -> dict[str, Any]:
    """The measures: the line's coefficients, its error on sizes that it did not see, the growth over rounds, the pool of CTs."""
    found = {
        stage: fit(seeds, plan.fitted, stage, unit) for stage in ("predict", "score", "tune", "evaluate")
    }
    missed = errors(seeds, plan.held_out, found, unit)
    totals = [[sum(s[unit] for s in r["stages"].values()) for r in seed["rounds"]] for seed in seeds]
    last = [rows[-1] / rows[0] for rows in totals]
    return {
        "seconds_per": found,
        "relative_error_on_unseen_sizes": missed,
        "largest_relative_error": max(abs(e) for e in missed.values()),
        "last_round_over_first": sum(last) / len(last),
        "rounds_measured": plan.rounds,
        **carried_on(rate),
    }
