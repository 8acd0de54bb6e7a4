"""Full training: ctune's against the same network in a plain loop of MONAI's parts, epoch by epoch in turns.

Each way trains in a process of its own, so that its peak of resident memory is its own, and only one works at a time: what
else the machine does hits all of them alike. A turn is one epoch of each way; the order changes from turn to turn, the first
turn warms up and does not count. The plain loop (CacheDataset, RandCropByPosNegLabeld, DataLoader) runs without and with
processes that load; the faster of the two is what ctune is compared with. Wall seconds, since loading is what differs.

A sitting is some turns of fresh processes, which begin with the same weights and warm up anew: a run that is stopped goes on with the
next sitting.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median
from typing import Any

import torch

from ctune.bench.catalogue import Preset
from ctune.bench.machine import torch_device
from ctune.bench.result import Gate, Measured
from ctune.bench.run import part
from ctune.config import Config
from ctune.config import preset as settings_of
from ctune.data.files import sha256_of, write_json
from ctune.data.phantom import write_cohort
from ctune.types import OnProgress, Progress

CTUNE, PLAIN, LOADED = "ctune", "monai", "monai, processes load"
WAYS = (CTUNE, PLAIN, LOADED)
WORK = "import sys; from ctune.bench.training.ways import work; work(sys.argv[1])"
"""What a way's process runs."""


@dataclass(frozen=True)
class Scale:
    """cases: phantoms of `size`. turns: that count, in each of the sittings of a seed. preset: where the settings start;
    changes: what differs in training. ways: that are compared."""

    cases: int
    turns: int
    size: str
    preset: str
    changes: Mapping[str, Any]
    sittings: int = 1
    ways: tuple[str, ...] = WAYS


SCALES = {
    Preset.SMOKE: Scale(2, 1, "small", "phantom", {"patch_size": (24, 24, 24)}, ways=(CTUNE, PLAIN)),
    Preset.CPU: Scale(8, 4, "small", "phantom", {}, sittings=3),
    # A patch of Swin UNETR 48 keeps some 5 GB for its backward pass, and the ways' processes are there together: with the
    # published batch of 24 they would not fit.
    Preset.GPU: Scale(24, 4, "medium", "ct", {"batch_size": 4}, sittings=3),
}


def run(preset: str, seeds: Sequence[int], work: Path, on_progress: OnProgress) -> Measured:
    """See ``ctune.bench.catalogue.Bench``."""
    scale, found = SCALES[Preset(preset)], {}
    data: dict[str, str] = {}
    sittings = [(seed, number) for seed in seeds for number in range(1, scale.sittings + 1)]
    for done, (seed, number) in enumerate(sittings, start=1):
        cohort, name = work / f"cohort-{seed}", f"seed {seed}, sitting {number}"
        ids = write_cohort(cohort, scale.cases, seed, scale.size, on_progress)
        data |= {f"{case}, seed {seed}": sha256_of(cohort / case / "ct.nii.gz") for case in ids}
        place = work / f"seed-{seed}-sitting-{number}.json"
        found[name] = part(place, compare, cohort, preset, scale, seed, work, scale.ways)
        on_progress(Progress("training", done, len(sittings), name))
    measures = summary(list(found.values()))
    return Measured(measures, found, (), data, gates(measures, preset))


def config_of(scale: Scale, seed: int) -> Config:
    """The preset's settings, with one epoch a turn."""
    config = settings_of(scale.preset, name="training", seed=seed)
    changes = {**scale.changes, "epochs": scale.turns + 1}
    return config.model_copy(update={"train": config.train.model_copy(update=changes)})


