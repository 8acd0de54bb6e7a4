"""The first version of a model: a base and its heads, trained on what the pool's annotations say."""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from ctune.classes import ClassList, nearest
from ctune.compositions import Model, Tuned, load_model, may_be_name, register_model
from ctune.config import Tuning as TuneSettings
from ctune.continual import TUNING, Tuning, probe_windows, tune_model, validation_data, watch_training
from ctune.data.prepared import PreparedCase
from ctune.distributed import ALONE, Group, must_be_alone
from ctune.errors import PoolError, UsageError
from ctune.meanwhile import already_on, build_on, prove_on, replaced, unless_overtaken
from ctune.model.base import build_base
from ctune.model.heads import build_head
from ctune.model.network import Network
from ctune.optimise import identity_of
from ctune.outcome import compose, new_heads, read_record, seen
from ctune.project import Project
from ctune.strategy import FORGETFUL, must_be_seen, training_data
from ctune.train import TrainResult, settle, start_at_priors, train
from ctune.tune import Proof
from ctune.types import OnProgress, Source, Split, silent
from ctune.watch import Look

_TEMPORARY = ".tuning-"
_ABANDONED_SECONDS = 24 * 3600.0
_FORGOTTEN_SECONDS = 30 * 24 * 3600.0


def train_model(
    project: Project,
    name: str,
    classes: Sequence[str] | None = None,
    *,
    device: torch.device,
    on_progress: OnProgress = silent,
    group: Group = ALONE,
) -> tuple[str, TrainResult]:
    """Train a base with one head a class on the pool's annotations, and register it as a version of `name`.

    `classes` are by default all of the project's that the pool annotates. A run that was killed goes on from its
    checkpoint. Returns the model's digest. With several processes (`group`) each calls this; the first prepares the cases,
    looks at the validation cases and registers. Raises PoolError when there is nothing to learn from.
    """
    config = project.config
    may_be_name(name)  # now, not when the training has ended
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
            f"{', '.join(missing) or 'any class'}; {_did_you_mean(missing, found)}import cases with their masks first"
        )
    base = build_base(config.base, config.seed)
    heads = {c: build_head(c, config.heads.kind, base, config.seed, project.heads) for c in wanted}
    network = Network(base, heads)
    # The first brings images and labels into the network's space, the others find them there.
    group.told(lambda: len(training_data(project, wanted, wanted, TuneSettings(data="full"))[0]))
    cases, used = training_data(project, wanted, wanted, TuneSettings(data="full"))
    must_be_seen(cases, wanted)
    if config.heads.start_bias == "prior":
        start_at_priors(network, cases, network.classes)
    result, look = _train_watched(project, name, network, cases, device, on_progress, group)
    settings = config.train.model_dump(mode="json")
    measured = {"seconds": result.seconds, "device": str(device), "processes": group.size}
    said = seen(look) if look else {}
    tuned = {
        c: Tuned(used[c], settings, config.seed, 0, {**measured, "validation": said.get(c)}) for c in wanted
    }

    def register() -> str:
        return register_model(
            project.open_registry(), name, network, config, tuned, note="trained from scratch"
        )

    return group.told(register), result


def _did_you_mean(missing: Sequence[str], found: set[str]) -> str:
    hints = [hint for name in missing if (hint := nearest(name, found))]
    return f"did you mean {', '.join(hints)}? or " if hints else ""


def _train_watched(
    project: Project,
    name: str,
    network: Network,
    cases: Sequence[PreparedCase],
    device: torch.device,
    on_progress: OnProgress,
    group: Group,
) -> tuple[TrainResult, Look | None]:
    """Train, and in the first process end with the weights that did best on the validation cases; with the last ones where there is no case."""
    config, checkpoint = project.config, checkpoint_path(project, name)
    network.to(device)
    watched = validation_data(project, network.classes) if config.train.validate_every else []
    watch = watch_training(project, network, watched, config.train, device, checkpoint.with_suffix(".best"))
    if watch:
        watch.resume(identity_of(config.train, config.seed, network, network.classes, [*cases, *watched]))
    result = train(
        network, cases, config.train, seed=config.seed, device=device, checkpoint=checkpoint,
        on_epoch=watch.on_epoch if watch else None, on_progress=on_progress, group=group,
    )  # fmt: skip
    look = watch.restore() if watch and group.first else None
    settle(network)
    return result, look


