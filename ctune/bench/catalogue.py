"""The table of benchmarks; a module is imported when its benchmark runs, so that listing them stays quick."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, cast

from ctune.errors import UsageError

if TYPE_CHECKING:
    from ctune.bench.result import Measured
    from ctune.types import OnProgress

    Run: TypeAlias = Callable[[str, Sequence[int], Path, OnProgress], Measured]


class Preset(StrEnum):
    """How much a benchmark does.

    smoke: minutes at most, in CI; cpu: minutes to two hours a seed; gpu: on an accelerator, in pieces of nine minutes.
    """

    SMOKE = "smoke"
    CPU = "cpu"
    GPU = "gpu"


@dataclass(frozen=True)
class Bench:
    """One benchmark.

    `target` is ``module:function``, called as ``run(preset, seeds, work, on_progress)``; it returns ``result.Measured``.
    `work` is a folder of this run alone: what is finished is left there, so that the same command resumes after a kill.
    `plots`, if any, is a ``module:function`` too: from a ``result.BenchResult`` to a list of ``plots.Plot`` for the report.
    `headlines`: (measure, what it is in words), nested ones as ``measure.part``; a gate on one is called by these words.
    `chapter`, if any, is a ``module:function`` from a ``result.BenchResult`` to a ``tables.Chapter``, what the report tells of it;
    a benchmark without one stands in the table of systems, a row a promise.
    `joined`, if any, is a ``module:function`` from results of one preset and device, oldest first, to the one that is told of: for a benchmark
    whose runs may measure parts; by default the one with most seeds, of these the newest.
    `no_gpu`: why there is no preset gpu, where there is none. `before`: what a shell must be told before the command, in a
    line that repeats it. `once`: it measures once, many times over but of one seed: of several it takes the first. `instead`: (measure, its value, the line that repeats a result which says so), of one that may run inside something else.
    """

    name: str
    target: str
    help: str
    presets: tuple[Preset, ...] = tuple(Preset)
    plots: str = ""
    headlines: tuple[tuple[str, str], ...] = ()
    chapter: str = ""
    joined: str = ""
    no_gpu: str = ""
    before: str = ""
    instead: tuple[str, str, str] = ("", "", "")
    once: bool = False


_REAL = "CTUNE_HIPPOCAMPUS=TASK04_FOLDER"
_TUNING = (
    ("time_ratio_full_over_continual", "time of full training over that of continual tuning"),
    ("dice_new_classes.continual", "mean Dice of the new classes, tuned"),
    ("dice_new_classes.rival", "the same, trained in full on the same annotations"),
    ("unrevised_max_abs_logit_change", "largest change of a logit of a class that was not revised"),
)

BENCHES = (
    Bench(
        "speed",
        "ctune.bench.speed.protocol:run",
        "Continual tuning against full training on the same annotations: seconds, steps, Dice.",
        plots="ctune.bench.speed.plots:plots",
        headlines=_TUNING,
        chapter="ctune.bench.speed.chapter:tables",
    ),
    Bench(
        "hippocampus",
        "ctune.bench.speed.protocol:run_hippocampus",
        "The same on real MR images of the hippocampus: a base of one part, the other added from 12 cases.",
        (Preset.SMOKE, Preset.CPU),
        "ctune.bench.speed.plots:plots",
        _TUNING,
        chapter="ctune.bench.speed.chapter:tables",
        no_gpu="its images of 35 x 50 x 35 voxels and its small network leave an accelerator idle",
        before=_REAL,
    ),
    Bench(
        "training",
        "ctune.bench.training.protocol:run",
        "Full training against the same network in a plain MONAI loop, epoch by epoch in turns: steps a second, memory.",
        plots="ctune.bench.training.plots:plots",
        headlines=(
            (
                "time_ratio_monai_over_ctune",
                "time of a step in a plain MONAI loop over that of ctune's full training",
            ),
            ("computing_share", "part of full training's time in forward, backward and optimiser"),
        ),
    ),
    Bench(
        "selection",
        "ctune.bench.selection.protocol:run",
        "What importance is worth: error regions found, the order of the queue, Dice against the expert's minutes.",
        (Preset.SMOKE, Preset.CPU),
        "ctune.bench.selection.plots:plots",
        (
            ("sensitivity.ctune", "share of the error regions that attention finds"),
            ("precision.ctune", "share of the attended regions that hold one"),
            ("spearman.ctune", "rank correlation of a case's score with 1 - Dice"),
            (
                "minutes_ratio_to_random.ctune",
                "expert minutes to the Dice that random choice ends with, over its minutes",
            ),
        ),
        chapter="ctune.bench.selection.chapter:tables",
        joined="ctune.bench.selection.joined:joined",
        no_gpu="it asks which cases and regions are chosen, and a choice is the same wherever the network runs",
        before=_REAL,
    ),
    Bench(
        "forgetting",
        "ctune.bench.forgetting.protocol:run",
        "Five rounds that add one class each: what is lost of the others, by continual tuning and by rivals.",
        plots="ctune.bench.forgetting.plots:plots",
        headlines=(
            ("bwt", "backward transfer of continual tuning over five rounds"),
            ("max_case_drop", "largest fall of one class in one case since it was learnt"),
            ("acc", "mean Dice of nine classes after five rounds, continual tuning"),
            ("acc_by_way.LwF", "the same by learning without forgetting"),
        ),
        chapter="ctune.bench.forgetting.chapter:tables",
    ),
    Bench(
        "paper",
        "ctune.bench.paper.protocol:run",
        "The paper's protocol on phantoms: two backbones, both settings, every way of tuning, two rounds.",
        plots="ctune.bench.paper.plots:plots",
        headlines=(
            (
                "dice.table 2.hybrid, heads.new four",
                "mean Dice of four organs that the base never saw, tuned",
            ),
            ("dice.table 2.full, all.new four", "the same by full data through all weights"),
        ),
        chapter="ctune.bench.paper.chapter:tables",
    ),
    Bench(
        "scaling",
        "ctune.bench.scaling.protocol:run",
        "What a round costs against pool, revised cases, classes and rounds; 8,448 CTs carried on by a model.",
        plots="ctune.bench.scaling.plots:plots",
        headlines=(
            ("abdomenatlas_hours_on_h200.1", "hours of a round over 8,448 CTs on one H200, modelled"),
            ("largest_relative_error", "largest relative error of the line on rounds that it did not see"),
        ),
        chapter="ctune.bench.scaling.chapter:tables",
    ),
    Bench(
        "registry",
        "ctune.bench.registry.protocol:run",
        "How fast ten thousand versions are found, listed, shown and registered, beside plain writes and MLflow.",
        (Preset.SMOKE, Preset.CPU),
        "ctune.bench.registry.plots:plots",
        (
            ("resolve_ms", "milliseconds to resolve a reference"),
            ("register_ratio_to_plain_write", "time to register a head of 2 MiB over that of a plain write"),
        ),
        no_gpu="it measures files and a database; no accelerator takes part",
    ),
    Bench(
        "executors",
        "ctune.bench.executors:run",
        "What it costs to hand cases to workers, here or on a Ray cluster ($CTUNE_RAY_ADDRESS): their network only sleeps.",
        (Preset.SMOKE, Preset.CPU),
        headlines=(
            ("efficiency", "cases a second of all workers over what they could do without any overhead"),
            ("overhead_ms_per_case", "milliseconds of a case beyond its network"),
        ),
        no_gpu="its network only sleeps, so that handing out is all that is measured; no accelerator takes part",
        instead=("executor", "ray", "make scale-bench"),
        once=True,
    ),
    Bench(
        "inference",
        "ctune.bench.inference.protocol:run",
        "One CT from file to masks against a plain MONAI pipeline: seconds by stage, peak memory.",
        plots="ctune.bench.inference.plots:plots",
        headlines=(
            (
                "speedup_over_monai",
                "time of a plain MONAI pipeline over that of ctune, from a CT's file to nine masks",
            ),
            ("peak_memory_ratio_to_monai", "peak memory of ctune over that of the same pipeline"),
            ("tall_peak_mb", "peak memory (MiB) for a CT of 512 x 512 x 824 voxels, nine classes"),
            ("tall_peak_ratio_32_to_9_classes", "the same with 32 classes, over that with nine"),
        ),
    ),
    Bench(
        "service",
        "ctune.bench.service.protocol:run",
        "The service over HTTP: ready, overhead, parallel clients, memory, hot swap, a kill, bad inputs.",
        (Preset.SMOKE, Preset.CPU),
        headlines=(
            ("ready_seconds", "seconds from the start of the service to its first ready answer"),
            ("overhead_p95_ratio", "95th percentile of a request over that of the engine called directly"),
            ("failed_requests", "requests lost by eight parallel clients and while models changed"),
            ("swap_seconds", "seconds to load, check and switch to a new head under load"),
        ),
        no_gpu="it measures what HTTP adds to the engine; the engine on a GPU is measured by inference",
        once=True,
    ),
    Bench(
        "review",
        "ctune.bench.review.protocol:run",
        "The review page in Chromium without a GPU: first picture, brush to screen, saving.",
        (Preset.SMOKE, Preset.CPU),
        headlines=(
            ("first_picture_seconds_large", "seconds to the first picture of a CT of 512 x 512 x 200 voxels"),
            ("brush_ms_small", "milliseconds from the pen to the screen, median, CT of 128 x 128 x 64"),
            ("draft_seconds_large", "seconds to save a class of the large CT"),
            ("accept_seconds_large", "seconds from Enter to the revision on disk, large CT"),
        ),
        no_gpu="it measures a page in a browser without a graphics card",
    ),
)
"""Every benchmark, in the order in which they are listed."""


def find_bench(name: str) -> Bench:
    """A benchmark by name. Raises UsageError with the known ones.

    >>> find_bench("registry").target
    'ctune.bench.registry.protocol:run'
    """
    for bench in BENCHES:
        if bench.name == name:
            return bench
    known = ", ".join(bench.name for bench in BENCHES)
    raise UsageError(f"expected a benchmark of {known}, got {name!r}")


def check_preset(bench: Bench, preset: str) -> None:
    """Raise UsageError for a preset that a benchmark does not have; for gpu, with the reason.

    >>> check_preset(find_bench("registry"), "smoke")
    """
    if preset not in bench.presets:
        why = f": {bench.no_gpu}" if preset == Preset.GPU and bench.no_gpu else ""
        known = ", ".join(bench.presets)
        raise UsageError(f"expected one of {known} for {bench.name}, got {str(preset)!r}{why}")


def load(bench: Bench) -> Run:
    """Import a benchmark's module and return its function."""
    module, _, attribute = bench.target.partition(":")
    return cast("Run", getattr(importlib.import_module(module), attribute))