def compare(
    cohort: Path, preset: str, scale: Scale, seed: int, work: Path, names: Sequence[str] = WAYS
) -> dict[str, Any]:
    """Ways turn by turn: seconds of each epoch, and what each says at its end."""
    config = config_of(scale, seed)
    steps = -(-scale.cases * config.train.patches_per_case // config.train.batch_size)
    ways: dict[str, _Way] = {}
    try:
        for name in names:
            ways[name] = _Way(name, cohort, config, seed, torch_device(preset), work / f"seed-{seed}")
        prepare = {name: way.answer()["prepare"] for name, way in ways.items()}
        turns = []
        for turn in range(scale.turns + 1):
            order = names if turn % 2 else names[::-1]
            turns.append({name: ways[name].go()["seconds"] for name in order})
        return {
            "steps_a_turn": steps,
            "turns": turns[1:],
            "prepare": prepare,
            "ends": {name: way.end() for name, way in ways.items()},
        }
    finally:
        for way in ways.values():
            way.stop()


class _Way:
    """One way's process. It is prepared before the next one starts, and works only between a question and its answer."""

    def __init__(self, name: str, cohort: Path, config: Config, seed: int, device: str, folder: Path) -> None:
        self._name, file = name, name.replace(", ", "-").replace(" ", "-")
        job, self._said = folder / f"{file}.json", folder / f"{file}.txt"
        workers = min(4, torch.get_num_threads()) if name == LOADED else 0
        write_json(
            job,
            {
                "way": CTUNE if name == CTUNE else PLAIN, "workers": workers, "cohort": str(cohort),
                "scratch": str(folder / "prepared"), "config": config.model_dump(mode="json"), "seed": seed,
                "device": device, "threads": torch.get_num_threads(),
            },
        )  # fmt: skip
        with self._said.open("w") as said:
            self._process = subprocess.Popen(
                [sys.executable, "-c", WORK, str(job)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=said,
                text=True,
            )  # fmt: skip
        self._first = self._read()

    def answer(self) -> dict[str, Any]:
        """What it said when it was ready."""
        return self._first

    def go(self) -> dict[str, Any]:
        """One epoch."""
        assert self._process.stdin
        self._process.stdin.write("go\n")
        self._process.stdin.flush()
        return self._read()

    def end(self) -> dict[str, Any]:
        """End the training: what all of it took, and what was held at most."""
        assert self._process.stdin
        self._process.stdin.close()
        return {**self._read(), **self._read()}

    def stop(self) -> None:
        """End the process, whatever it does."""
        if self._process.stdin:
            self._process.stdin.close()
        try:
            self._process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            said = self._said.read_text(encoding="utf-8").strip()[-2000:]
            raise RuntimeError(f"expected {self._name} to train, got: {said}")
        answer: dict[str, Any] = json.loads(line)
        return answer


def summary(sittings: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Steps a second of each way, what the plain loop takes over ctune turn by turn, shares and stages."""
    turns = [turn for sitting in sittings for turn in sitting["turns"]]
    steps, ways = sittings[0]["steps_a_turn"], tuple(sittings[0]["ends"])
    seconds = {way: median(turn[way] for turn in turns) for way in ways}
    rival = min((way for way in ways if way != CTUNE), key=lambda way: seconds[way])
    ends = {way: [sitting["ends"][way] for sitting in sittings] for way in ways}
    on_gpu = {w: max(e["gpu_peak_mb"] for e in each) for w, each in ends.items() if "gpu_peak_mb" in each[0]}
    wait = {way: sum(e["wait"] for e in each) / sum(e["seconds"] for e in each) for way, each in ends.items()}
    ratios = [turn[rival] / turn[CTUNE] for turn in turns]
    return {
        "steps_per_second": {way: steps / seconds[way] for way in ways},
        "time_ratio_monai_over_ctune": median(ratios),
        "time_ratio_by_turn": {"lowest": min(ratios), "highest": max(ratios), "turns": len(ratios)},
        "rival": rival,
        "computing_share": 1 - wait[CTUNE],
        "computing_share_by_way": {way: 1 - share for way, share in wait.items()},
        "peak_mb": {way: max(e["peak_mb"] for e in each) for way, each in ends.items()},
        **({"training_gpu_peak_mb": on_gpu} if on_gpu else {}),
        "step_stage_seconds": {
            way: {
                "wait for patches": seconds[way] / steps * wait[way],
                "forward, backward, optimiser": seconds[way] / steps * (1 - wait[way]),
            }
            for way in ways
        },
        "prepare_seconds": {way: mean(sitting["prepare"][way] for sitting in sittings) for way in ways},
    }


def gates(measures: Mapping[str, Any], preset: str) -> list[Gate]:
    """What is promised of full training; steps of some milliseconds, as in smoke, show nothing."""
    if preset == Preset.SMOKE:
        return []
    return [
        Gate(figure="time_ratio_monai_over_ctune", value=measures["time_ratio_monai_over_ctune"], bound=1.0,
             at_most=False, reference="not slower per step than the same network in a plain MONAI loop"),
        Gate(figure="computing_share", value=measures["computing_share"], bound=0.9, at_most=False,
             reference="no stalls for data: nine tenths of the time in forward, backward and optimiser"),
    ]  # fmt: skip
