"""Five rounds that add one class each: what is lost of the classes from before, by continual tuning and by its rivals.

Every way starts from the same base of four organs and gets, round by round, the same cases with the new class alone annotated
in them. Continual tuning is the product's own: annotations in the pool, ``retune_model``, a version in the registry. Rivals
(``benchmarks/rivals``) train every weight of one network. After each round all classes so far are predicted on the test
cases, on the CT's own grid.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ctune.bench.catalogue import Preset
from ctune.bench.forgetting_figures import CONTINUAL, gates, summary
from ctune.bench.machine import torch_device
from ctune.bench.result import Measured
from ctune.bench.rivals import Rival, Task, find_rivals
from ctune.bench.rounds import look, new_stage, read_stage, write_stage
from ctune.bench.run import part
from ctune.bench.study import EXPERT, Clock, Scale, Study, full_training, make_study
from ctune.compositions import Tuned, load_model, register_model
from ctune.config import Config
from ctune.config import preset as settings_of
from ctune.data.prepared import PreparedCase
from ctune.foundation import retune_model
from ctune.model.heads import build_head
from ctune.types import OnProgress, Progress, Source

OLD = ("spleen", "kidney_right", "kidney_left", "liver")
NEW = ("pancreas", "stomach", "aorta", "postcava", "gall_bladder")
SCALES = {
    Preset.SMOKE: Scale(cases=6, revised=3, tests=2, epochs=8, tune_epochs=2, old=OLD, new=NEW),
    Preset.CPU: Scale(cases=40, revised=12, tests=12, epochs=24, old=OLD, new=NEW),
    Preset.GPU: Scale(cases=120, revised=12, tests=40, epochs=100, size="medium", look_every=50, old=OLD, new=NEW),
}  # fmt: skip
"""revised: cases that each round annotates, drawn anew for each."""
STEPS = {Preset.SMOKE: 2, Preset.CPU: 25, Preset.GPU: 200}
"""Steps of a rival in a round: on a CPU about the time that continual tuning takes for its class."""
CHANNELS = {Preset.SMOKE: (4, 8, 16)}


def run(preset: str, seeds: Sequence[int], work: Path, on_progress: OnProgress) -> Measured:
    """See ``ctune.bench.catalogue.Bench``."""
    device, size, rivals = torch.device(torch_device(preset)), Preset(preset), find_rivals()
    scale, by_seed, data = SCALES[size], dict[str, Any](), dict[str, str]()
    for seed in seeds:
        folder = work / f"seed-{seed}"
        study = make_cohort(folder, config_of(preset, seed), scale, seed, on_progress)
        data[f"cohort, seed {seed}"] = study.digest()
        by_seed[f"seed {seed}"] = measure(study, rivals, STEPS[size], folder, device, on_progress)
    measures = summary(list(by_seed.values()))
    missing = [] if rivals else ["rivals: benchmarks/rivals is part of a checkout, and this is none"]
    missing += [f"not every rival: {', '.join(rivals)} alone, as CTUNE_RIVALS asked"] * (
        "CTUNE_RIVALS" in os.environ
    )
    return Measured(measures, by_seed, missing, data, gates(measures))


def make_cohort(folder: Path, config: Config, scale: Scale, seed: int, on_progress: OnProgress) -> Study:
    """A study in which nobody has annotated a new class yet."""
    study = make_study(folder, config, replace(scale, revised=0), seed, on_progress)
    return replace(study, scale=scale)


def config_of(preset: str, seed: int) -> Config:
    """Settings: the phantom preset on a CPU, Swin UNETR 48 on 96^3 patches on an accelerator."""
    size = Preset(preset)
    config = settings_of(
        "ct" if size == Preset.GPU else "phantom", name="forgetting", seed=seed, classes=(*OLD, *NEW)
    )
    scale, changes = SCALES[size], {"checkpoint_every": 2, "validate_every": 0}
    train = config.train.model_copy(update={**changes, "epochs": scale.epochs})
    tune = config.tune.model_copy(update={**changes, "epochs": scale.tune_epochs})
    channels = CHANNELS.get(size, config.base.channels)
    base = config.base.model_copy(update={"channels": channels})
    return config.model_copy(
        update={"train": train, "tune": tune, "base": base, "device": torch_device(preset)}
    )


def measure(
    study: Study,
    rivals: Mapping[str, Rival],
    steps: int,
    folder: Path,
    device: torch.device,
    on_progress: OnProgress,
) -> dict[str, Any]:
    """Everything of one seed: the base, and for each way what stood after each round."""
    base = full_training(study, "base", folder / "base", device, on_progress)
    first = folder / "rounds" / "base"
    if not (first / "stage.json").exists():
        write_stage(first, look(study, base, new_stage(base), {}), base)
    registry = study.project.open_registry()
    if not any(found.name == "base" for found in registry.names()):
        made = {name: Tuned((), {}, study.seed, 0) for name in base.classes}
        register_model(registry, "base", base, study.project.config, made, note="base of a benchmark")
    ways: dict[str, list[Any]] = {CONTINUAL: [], **{name: [] for name in rivals}}
    total = len(ways) * len(study.scale.new)
    for way, found in ways.items():
        for number in range(1, len(study.scale.new) + 1):
            place = folder / "rounds" / way
            before = place / f"{number - 1}" if number > 1 else first
            where = place / f"{number}"
            arguments = (study, number, before, where, device, on_progress)
            learn = (_continual, *arguments) if way == CONTINUAL else (_rival, rivals[way], steps, *arguments)
            found.append(part(where.with_suffix(".json"), *learn))
            done = sum(map(len, ways.values()))
            on_progress(Progress("rounds", done, total, f"{way}: {study.scale.new[number - 1]}"))
    return {"base": read_stage(first).plain(), "ways": ways}


def cases_of_round(study: Study, number: int, revised: int) -> list[str]:
    """The cases that round `number` (from 1) annotates, drawn by seed and round."""
    rng = np.random.default_rng([study.seed, number])
    ids = sorted(study.truth)[: study.scale.cases]
    return [ids[int(i)] for i in sorted(rng.choice(len(ids), min(revised, len(ids)), replace=False))]


def _continual(
    study: Study, number: int, before: Path, where: Path, device: torch.device, on_progress: OnProgress
) -> dict[str, Any]:
    project, name = study.project, study.scale.new[number - 1]
    for case_id in cases_of_round(study, number, study.scale.revised):
        if not any(a.class_name == name for a in project.pool.annotations(case_id)):
            (mask,) = study.masks(case_id, [name]).values()
            project.pool.annotate(case_id, name, mask, source=Source.REVISED, author=EXPERT, round=number)
    stage = read_stage(before)
    reference = f"sha256:{stage.model}" if stage.model else "base"
    clock = Clock()
    clock.start()
    digest, done = retune_model(
        project, reference, [name], name="growing", device=device, on_progress=on_progress
    )
    clock.stop()
    assert done.proof is not None
    network = load_model(project.open_registry(), f"sha256:{digest}", device).network
    after = look(study, network, stage, {
        **clock.read(), "steps": sum(done.result.steps.values()),
        "max_abs_logit_change": max(done.proof.max_abs_change.values()),
    })  # fmt: skip
    after.model = digest
    write_stage(where, after, None)
    return after.plain()


def _rival(
    rival: Rival, steps: int, study: Study, number: int, before: Path, where: Path, device: torch.device,
    on_progress: OnProgress,
) -> dict[str, Any]:  # fmt: skip
    name, old = study.scale.new[number - 1], (*study.scale.old, *study.scale.new[: number - 1])
    stage, config = read_stage(before), study.project.config
    network = stage.network(config, old, study.seed)
    network.set_head(name, build_head(name, config.heads.kind, network.base, study.seed, config.heads))
    earlier = [_labelled(study, sorted(study.truth)[: study.scale.cases], study.scale.old)]
    rounds = list(enumerate(study.scale.new[:number], start=1))
    earlier += [_labelled(study, cases_of_round(study, n, study.scale.revised), [new]) for n, new in rounds]
    task = Task(name, old, earlier.pop(), earlier, config.train, steps, study.seed, device, on_progress)
    clock = Clock()
    clock.start()
    state = rival(network, task, stage.state)
    clock.stop()
    after = look(study, network, stage, {**clock.read(), "steps": steps})
    write_stage(where, after, network, state)
    return after.plain()


def _labelled(study: Study, case_ids: Sequence[str], names: Sequence[str]) -> list[PreparedCase]:
    return [study.prepared(case_id, names) for case_id in case_ids]
