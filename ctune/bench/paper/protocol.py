"""The paper's protocol on phantoms: two backbones, both settings, every way of tuning, two rounds, nine organs.

Table 1: the base knows all nine organs, but four were badly annotated. Table 2 and Figure 1: the base never saw these four. In
each of two rounds an expert revises the four in some cases; the model before is tuned with revised-only, hybrid or full data,
through its heads or all its weights (Zhang et al., ISBI 2024, section 3). What the paper leaves open is set here: revised-only
through all weights teaches what nobody annotated as background, which is what its collapse needs. And all weights train in a round
as they did before it, on windows as large as those that the network predicts on: its norms are of the window, and in smaller ones
it has other features.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ctune.bench.catalogue import Preset
from ctune.bench.earlier import EarlierSeeds
from ctune.bench.machine import torch_device
from ctune.bench.paper.tables import PUBLISHED, find_tables, summary
from ctune.bench.result import BenchResult, Gate, Measured
from ctune.bench.run import part, plain
from ctune.bench.study import (
    EXPERT,
    WIDE_EPOCHS,
    Clock,
    Scale,
    Study,
    full_training,
    make_study,
    score_tests,
    wide,
)
from ctune.compositions import Tuned, load_model, register_model
from ctune.config import Config, Hybrid
from ctune.config import preset as settings_of
from ctune.data.prepared import PreparedCase
from ctune.errors import UsageError
from ctune.foundation import retune_model
from ctune.project import Project
from ctune.types import Mask, OnProgress, Progress, Source, Split

ASKED = "CTUNE_PAPER_BACKBONES"
"""Names with commas: the backbones that a run measures."""
ROUNDS = 2
SETTINGS = ("table 1", "table 2")
ARMS = tuple(
    (data, trainable) for trainable in ("heads", "all") for data in ("revised-only", "hybrid", "full")
)
"""Ways of tuning, as (data, what trains); "before" is the base itself."""


@dataclass(frozen=True)
class Sizes(Scale):
    """What a study does. tune_epochs: of a round through heads.

    whole_epochs: of one through all weights; .4 of the base's, as in the paper.
    """

    whole_epochs: int = 1


@dataclass(frozen=True)
class Protocol:
    """What a preset does: the study of each backbone, and the ways that are tuned on it."""

    scales: Mapping[str, Sizes]
    arms: Mapping[str, Sequence[tuple[str, str]]]


# Two revised cases a round: one alone may lack an organ.
_TINY = Sizes(cases=4, revised=4, tests=1, epochs=2, look_every=1000, tune_epochs=1)
PROTOCOLS = {
    Preset.SMOKE: Protocol(
        {"unet_small": _TINY, "swin_unetr": replace(_TINY, cases=2, epochs=1)},
        {"unet_small": ARMS, "swin_unetr": (("hybrid", "heads"),)},
    ),
    Preset.CPU: Protocol(
        {
            "unet_small": Sizes(cases=60, revised=12, tests=20, epochs=40, look_every=1000, tune_epochs=8, whole_epochs=16),
            "swin_unetr": Sizes(cases=12, revised=6, tests=8, epochs=40, look_every=1000, tune_epochs=8, whole_epochs=16),
        },
        {"unet_small": ARMS, "swin_unetr": ARMS},
    ),
    Preset.GPU: Protocol(
        {name: Sizes(cases=120, revised=12, tests=40, epochs=100, size="medium", look_every=1000, tune_epochs=WIDE_EPOCHS, whole_epochs=40)
         for name in ("unet", "swin_unetr")},
        {"unet": ARMS, "swin_unetr": ARMS},
    ),
}  # fmt: skip


def run(preset: str, seeds: Sequence[int], work: Path, on_progress: OnProgress) -> Measured:
    """See ``ctune.bench.catalogue.Bench``."""
    device, protocol = torch.device(torch_device(preset)), PROTOCOLS[Preset(preset)]
    # First of all: a name that is no backbone is said before hours of work.
    asked = backbones(protocol)
    scales = {backbone: protocol.scales[backbone] for backbone in asked}
    found, data, earlier = dict[str, Any](), dict[str, str](), EarlierSeeds("paper", preset)
    total, done = len(seeds) * len(asked) * len(SETTINGS), 0
    for seed in seeds:
        cells = found.setdefault(f"seed {seed}", {})
        for backbone, scale in scales.items():
            ways = protocol.arms[backbone]
            agrees = partial(_as_now, backbone=backbone, scale=scale, ways=ways)
            if known := earlier.seed(seed, agrees, backbone):
                cells[backbone] = known[backbone]
                continue
            for setting in SETTINGS:
                folder = work / f"seed-{seed}" / backbone / setting.replace(" ", "-")
                study = make_setting(
                    folder, config_of(preset, backbone, seed), scale, setting, seed, on_progress
                )
                data[f"cohort, {backbone}, seed {seed}"] = study.digest()
                cells.setdefault(backbone, {})[setting] = part(
                    folder / "cell.json",
                    measure,
                    study,
                    setting,
                    ways,
                    scale.whole_epochs,
                    folder,
                    device,
                    on_progress,
                )
                # Nothing reads them again, and of a wide network they are tens of gigabytes.
                shutil.rmtree(study.project.cache / "features", ignore_errors=True)
                done += 1
                on_progress(Progress("paper", done, total, f"{backbone}, {setting}"))
    measures = summary(list(found.values()), asked[0])
    missing: tuple[str, ...] = (
        () if find_tables() else ("the paper's tables were not there to be read: their means are quoted",)
    )
    missing += tuple(f"{name} is left out, by {ASKED}" for name in protocol.scales if name not in asked)
    told = {
        "differs": differs(preset), "published": PUBLISHED, "scales": {n: asdict(s) for n, s in scales.items()},
    }  # fmt: skip
    return Measured(measures, {**found, **told}, missing, data | earlier.data, gates(measures), earlier.parts)


def differs(preset: str) -> str:
    """What sets this apart from what was published, in words."""
    networks = "" if preset == Preset.GPU else "; a small U-Net and a narrow Swin UNETR on a CPU"
    windows = "; heads see few windows without their class" if preset == Preset.GPU else ""
    return (
        f"phantoms of one cohort in place of 14 data sets of patients{networks}{windows}; the bad annotations of table 1 are the truth, grown or "
        "shrunk by a voxel and left out in a third of the slices; the revised cases are of the training pool, half of them in each of two "
        "rounds, each with all four organs, where the paper's tables have one round on other CTs; that the base of table 2 never saw the "
        "four is our reading of a text that speaks of nine classes; full training goes on from the model before, where the paper's figure "
        "1 trains from nothing; full data is all that people annotated, in table 2 the four organs in the revised cases alone, where the "
        "paper adds what a model predicts; new classes get pyramid heads, where the paper has text heads alone"
    )


def backbones(protocol: Protocol) -> list[str]:
    """The backbones that CTUNE_PAPER_BACKBONES names, in the order of the protocol; all without it.

    Raises UsageError for a name that is none.
    """
    if (names := os.environ.get(ASKED)) is None:
        return list(protocol.scales)
    wanted = [name.strip() for name in names.split(",") if name.strip()]
    unknown = [name for name in wanted if name not in protocol.scales]
    if unknown or not wanted:
        raise UsageError(
            f"expected names of {', '.join(protocol.scales)} in {ASKED}, got {unknown[0] if unknown else 'none'}; change or unset it"
        )
    return [name for name in protocol.scales if name in wanted]


def _as_now(
    result: BenchResult, kept: Mapping[str, Any], backbone: str, scale: Sizes, ways: Sequence[tuple[str, str]]
) -> bool:
    """Whether a seed of another result has a backbone at these sizes, in both settings and with every way."""
    sizes: Any = result.details.get("scales", {})
    cells, names = kept.get(backbone, {}), {"before", *(", ".join(way) for way in ways)}
    same = sizes.get(backbone) == plain(asdict(scale))
    return same and all(set(cells.get(setting, {})) == names for setting in SETTINGS)


def config_of(preset: str, backbone: str, seed: int) -> Config:
    """Settings of one backbone; on a CPU windows of 40^3, and 64 x 32 x 32 for Swin UNETR, whose coarsest stride is 32."""
    gpu = preset == Preset.GPU
    scale = PROTOCOLS[Preset(preset)].scales[backbone]
    config = settings_of("ct" if gpu else "phantom", name="paper", seed=seed, classes=scale.classes)
    changes: dict[str, Any] = {"checkpoint_every": 2, "validate_every": 0}
    in_parts, covered = wide(preset)
    window: dict[str, Any] = {} if gpu or backbone != "swin_unetr" else {"patch_size": (64, 32, 32)}
    # Pyramids read the coarsest features too: of a sub-patch of 32 voxels these are one, and heads of it found next to nothing.
    covered = {**covered, **window}
    width: dict[str, Any] = {} if gpu else {"feature_size": 12}
    if preset == Preset.SMOKE:
        width["channels"] = (4, 8)
        changes["patches_per_case"] = 2
    return config.model_copy(update={
        "base": config.base.model_copy(update={"architecture": backbone, **width}),
        "train": config.train.model_copy(update={**changes, **in_parts, **window, "epochs": scale.epochs}),
        "tune": config.tune.model_copy(update={**changes, **covered, "epochs": scale.tune_epochs}),
        "inference": config.inference.model_copy(update=window),
        # What is revised was wrong: here it wins over what was imported.
        "hybrid": Hybrid(order=("revised", "original", "predicted")),
        "device": torch_device(preset),
    })  # fmt: skip


def make_setting(
    folder: Path, config: Config, scale: Scale, setting: str, seed: int, on_progress: OnProgress
) -> Study:
    """The study of one setting, nobody having revised anything; in table 1 the four are badly annotated everywhere."""
    made = replace(make_study(folder, config, replace(scale, revised=0), seed, on_progress), scale=scale)
    if setting == "table 1":
        for case in made.project.pool.cases(Split.POOL):
            for name, mask in bad_annotations(made, case.id).items():
                if not any(a.class_name == name for a in made.project.pool.annotations(case.id)):
                    made.project.pool.annotate(
                        case.id, name, mask, source=Source.ORIGINAL, author="hasty reader"
                    )
    return made


def bad_annotations(study: Study, case_id: str) -> dict[str, Mask]:
    """The four organs as somebody in haste draws them: grown or shrunk by a voxel, and left out in a third of the slices."""
    from scipy import ndimage

    rng = np.random.default_rng([study.seed, int.from_bytes(case_id.encode()[-4:], "big")])
    out = {}
    for name, mask in study.masks(case_id, study.scale.new).items():
        change = ndimage.binary_dilation if rng.random() < 0.5 else ndimage.binary_erosion
        bad = change(mask, iterations=1).astype(np.uint8)
        bad[:, :, rng.random(mask.shape[2]) < 1 / 3] = 0
        out[name] = bad
    return out


@dataclass(frozen=True)
class _Setting(Study):
    """A study whose base trains on all that the pool's annotations say, good or bad."""

    def cases(self, arm: str) -> list[PreparedCase]:
        from ctune.cohort import hybrid_of, prepare_labels

        ids = [case.id for case in self.project.pool.cases(Split.POOL)]
        found = [(i, hybrid_of(self.project, i, (Source.ORIGINAL,)).masks) for i in ids]
        return [prepare_labels(self.project, i, masks) for i, masks in found]