def annotated_classes(project: Project) -> set[str]:
    """Classes with an original or revised annotation in at least one pool case."""
    pool = project.pool
    return {
        project.class_of(a)
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
    force: bool = False,
    device: torch.device,
    on_progress: OnProgress = silent,
) -> tuple[str, Tuning]:
    """Tune `classes` of a registered model outside a round, and register the result as a version of `name`.

    `name` is by default the one in `reference`. Heads that are worse than those they replace (``Tuning.kept``) are not
    registered, unless `force`; when none is left there is no new version, and the digest is the old model's.
    Where heads alone were tuned and the newest version of `name` came meanwhile with the same base, the new heads go on
    top of it (``Tuning.onto``). Other versions that came meanwhile are in ``Tuning.beside``.
    Raises UsageError when there is no name or no class, and what ``tune_model`` raises.
    """
    must_be_alone("ctune tune")
    registry, config = project.open_registry(), project.config
    wanted = ClassList.of(classes, config.aliases)
    if not len(wanted):
        raise UsageError("expected at least one class to tune, got none; name some with --classes")
    name = may_be_name(name or name_in(reference))
    model = load_model(registry, reference, device)
    before = {str(version) for version in registry.versions(name)}
    _sweep(project)
    with TemporaryDirectory(dir=project.root, prefix=_TEMPORARY) as temporary:
        folder = Path(temporary)
        done = tune_model(
            project,
            model,
            wanted,
            folder,
            seed=config.seed,
            device=device,
            force=force,
            on_progress=on_progress,
        )
        landed = register_on_newest(
            project, model, folder, name, before,
            seed=config.seed, measured={"seconds": done.result.seconds, "device": str(device)},
        )  # fmt: skip
    digest, proof = landed.digest, landed.proof or done.proof
    others = [v for v in registry.versions(name) if v.digest not in (digest, model.digest)]
    came = tuple(str(v) for v in others if str(v) not in before)
    beside = () if landed.onto else came
    return digest, replace(done, proof=proof, onto=landed.onto, over=landed.over, beside=beside)


@dataclass(frozen=True)
class Landed:
    """Where the heads of a tuning came to stand. digest: the model's.

    onto: the version (``NAME:VERSION``) that came meanwhile and that they were put on, "" for none. over: classes of which it
    had another head than the model that was tuned. proof: that nothing else of that version moved.
    """

    digest: str
    onto: str = ""
    over: tuple[str, ...] = ()
    proof: Proof | None = None


def register_on_newest(
    project: Project,
    model: Model,
    folder: Path,
    name: str,
    before: Collection[str],
    *,
    seed: int,
    measured: Mapping[str, Any],
    round_number: int | None = None,
    note: str = "",
    maybe_again: bool = False,
) -> Landed:
    """Register a tuning on the newest version of `name`, where ``meanwhile.build_on`` allows it, else on `model`.

    before: the versions that were there when it began (``NAME:VERSION``). round_number: by default the next one of the model
    that the heads are put on. Asked again until no other version comes between the look and the registration. maybe_again: who
    calls may have been killed right after it did so before; then what was registered is found.
    """
    tuned, settings = new_heads(folder), project.config.tune
    heads_alone = settings.trainable == "heads" and settings.start == "model" and tuned
    while True:
        versions = model.registry.versions(name)
        if (
            maybe_again
            and heads_alone
            and (there := already_on(model, versions, before, folder, tuned)) is not None
        ):
            return Landed(there)
        newest = build_on(model, versions, before) if heads_alone else None
        proof, onto, over = None, "", tuple[str, ...]()
        if newest:
            annotations = read_record(folder)["annotations"]
            cases = sorted({a.case_id for c in tuned for a in annotations.get(c, ())})
            proof = prove_on(newest, folder, tuned, probe_windows(project, cases[:2]))
            onto, over = str(versions[-1]), replaced(model, newest, tuned)
        register = partial(
            register_tuning, project, model, folder, name, seed=seed,
            round_number=1 + (newest or model).record.round if round_number is None else round_number,
            note=note, measured=measured, newest=newest, onto=onto, after=versions[-1].version if versions else 0,
        )  # fmt: skip
        if (digest := unless_overtaken(register)) is not None:
            return Landed(digest, onto, over, proof)


