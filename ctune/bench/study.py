"""The study behind the benchmarks of tuning: a cohort as a project, a base of some classes, others to add.

The cohort is made of phantoms or found in a folder. Of `cases` in the pool all are annotated for the old classes and `revised` of them, drawn by the seed, also for the
new ones. What trains against what:

base      full training on the old classes, where continual tuning starts
rival     full training on exactly the annotations that there are
ceiling   full training with every class annotated in every case: what more annotation would bring
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from ctune.bench.catalogue import Preset
from ctune.classes import NEW_FOUR, OLD_FIVE, canonical
from ctune.cohort import prepare_labels
from ctune.config import Config, Optimisation
from ctune.data.files import sha256_of, write_atomically
from ctune.data.found import FoundCase, FoundMasks
from ctune.data.importing import import_cases
from ctune.data.layouts import find_cases
from ctune.data.phantom import write_cohort
from ctune.data.prepared import PreparedCase
from ctune.data.splits import Splits
from ctune.errors import DataError
from ctune.model.base import build_base
from ctune.model.heads import build_head
from ctune.model.network import Network
from ctune.project import Project, create_project, open_project
from ctune.train import start_at_priors, train
from ctune.types import Mask, OnProgress, Source, Split
from ctune.watch import Validation, live_features

EXPERT = "truth"
WIDE_TRAIN: Mapping[str, Any] = {"accumulate": 6}
WIDE_TUNE: Mapping[str, Any] = {
    "window_cover": "organ", "background_windows": 2, "cache_gb": 40.0,
    "patch_size": (64, 64, 64), "patches_per_case": 4, "learning_rate": 1e-3, "warmup_epochs": 4,
}  # fmt: skip
"""Of Swin UNETR 48 on windows of 96^3, as accelerators train it: a batch of 24 has 112 GiB of activations at once; all windows of twelve
CTs are 90 GB of features, those that hold an organ and two others a fifth, which costs Dice (docs/method.md). With the preset's
warm-up of 20 epochs, a step each, a head of a few epochs would only warm up."""
WIDE_EPOCHS = 60
"""Of a tuning so: of twelve cases 120 steps a class, about as many as on a CPU."""


def wide(preset: str) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """What a preset changes in the settings of (training, tuning) for Swin UNETR 48; nothing off an accelerator."""
    return (WIDE_TRAIN, WIDE_TUNE) if preset == Preset.GPU else ({}, {})


@dataclass(frozen=True)
class Scale:
    """How much a study does. cases, revised, tests: numbers of cases. epochs: of full training; tune_epochs: of a tuning.

    base_epochs: of the base, None: as many as full training; its time counts for nobody.
    size: of phantoms; a cohort that is found in a folder has its own. look_every: epochs between looks at the test cases.
    """

    cases: int
    revised: int
    tests: int
    epochs: int
    size: str = "small"
    look_every: int = 4
    tune_epochs: int = 4
    base_epochs: int | None = None
    old: tuple[str, ...] = OLD_FIVE
    new: tuple[str, ...] = NEW_FOUR

    @property
    def classes(self) -> tuple[str, ...]:
        return (*self.old, *self.new)


@dataclass(frozen=True)
class Study:
    """A project with the truth of its cases. revised: the ids of those that annotate the new classes too."""

    project: Project
    truth: Mapping[str, FoundCase]
    scale: Scale
    revised: tuple[str, ...]
    seed: int

    def cases(self, arm: str) -> list[PreparedCase]:
        """The training cases of an arm (base, rival, ceiling) with the labels that it sees."""
        return [
            self.prepared(case.id, self._names(arm, case.id)) for case in self.project.pool.cases(Split.POOL)
        ]

    def tests(self) -> list[PreparedCase]:
        """The test cases, all classes annotated; they train nothing and choose nothing."""
        return [self.prepared(case.id, self.scale.classes) for case in self.project.pool.cases(Split.TEST)]

    def prepared(self, case_id: str, names: Sequence[str]) -> PreparedCase:
        """One case in the network's space, labelled by the truth."""
        return prepare_labels(self.project, case_id, self.masks(case_id, names))

    def masks(self, case_id: str, names: Sequence[str]) -> Mapping[str, Mask]:
        """{class: (X, Y, Z) uint8} of what is true of a case."""
        case = self.truth[case_id]
        theirs = {canonical(name): name for name in case.names}
        return FoundMasks(case, {name: theirs[name] for name in names}, self.project.pool.grid(case_id))

    def settings(self, arm: str) -> Optimisation:
        """Those of the full training of an arm."""
        settings = self.project.config.train
        epochs = self.scale.base_epochs if arm == "base" else None
        return settings.model_copy(update={"epochs": epochs}) if epochs else settings

    def _names(self, arm: str, case_id: str) -> tuple[str, ...]:
        seen = arm == "ceiling" or (arm == "rival" and case_id in self.revised)
        return self.scale.classes if seen else self.scale.old

    def digest(self) -> str:
        """sha256 over the images and masks of the cohort, in the order of their names."""
        files = {path for case in self.truth.values() for path in _files(case)}
        lines = "".join(f"{sha256_of(file)}  {file.name}\n" for file in sorted(files))
        return hashlib.sha256(lines.encode()).hexdigest()