def measure(
    study: Study,
    setting: str,
    arms: Sequence[tuple[str, str]],
    whole_epochs: int,
    folder: Path,
    device: torch.device,
    on_progress: OnProgress,
) -> dict[str, Any]:
    """One backbone in one setting: Dice by class and case before, and after each round of each way."""
    # The classes that full training gives heads to are those of the arm: with bad annotations all nine.
    arm = "all nine" if setting == "table 1" else "base"
    trained = _Setting(study.project, study.truth, study.scale, study.revised, study.seed)
    base = full_training(trained, arm, folder / "base", device, on_progress)
    registry, tests = study.project.open_registry(), study.tests()
    if not any(found.name == "base" for found in registry.names()):
        made = {name: Tuned((), {}, study.seed, 0) for name in base.classes}
        register_model(registry, "base", base, study.project.config, made, note="base of a benchmark")
    out: dict[str, Any] = {"before": score_tests(study, base, tests, device)}
    reached = {f"{data}, {trainable}": "base" for data, trainable in arms}
    for number in range(1, ROUNDS + 1):
        revise(study, number)
        for data, trainable in arms:
            way = f"{data}, {trainable}"
            place = folder / f"{data}-{trainable}-{number}.json"
            found = part(
                place, tune, study, reached[way], data, trainable, whole_epochs, tests, device, on_progress
            )
            reached[way] = f"sha256:{found['model']}"
            out.setdefault(way, []).append(found)
    return out


