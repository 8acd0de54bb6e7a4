"""The cohort behind the benchmark of selection: a base that is wrong on purpose, and a pool in which it is wrong unevenly.

Phantoms: the base has seen contrast-enhanced scans alone; a part of the pool, of the validation and of the test cases are
native ones, in which kidneys, spleen and aorta look like what lies beside them. The gall bladder is left out: so short a
training learns nothing of it, and a probability of 0 everywhere leaves nothing to attend to. Errors by region are looked for
on CTs of 2.5 mm that a network sees at 5 mm, as it sees CTs in practice; rounds are run on coarse phantoms of 7 mm, which a
CPU goes through often enough. Hippocampus: real MR images, a base from few cases and few epochs that has seen one of three kinds of images.

A round is two phantoms of 48, so that four rounds revise a sixth of the pool (AbdomenAtlas-8K: a twentieth): who draws a fourth of a pool at
random has the rare cases too. Of the hippocampus it is ten images of 80, since of fewer nothing is learnt. All of the base's cases train again beside them: cases that were chosen for being unlike the rest
are a biased sample, and heads tuned on them and a third of the others lost on common cases what they gained on rare ones.

The base has text heads and rounds tune pyramids. So that a round's gain is that of its annotations and not that of a new kind
of head, pyramids of the revised classes are tuned once on the base's own cases before anything is predicted, scored or
measured: every way of choosing starts from this model.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ctune.bench.catalogue import Preset
from ctune.bench.parts import part
from ctune.bench.study import EXPERT
from ctune.classes import NINE_ORGANS, canonical
from ctune.config import Config
from ctune.config import preset as settings_of
from ctune.data.files import read_json, sha256_of
from ctune.data.found import FoundCase, FoundMasks
from ctune.data.importing import import_cases
from ctune.data.layouts import find_cases
from ctune.data.nifti import read_grid, write_mask
from ctune.data.phantom import write_cohort
from ctune.data.phantom.cohort import ABOUT
from ctune.data.splits import Splits
from ctune.errors import DataError
from ctune.foundation import retune_model, train_model
from ctune.project import Project, create_project, open_project
from ctune.types import OnProgress, Split

PHANTOMS, COARSE, HIPPOCAMPUS = "phantoms", "coarse phantoms", "hippocampus"
_BASE, _STARTED = "base", "start"
_UNSEEN = "native"
"""The contrast phase that the base has never seen."""
ANOTHER_SEED = 1000
"""Between the seeds of models that are trained alike."""
LARGE_VALUES = 2e4
"""Of an MR image: above this its numbers are of another kind."""


@dataclass(frozen=True)
class Scale:
    """Numbers of cases, of epochs of the base and of each round's tuning, of rounds and of cases in each.

    start_epochs: of the heads from which the rounds start, on the base's own cases. revised: the classes of the rounds. reuse:
    share of the base's cases that train again beside the revised ones. worth_seeds: rounds are run for so many of the first
    seeds, since they take six times as long as all else; 0 for a data set without rounds. unseen: share of what the base never saw, native scans or other kinds of images. size:
    of phantoms; network_mm: spacing of the network's grid, None for the image's own. models: how many are trained alike but for
    their seeds, so that scores of an ensemble are measured beside those of the first alone.
    """

    base: int
    pool: int
    validation: int
    tests: int
    epochs: int
    start_epochs: int
    tune_epochs: int
    rounds: int
    cases: int
    classes: tuple[str, ...]
    revised: tuple[str, ...]
    channels: tuple[int, ...] = ()
    reuse: float = 0.34
    worth_seeds: int = 1
    unseen: float = 0.2
    size: str = "small"
    network_mm: float | None = None
    models: int = 1


_EIGHT = tuple(name for name in NINE_ORGANS if name != "gall_bladder")
_TWO = ("spleen", "kidney_left")
_PARTS = ("anterior", "posterior")
SCALES = {
    PHANTOMS: {
        Preset.SMOKE: Scale(6, 8, 2, 2, 12, 1, 1, 1, 2, ("liver", "stomach"), ("liver", "stomach"), (8, 16), models=2),
        Preset.CPU: Scale(
            30, 40, 1, 1, 24, 1, 1, 1, 1, _EIGHT, _TWO, worth_seeds=0, size="medium", network_mm=5.0, models=3
        ),
    },
    COARSE: {
        Preset.CPU: Scale(24, 48, 6, 20, 24, 12, 3, 4, 2, _EIGHT, _TWO, reuse=1.0, worth_seeds=5, unseen=0.1)
    },
    HIPPOCAMPUS: {
        Preset.SMOKE: Scale(6, 8, 2, 2, 6, 1, 1, 1, 2, _PARTS, _PARTS, (8, 16), models=2),
        Preset.CPU: Scale(
            12, 80, 4, 60, 10, 16, 8, 4, 10, _PARTS, _PARTS, reuse=1.0, worth_seeds=5, unseen=0.3, models=3
        ),
    },
}  # fmt: skip


@dataclass(frozen=True)
class Cohort:
    """A project whose pool waits for selection, and the truth behind it.

    truth: folder with ``<case>/segmentations/<class>.nii.gz`` of every case. candidates: ids that nobody has annotated. model:
    in the project's registry, the one that predicts the pool and from which every way of choosing starts. others: models that
    were trained as it was, from other seeds.
    """

    project: Project
    truth: Path
    scale: Scale
    candidates: tuple[str, ...]
    seed: int
    digest: str
    model: str
    others: tuple[str, ...] = ()


def config_of(data: str, preset: Preset, seed: int) -> Config:
    """The settings of phantoms or of MR, with the epochs of the scale."""
    scale = SCALES[data][preset]
    start = settings_of(
        "mr" if data == HIPPOCAMPUS else "phantom",
        name=f"selection-{data.replace(' ', '-')}",
        seed=seed,
        classes=scale.classes,
    )
    sizes: dict[str, Any] = {"channels": scale.channels} if scale.channels else {}
    tune = {"epochs": scale.tune_epochs, "head": "pyramid", "reuse": scale.reuse, "validate_every": 1}
    spacing = {"spacing_mm": (scale.network_mm,) * 3} if scale.network_mm else {}
    return start.model_copy(update={
        "preprocessing": start.preprocessing.model_copy(update=spacing),
        "base": start.base.model_copy(update=sizes),
        "train": start.train.model_copy(update={"epochs": scale.epochs, "checkpoint_every": 2, "validate_every": 0}),
        "tune": start.tune.model_copy(update=tune),
        "device": "cpu",
    })  # fmt: skip


def hippocampus_folder() -> Path | None:
    """The folder that CTUNE_HIPPOCAMPUS names, if it does."""
    named = os.environ.get("CTUNE_HIPPOCAMPUS")
    return Path(named) if named else None


def make_cohort(
    folder: Path, data: str, preset: Preset, seed: int, on_progress: OnProgress, models: int | None = None
) -> Cohort:
    """Make the cohort in `folder` and train its models, or find them there. models: how many, those of the scale by default."""
    scale, config, root = SCALES[data][preset], config_of(data, preset, seed), folder / "project"
    scale = replace(scale, models=models or scale.models)
    ready = part(folder / "ready.json", _make, folder, data, scale, config, on_progress)
    project = Project(open_project(root).root, config)
    known = {case.id for case in project.pool.cases(Split.POOL) if project.pool.annotations(case.id)}
    free = tuple(case.id for case in project.pool.cases(Split.POOL) if case.id not in known)
    return Cohort(
        project,
        folder / ready["truth"],
        scale,
        free,
        seed,
        ready["digest"],
        ready["model"],
        tuple(ready["others"]),
    )


def _make(folder: Path, data: str, scale: Scale, config: Config, on_progress: OnProgress) -> dict[str, Any]:
    root, seed = folder / "project", config.seed
    parts = _real(scale, seed) if data == HIPPOCAMPUS else _phantoms(folder, scale, seed, on_progress)
    project = create_project(root, config) if not root.exists() else open_project(root)
    truth = _write_truth(folder / "truth", parts, scale)
    _fill(project, parts, scale)
    first, *others = [_trained(project, scale, number, on_progress) for number in range(scale.models)]
    return {
        "digest": _digest(parts), "truth": str(truth.relative_to(folder)), "model": first, "others": others
    }  # fmt: skip


def _trained(project: Project, scale: Scale, number: int, on_progress: OnProgress) -> str:
    """A base, with the heads from which rounds start where there are rounds: the model's name. number: 0 is the cohort's own, others
    have other seeds; one that is in the registry already is not trained again."""
    end = f"-{number + 1}" if number else ""
    last = (_STARTED if scale.worth_seeds else _BASE) + end
    seed = project.config.seed + ANOTHER_SEED * number
    seeded = Project(project.root, project.config.model_copy(update={"seed": seed}))
    there = {one.name for one in project.open_registry().names()}
    if last in there:
        return last
    if _BASE + end not in there:
        train_model(seeded, _BASE + end, device=torch.device("cpu"), on_progress=on_progress)
    if scale.worth_seeds:
        _start(seeded, scale, _BASE + end, last, on_progress)
    return last


def _start(project: Project, scale: Scale, base: str, name: str, on_progress: OnProgress) -> None:
    """Pyramids of the revised classes from everything that is annotated, on a base, as a model of that name."""
    config = project.config
    tune = config.tune.model_copy(update={"epochs": scale.start_epochs, "data": "full", "reuse": 0.0})
    changed = Project(project.root, config.model_copy(update={"tune": tune}))
    # By force: the text heads are to go, whatever the few validation cases say.
    retune_model(
        changed,
        base,
        scale.revised,
        name=name,
        force=True,
        device=torch.device("cpu"),
        on_progress=on_progress,
    )


_Parts = dict[str, list[FoundCase]]


def _sizes(scale: Scale) -> dict[str, int]:
    return {"base": scale.base, "pool": scale.pool, "validation": scale.validation, "tests": scale.tests}


def _phantoms(folder: Path, scale: Scale, seed: int, on_progress: OnProgress) -> _Parts:
    sizes = _sizes(scale)
    # One of three is native: twice as many as are needed leave enough of both kinds.
    write_cohort(folder / "truth", 2 * sum(sizes.values()), seed, scale.size, on_progress)
    found = sorted(find_cases(folder / "truth"), key=lambda case: case.id)
    phase = {case.id: read_json(folder / "truth" / case.id / ABOUT)["phase"] for case in found}
    unseen = [case for case in found if phase[case.id] == _UNSEEN]
    seen = [case for case in found if phase[case.id] != _UNSEEN]
    return _dealt(scale, seen, unseen)


def _real(scale: Scale, seed: int) -> _Parts:
    folder = hippocampus_folder()
    assert folder is not None
    found = sorted(find_cases(folder), key=lambda case: case.id)
    order = [found[int(i)] for i in np.random.default_rng([seed, 5]).permutation(len(found))]
    kinds = {case.id: kind_of_image(case.image) for case in order if case.image is not None}
    most = max(set(kinds.values()), key=lambda kind: (list(kinds.values()).count(kind), kind))
    seen = [case for case in order if kinds.get(case.id) == most]
    return _dealt(scale, seen, [case for case in order if case not in seen])


def kind_of_image(path: Path) -> str:
    """How the voxels of an MR image lie on disk, which tells where it comes from: "bytes", "small" or "large" numbers.

    The Decathlon's hippocampus was put together from uncalibrated images of three kinds: uint8, and float32 below and above 2e4.
    """
    import nibabel as nib

    image = nib.load(path)
    if image.get_data_dtype().itemsize == 1:
        return "bytes"
    return "large" if float(np.asanyarray(image.dataobj).max()) > LARGE_VALUES else "small"


def _dealt(scale: Scale, seen: list[FoundCase], unseen: list[FoundCase]) -> _Parts:
    """The base from what it is to have seen alone; of all else a part is of the other kind, at least one."""
    parts = {}
    for name, count in _sizes(scale).items():
        odd = 0 if name == "base" else max(1, round(scale.unseen * count))
        parts[name] = [*_take(seen, count - odd), *_take(unseen, odd)]
    return parts


def _take(cases: list[FoundCase], count: int) -> list[FoundCase]:
    if len(cases) < count:
        raise DataError(f"expected at least {count} more cases, found {len(cases)}; give a larger cohort")
    taken, cases[:] = cases[:count], cases[count:]
    return taken


def _write_truth(folder: Path, parts: _Parts, scale: Scale) -> Path:
    """Masks where a simulated expert looks for them; phantoms have theirs there already."""
    for case in (case for cases in parts.values() for case in cases):
        theirs = {canonical(name): name for name in case.names}
        place = folder / case.id / "segmentations"
        if place.exists() or case.image is None:
            continue
        grid = read_grid(case.image, case.id)
        masks = FoundMasks(case, {name: theirs[name] for name in scale.classes}, grid)
        for name in scale.classes:
            write_mask(place / f"{name}.nii.gz", masks[name], grid)
    return folder


def _fill(project: Project, parts: _Parts, scale: Scale) -> None:
    for name, split in (
        ("base", Split.POOL),
        ("validation", Split.VALIDATION),
        ("tests", Split.TEST),
        ("pool", Split.POOL),
    ):
        cases = parts[name]
        if name == "pool":
            # Nobody has judged them: they come as images alone.
            cases = [replace(c, masks={}, label_map=None, labels={}) for c in cases]
        report = import_cases(
            project.pool,
            cases,
            classes=None if name == "pool" else scale.classes,
            splits=Splits(rest=split),
            author=EXPERT,
        )
        if report.refused:
            raise DataError(f"expected every case to be imported, got: {report.refused[0].reason}")


def _digest(parts: _Parts) -> str:
    import hashlib

    images: Sequence[Path] = [c.image for cases in parts.values() for c in cases if c.image]
    lines = "".join(f"{sha256_of(path)}  {path.name}\n" for path in sorted(images))
    return hashlib.sha256(lines.encode()).hexdigest()