def _files(case: FoundCase) -> list[Path]:
    return [path for path in (case.image, case.label_map, *case.masks.values()) if path]


def make_study(
    work: Path, config: Config, scale: Scale, seed: int, on_progress: OnProgress, data: Path | None = None
) -> Study:
    """Make the project of a cohort in `work`, or find it there. data: a folder of real cases; None makes phantoms."""
    if data is None:
        data = work / "truth"
        write_cohort(data, scale.cases + scale.tests, seed, scale.size, on_progress)
    found = sorted(find_cases(data), key=lambda case: case.id)[: scale.cases + scale.tests]
    if len(found) < scale.cases + scale.tests:
        raise DataError(
            f"expected {scale.cases + scale.tests} cases in {data}, found {len(found)}; give a larger cohort"
        )
    drawn = np.random.default_rng([seed, scale.revised]).choice(scale.cases, scale.revised, replace=False)
    truth = {case.id: case for case in found}
    revised, root, ready = tuple(found[int(i)].id for i in sorted(drawn)), work / "project", work / "ready"
    if not ready.exists():
        shutil.rmtree(root, ignore_errors=True)
        # In silence: a run that stops at a step would make a project that is half filled anew, for ever.
        _fill(Study(create_project(root, config), truth, scale, revised, seed))
        ready.touch()
    return Study(Project(open_project(root).root, config), truth, scale, revised, seed)


def _fill(study: Study) -> None:
    pool, scale, found = study.project.pool, study.scale, list(study.truth.values())
    halves = (
        (found[: scale.cases], scale.old, Split.POOL),
        (found[scale.cases :], scale.classes, Split.TEST),
    )
    for cases, classes, split in halves:
        report = import_cases(pool, cases, classes=classes, splits=Splits(rest=split), author=EXPERT)
        if report.refused:
            raise DataError(f"expected every case to be imported, got: {report.refused[0].reason}")
    for case_id in study.revised:
        for name, mask in study.masks(case_id, scale.new).items():
            pool.annotate(case_id, name, mask, source=Source.REVISED, author=EXPERT, round=1)


class Clock:
    """Processor and wall seconds of what runs between `start` and `stop`, added up over several stretches."""

    def __init__(self, cpu: float = 0.0, wall: float = 0.0) -> None:
        self.cpu, self.wall = cpu, wall

    def start(self) -> None:
        _arrive()
        self._from = (time.process_time(), time.perf_counter())

    def stop(self) -> None:
        _arrive()
        self.cpu += time.process_time() - self._from[0]
        self.wall += time.perf_counter() - self._from[1]

    def read(self) -> dict[str, float]:
        return {"cpu_seconds": round(self.cpu, 2), "seconds": round(self.wall, 2)}


def _arrive() -> None:
    """Wait for what an accelerator was asked for: it answers before it has worked."""
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.synchronize()


