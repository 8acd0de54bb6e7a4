"""Five rounds that add one class each: what is lost of the classes from before, by continual tuning and by its rivals.

Every way starts from the same base of four organs and gets, round by round, the same cases with the new class alone annotated
in them. Continual tuning is the product's own: annotations in the pool, ``retune_model``, a version in the registry. Rivals
(``benchmarks/rivals``) train every weight of one network, with two budgets: as long as continual tuning took in that round,
and as many steps as plain fine-tuning needs to learn a class. After each round all classes so far are predicted on the test
cases, on the CT's own grid.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ctune.bench.catalogue import Preset
from ctune.bench.forgetting.figures import CONTINUAL, equal_time, gates, summary
from ctune.bench.forgetting.rivals import Pace, Rival, Task, find_rivals, rivals_left_out
from ctune.bench.forgetting.rounds import look, new_stage, read_stage, write_stage
from ctune.bench.machine import torch_device
from ctune.bench.result import Measured
from ctune.bench.run import part
from ctune.bench.study import (
    EXPERT,
    WIDE_EPOCHS,
    Clock,
    Scale,
    Study,
    full_training,
    make_study,
    wide,
)
from ctune.compositions import Tuned, load_model, register_model
from ctune.config import Config
from ctune.config import preset as settings_of
from ctune.data.prepared import PreparedCase
from ctune.foundation import retune_model
from ctune.model.heads import Kind, build_head
from ctune.model.network import Network
from ctune.train import start_at_priors
from ctune.types import OnProgress, Progress, Source

OLD = ("spleen", "kidney_right", "kidney_left", "liver")
NEW = ("pancreas", "stomach", "aorta", "postcava", "gall_bladder")
SCALES = {
    Preset.SMOKE: Scale(cases=6, revised=3, tests=2, epochs=8, tune_epochs=2, old=OLD, new=NEW),
    Preset.CPU: Scale(cases=40, revised=12, tests=12, epochs=24, old=OLD, new=NEW),
    Preset.GPU: Scale(cases=120, revised=12, tests=40, epochs=100, size="medium", look_every=50, tune_epochs=WIDE_EPOCHS, old=OLD, new=NEW),
}  # fmt: skip
"""revised: cases that each round annotates, drawn anew for each."""
STEPS = {Preset.SMOKE: 2, Preset.CPU: 150, Preset.GPU: 200}
"""Steps of a rival in a round, the long budget. On phantoms, plain fine-tuning at the full rate had a new organ at a Dice of .84 after
120 of them (stomach, one cohort of 12 cases, 8 to test on); what it takes on an accelerator was not tried."""
EQUALLY_LONG = {Preset.SMOKE: False, Preset.CPU: True, Preset.GPU: True}
"""Whether rivals are also measured with the time that continual tuning took."""
CHANNELS = {Preset.SMOKE: (4, 8, 16)}


def run(preset: str, seeds: Sequence[int], work: Path, on_progress: OnProgress) -> Measured:
    """See ``ctune.bench.catalogue.Bench``."""
    # First of all: a name that is no rival is said before hours of work.
    missing = rivals_left_out()
    by_seed, data = dict[str, Any](), dict[str, str]()
    for seed in seeds:
        by_seed[f"seed {seed}"], digest = measure_seed(preset, seed, work / f"seed-{seed}", on_progress)
        data[f"cohort, seed {seed}"] = digest
    measures = summary(list(by_seed.values()))
    return Measured(measures, by_seed, missing, data, gates(measures))


def measure_seed(preset: str, seed: int, folder: Path, on_progress: OnProgress) -> tuple[dict[str, Any], str]:
    """Everything of one seed, and the digest of its cohort. Seeds in processes of their own fill the folders of one run:
    `folder` is then what ``run`` will look for, ``seed-N`` in the run's."""
    size, rivals = Preset(preset), find_rivals()
    study = make_cohort(folder, config_of(preset, seed), SCALES[size], seed, on_progress)
    device = torch.device(torch_device(preset))
    found = measure(study, rivals, STEPS[size], EQUALLY_LONG[size], folder, device, on_progress)
    return found, study.digest()


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
    in_parts, covered = wide(preset)
    train = config.train.model_copy(update={**changes, **in_parts, "epochs": scale.epochs})
    tune = config.tune.model_copy(update={**changes, **covered, "epochs": scale.tune_epochs})
    channels = CHANNELS.get(size, config.base.channels)
    base = config.base.model_copy(update={"channels": channels})
    return config.model_copy(
        update={"train": train, "tune": tune, "base": base, "device": torch_device(preset)}
    )