def revise(study: Study, number: int) -> None:
    """The expert revises the four organs in this round's share of the cases."""
    ids = sorted(study.truth)[: study.scale.cases]
    drawn = np.random.default_rng([study.seed, 7]).permutation(len(ids))[: study.scale.revised]
    pool = study.project.pool
    for index in np.array_split(drawn, ROUNDS)[number - 1]:
        for name, mask in study.masks(ids[int(index)], study.scale.new).items():
            known = pool.annotations(ids[int(index)])
            if not any(a.class_name == name and a.source == Source.REVISED for a in known):
                pool.annotate(ids[int(index)], name, mask, source=Source.REVISED, author=EXPERT, round=number)


AS_BEFORE = ("patch_size", "patches_per_case", "batch_size", "accumulate", "learning_rate")
"""Settings of full training that a round through all weights has."""


def tune(
    study: Study, reference: str, data: str, trainable: str, whole_epochs: int, tests: Sequence[PreparedCase],
    device: torch.device, on_progress: OnProgress,
) -> dict[str, Any]:  # fmt: skip
    """One round of one way, from the model that it left in the round before."""
    config = study.project.config
    wrong = data == "revised-only" and trainable == "all"
    changes: dict[str, Any] = {
        "data": data, "trainable": trainable, "unlabelled": "background" if wrong else "masked",
    }  # fmt: skip
    if trainable == "all":
        changes |= {name: getattr(config.train, name) for name in AS_BEFORE}
        changes["epochs"] = whole_epochs
        # As much of a round as of the base's training, an epoch at least.
        changes["warmup_epochs"] = max(1.0, config.train.warmup_epochs * whole_epochs / config.train.epochs)
    project = Project(
        study.project.root, config.model_copy(update={"tune": config.tune.model_copy(update=changes)})
    )
    clock = Clock()
    clock.start()
    digest, done = retune_model(
        project,
        reference,
        study.scale.new,
        name=f"{data}-{trainable}",
        force=True,
        device=device,
        on_progress=on_progress,
    )
    clock.stop()
    network = load_model(project.open_registry(), f"sha256:{digest}", device).network
    moved = max(done.proof.max_abs_change.values(), default=0.0) if done.proof else None
    return {
        **clock.read(), "model": digest, "dice": score_tests(study, network, tests, device),
        "max_abs_logit_change": moved, "steps": sum(done.result.steps.values()),
    }  # fmt: skip


def gates(measures: Mapping[str, Any]) -> list[Gate]:
    """Through heads alone nothing else moves; that holds at every size."""
    name = "unrevised_max_abs_logit_change"
    return [Gate(figure=name, value=measures[name], bound=0.0, reference="bit for bit")]