def full_training(
    study: Study, arm: str, folder: Path, device: torch.device, on_progress: OnProgress
) -> Network:
    """Train an arm from scratch, or find it trained; the curve of what it cost and gave is in ``curve(folder)``.

    Seconds are those of the training alone: preparing cases before it and looking at the test cases do not count.
    """
    network, tests = _fresh(study, arm), study.tests()
    weights = folder / "network.safetensors"
    if weights.exists():
        network.load_state_dict(load_file(weights))
        network.to(device).eval()
        return network
    settings = study.settings(arm)
    cases, kept = study.cases(arm), curve(folder)
    if study.project.config.heads.start_bias == "prior":
        start_at_priors(network, cases, network.classes)
    rows = kept[: len(kept) // settings.checkpoint_every * settings.checkpoint_every]
    clock = Clock(
        **{k: rows[-1][n] for k, n in (("cpu", "cpu_seconds"), ("wall", "seconds"))} if rows else {}
    )

    def on_epoch(epoch: int, now: Network) -> bool:
        clock.stop()
        row: dict[str, Any] = {"epoch": epoch, **clock.read()}
        if epoch % study.scale.look_every == 0 or epoch == settings.epochs:
            row["dice"] = means(score_tests(study, now, tests, device))
            now.train()
        rows[epoch - 1 :] = [row]
        _write_curve(folder, rows)
        clock.start()
        return False

    clock.start()
    train(
        network, cases, settings, seed=study.seed, device=device, checkpoint=folder / "checkpoint.safetensors",
        on_epoch=on_epoch, on_progress=on_progress,
    )  # fmt: skip
    with write_atomically(weights) as temporary:
        save_file({k: v.detach().cpu().contiguous() for k, v in network.state_dict().items()}, temporary)
    # With the optimiser's state three times as large as the weights, and never read again.
    (folder / "checkpoint.safetensors").unlink(missing_ok=True)
    return network


STEPS_BESIDE = 10
"""Of full training, timed before and after a tuning."""


def seconds_a_step(study: Study, arm: str, device: torch.device) -> dict[str, float]:
    """Processor and wall seconds of one step of an arm's full training, timed here and now over an epoch of a few cases.

    The epoch before it warms up. A machine that others use is slower at one time than at another; what is compared with these was
    measured beside them.
    """
    settings = study.project.config.train
    settings = settings.model_copy(update={"epochs": max(2, settings.epochs)})
    few = -(-STEPS_BESIDE * settings.batch_size // settings.patches_per_case)
    cases, clock, epochs = study.cases(arm)[:few], Clock(), []

    def on_epoch(epoch: int, _: Network) -> bool:
        clock.stop()
        epochs.append(clock.read())
        clock.cpu = clock.wall = 0.0
        clock.start()
        return epoch == 2

    clock.start()
    # No checkpoint: nothing is kept of it.
    train(_fresh(study, arm), cases, settings, seed=study.seed, device=device, on_epoch=on_epoch)
    steps = -(-len(cases) * settings.patches_per_case // settings.batch_size)
    return {unit: seconds / steps for unit, seconds in epochs[1].items()}


def curve(folder: Path) -> list[dict[str, Any]]:
    """One row an epoch: epoch, cpu_seconds and seconds so far, and at a look {class: mean Dice on the test cases}."""
    path = folder / "curve.json"
    return list(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else []


def _write_curve(folder: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    with write_atomically(folder / "curve.json") as temporary:
        temporary.write_text(json.dumps(rows), encoding="utf-8")


def _fresh(study: Study, arm: str) -> Network:
    config = study.project.config
    names = study.scale.old if arm == "base" else study.scale.classes
    base = build_base(config.base, study.seed)
    heads = {name: build_head(name, config.heads.kind, base, study.seed, config.heads) for name in names}
    return Network(base, heads)


def score_tests(
    study: Study, network: Network, tests: Sequence[PreparedCase], device: torch.device
) -> dict[str, dict[str, float | None]]:
    """{class: {case: Dice}} on the network's grid; None where a class is absent and was rightly not found."""
    inference = study.project.config.inference
    look = Validation(tests, live_features(network.base, inference.patch_size, device), inference, device)
    found = look.dice(network, network.classes)
    return {name: {case.case_id: case.dice for case in dice.cases} for name, dice in found.items()}


def means(dice: Mapping[str, Mapping[str, float | None]]) -> dict[str, float]:
    """{class: mean Dice over the cases where there is something to measure}."""
    return {
        name: float(np.mean([value for value in cases.values() if value is not None] or [0.0]))
        for name, cases in dice.items()
    }