def measure(
    study: Study,
    rivals: Mapping[str, Rival],
    steps: int,
    equally_long: bool,
    folder: Path,
    device: torch.device,
    on_progress: OnProgress,
) -> dict[str, Any]:
    """The base, and for each way what stood after each round: `ways` with `steps`, `equal_time` as long as continual tuning."""
    base = full_training(study, "base", folder / "base", device, on_progress)
    first = folder / "rounds" / "base"
    if not (first / "stage.json").exists():
        write_stage(first, look(study, base, new_stage(base), {}), base)
    registry = study.project.open_registry()
    if not any(found.name == "base" for found in registry.names()):
        made = {name: Tuned((), {}, study.seed, 0) for name in base.classes}
        register_model(registry, "base", base, study.project.config, made, note="base of a benchmark")
    ways: dict[str, tuple[Rival, int] | None] = {CONTINUAL: None}
    long = [name for name, rival in rivals.items() if rival.long]
    ways |= {name: (rivals[name], steps) for name in long}
    if equally_long:
        ways |= {equal_time(name): (rival, 0) for name, rival in rivals.items()}
    found: dict[str, list[Any]] = {way: [] for way in ways}
    total = len(ways) * len(study.scale.new)
    for way, asked in ways.items():
        for number in range(1, len(study.scale.new) + 1):
            place = folder / "rounds" / way
            before = place / f"{number - 1}" if number > 1 else first
            where = place / f"{number}"
            learn: tuple[Any, ...] = (_continual,)
            if asked is not None:
                rival, taken = asked
                learn = (_rival, rival, taken, found[CONTINUAL][number - 1])
            arguments = (study, number, before, where, device, on_progress)
            found[way].append(part(where.with_suffix(".json"), *learn, *arguments))
            done = sum(map(len, found.values()))
            on_progress(Progress("rounds", done, total, f"{way}: {study.scale.new[number - 1]}"))
    equal = {name: found[equal_time(name)] for name in rivals} if equally_long else {}
    return {
        "base": read_stage(first).plain(),
        "ways": {way: found[way] for way in (CONTINUAL, *long)},
        "equal_time": equal,
    }


def pace_of(steps: int, ours: Mapping[str, float], device: torch.device) -> Pace:
    """So many steps or, when these are 0, as long as continual tuning took: `ours`, what stood after its round."""
    if steps:
        return Pace(steps)
    if device.type == "cpu":
        # Processor seconds: other work on the machine does not lengthen them.
        return Pace(seconds=ours["cpu_seconds"])
    return Pace(seconds=ours["seconds"], clock=time.perf_counter)


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
    rival: Rival, steps: int, ours: Mapping[str, float], study: Study, number: int, before: Path, where: Path,
    device: torch.device, on_progress: OnProgress,
) -> dict[str, Any]:  # fmt: skip
    name, old = study.scale.new[number - 1], (*study.scale.old, *study.scale.new[: number - 1])
    stage, config = read_stage(before), study.project.config
    kind = rival.head or config.heads.kind
    kinds = {n: config.heads.kind if n in study.scale.old else kind for n in old}
    network = stage.network(config, kinds, study.seed)
    earlier = [_labelled(study, sorted(study.truth)[: study.scale.cases], study.scale.old)]
    rounds = list(enumerate(study.scale.new[:number], start=1))
    earlier += [_labelled(study, cases_of_round(study, n, study.scale.revised), [new]) for n, new in rounds]
    cases = earlier.pop()
    add_head(network, name, kind, cases, study)
    clock = Clock()
    clock.start()
    pace = pace_of(steps, ours, device)
    state = rival.learn(
        network,
        Task(name, old, cases, earlier, config.train, pace, study.seed, device, on_progress),
        stage.state,
    )
    clock.stop()
    after = look(study, network, stage, {**clock.read(), "steps": pace.taken})
    write_stage(where, after, network, state)
    return after.plain()


def add_head(network: Network, name: str, kind: Kind, cases: Sequence[PreparedCase], study: Study) -> None:
    """A fresh head of a new class, as full training begins with it."""
    config = study.project.config
    head = build_head(name, kind, network.base, study.seed, config.heads)
    if config.heads.start_bias == "prior":
        # Of this head alone: the others have learnt more than odds.
        start_at_priors(Network(network.base, {name: head}), cases, [name])
    network.set_head(name, head)


def _labelled(study: Study, case_ids: Sequence[str], names: Sequence[str]) -> list[PreparedCase]:
    return [study.prepared(case_id, names) for case_id in case_ids]
