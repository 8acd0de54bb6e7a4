"""The first version of a model: a base and its heads, trained on what the pool's annotations say."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from ctune.classes import ClassList
from ctune.cohort import hybrid_of, prepare_labels
from ctune.compositions import Tuned, load_model, register_model
from ctune.continual import Tuning, compose, tune_model
from ctune.errors import PoolError, UsageError
from ctune.model.base import build_base
from ctune.model.heads import build_head
from ctune.model.network import Network
from ctune.project import Project
from ctune.train import TrainResult, train
from ctune.types import AnnotationRecord, OnProgress, Source, Split, silent


def train_model(
    project: Project,
    name: str,
    classes: Sequence[str] | None = None,
    *,
    device: torch.device,
    on_progress: OnProgress = silent,
) -> tuple[str, TrainResult]:
    """Train a base with one head a class on the pool's annotations, and register it as a version of `name`.

    `classes` are by default all of the project's that the pool annotates. A run that was killed goes on from its
    checkpoint. Returns the model's digest. Raises PoolError when there is nothing to learn from.
    """
    config = project.config
    found = annotated_classes(project)
    wanted = (
        ClassList.of(classes, config.aliases)
        if classes
        else ClassList(tuple(c for c in config.classes if c in found))
    )
    missing = [c for c in wanted if c not in found]
    if missing or not len(wanted):
        raise PoolError(
            f"expected annotations of {', '.join(wanted) or 'at least one class'} in the pool, got none of "
            f"{', '.join(missing) or 'any class'}; import cases with their masks first"
        )
    base = build_base(config.base, config.seed)
    heads = {c: build_head(c, config.heads.kind, base, config.seed, config.heads) for c in wanted}
    network = Network(base, heads)
    cases, used = [], {c: list[AnnotationRecord]() for c in wanted}
    for case in project.pool.cases(Split.POOL):
        merged = hybrid_of(project, case.id, (Source.ORIGINAL, Source.REVISED))
        masks = {c: merged.masks[c] for c in wanted if c in merged.masks}
        if masks:
            cases.append(prepare_labels(project, case.id, masks))
            for c in masks:
                used[c] += merged.records[c]
    checkpoint = checkpoint_path(project, name)
    result = train(
        network,
        cases,
        config.train,
        seed=config.seed,
        device=device,
        checkpoint=checkpoint,
        on_progress=on_progress,
    )
    settings, measured = (
        config.train.model_dump(mode="json"),
        {"seconds": result.seconds, "device": str(device)},
    )
    tuned = {c: Tuned(used[c], settings, config.seed, 0, measured) for c in wanted}
    digest = register_model(
        project.open_registry(), name, network, config, tuned, note="trained from scratch"
    )
    return digest, result


def annotated_classes(project: Project) -> set[str]:
    """Classes with an original or revised annotation in at least one pool case."""
    pool = project.pool
    return {
        a.class_name
        for case in pool.cases(Split.POOL)
        for a in pool.annotations(case.id)
        if a.source != Source.PREDICTED
    }


def checkpoint_path(project: Project, name: str) -> Path:
    """Where the training of a model leaves its checkpoints."""
    return project.root / "cache" / "training" / f"{name}.safetensors"


def retune_model(
    project: Project,
    reference: str,
    classes: Sequence[str],
    *,
    name: str | None = None,
    device: torch.device,
    on_progress: OnProgress = silent,
) -> tuple[str, Tuning]:
    """Tune `classes` of a registered model outside a round, and register the result as a version of `name`.

    `name` is by default the one in `reference`. Raises UsageError when there is none, and what ``tune_model`` raises.
    """
    registry, config = project.open_registry(), project.config
    wanted = ClassList.of(classes, config.aliases)
    name = name or name_in(reference)
    model = load_model(registry, reference, device)
    with TemporaryDirectory(dir=project.root, prefix=".tuning-") as folder:
        done = tune_model(
            project, model, wanted, Path(folder), seed=config.seed, device=device, on_progress=on_progress
        )
        network = compose(model, Path(folder), wanted)
    settings = config.tune.model_dump(mode="json")
    measured = {"seconds": done.result.seconds, "device": str(device)}
    round_number = 1 + model.record.round
    tuned = {
        c: Tuned(done.annotations[c], settings, config.seed, round_number, measured) for c in done.annotations
    }
    digest = register_model(
        registry,
        name,
        network,
        config,
        tuned,
        parent=model,
        round_number=round_number,
        note=f"tuned {', '.join(wanted)}",
    )
    return digest, done


def name_in(reference: str) -> str:
    """The name that a reference begins with. Raises UsageError for a digest, which has none."""
    if reference.startswith("sha256:"):
        raise UsageError(f"expected a name for the new version, got only {reference}; give --name")
    return reference.partition("@")[0].partition(":")[0]