def _sweep(project: Project) -> None:
    """Remove what tunings that were killed left a day ago or earlier, and checkpoints that nobody went on from in a month."""
    for left in project.root.glob(f"{_TEMPORARY}*"):
        with contextlib.suppress(FileNotFoundError):
            if time.time() - left.stat().st_mtime > _ABANDONED_SECONDS:
                shutil.rmtree(left, ignore_errors=True)
    for left in (project.cache / "training").glob(f"{TUNING}*"):
        with contextlib.suppress(FileNotFoundError):
            if time.time() - left.stat().st_mtime > _FORGOTTEN_SECONDS:
                left.unlink()


def register_tuning(
    project: Project,
    model: Model,
    folder: Path,
    name: str,
    *,
    seed: int,
    round_number: int,
    measured: Mapping[str, Any],
    note: str,
    newest: Model | None = None,
    onto: str = "",
    after: int | None = None,
) -> str:
    """Register what a tuning left in `folder` as a version of `name`; the model's own digest when it left no weights.

    newest: the model on which the heads go, where it is not `model`; `onto` is its ``NAME:VERSION``. after: as in
    ``register_model``.
    """
    config, about, new = project.config, read_record(folder), new_heads(folder)
    if not new:
        return model.digest
    settings = config.tune.model_dump(mode="json")
    tuned = {
        c: Tuned(
            about["annotations"].get(c, ()), settings, seed, round_number,
            {**measured, "validation": about["validation"].get(c), "change": about["changes"].get(c)},
        )
        for c in new
    }  # fmt: skip
    going_on = config.tune.start == "model"
    return register_model(
        project.open_registry(), name, compose(newest or model, folder), config, tuned,
        parent=(newest or model) if going_on else None, tuned_from=model if going_on else None,
        round_number=round_number, note=tuning_note(config.tune, about, note, onto), after=after,
    )  # fmt: skip


def tuning_note(settings: TuneSettings, about: Mapping[str, Any], note: str = "", onto: str = "") -> str:
    """What a person should know of a tuned version: which heads are new, from what, and what stayed."""
    parts = [note or f"tuned {', '.join(about['classes'])}"]
    if onto:
        parts.append(f"on {onto}, which came meanwhile")
    if settings.start == "scratch":
        parts.append("from scratch")
    parts += [f"{c} kept its old head" for c in about["kept"]]
    worse = {c: change for c, change in about["changes"].items() if change["high"] < 0}
    forced = [
        f"{c} worse (Dice {change['old']:.3f} to {change['new']:.3f})"
        for c, change in worse.items()
        if c not in about["kept"]
    ]
    if forced:
        parts.append(f"forced: {', '.join(forced)}")
    if settings.unlabelled == "background":
        parts.append(f"WARNING: {FORGETFUL}")
    return "; ".join(parts)


def name_in(reference: str) -> str:
    """The name that a reference begins with. Raises UsageError for a digest, which has none."""
    if reference.startswith("sha256:"):
        raise UsageError(f"expected a name for the new version, got only {reference}; give --name")
    return reference.partition("@")[0].partition(":")[0]
