"""Continual tuning of a registered model on a project's annotations: which cases train, what moved, what did not.

The value of a tuning is a folder of weights (``outcome``): the tuned heads, and the base too where the settings let it train.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from ctune.classes import nearest
from ctune.cohort import hybrid_of, prepare_labels
from ctune.compositions import Model
from ctune.config import Config, Optimisation
from ctune.data.prepared import PreparedCase
from ctune.data.preprocess import to_network
from ctune.errors import ModelError
from ctune.model.base import build_base
from ctune.model.features import cut, window_corners
from ctune.model.freeze import fingerprint, tune_only
from ctune.model.heads import Kind, build_head
from ctune.model.network import Network
from ctune.optimise import HOW, identity_of
from ctune.outcome import compose, write_record, write_weights
from ctune.predict import masks_of, predict_case
from ctune.project import Project
from ctune.replay import earlier_cases, known_scores, replay_cases
from ctune.strategy import JUDGED, must_be_seen, only, training_cases, training_data
from ctune.train import settle, start_at_priors, train
from ctune.tune import Proof, TuneResult, feature_source, prove_unmoved, snapshot, tune_heads
from ctune.types import AnnotationRecord, OnProgress, Source, Split, silent
from ctune.validate import Change, compare
from ctune.watch import Validation, Watch, cached_features, live_features, look_of

TUNING = "tune-"
"""How the names of a tuning's checkpoints begin."""


@dataclass(frozen=True)
class Tuning:
    """What a tuning did, and on what.

    proof is None when the settings let more than the heads train. changes: {class: its new head against the one it
    replaces, on the validation cases}. kept: classes whose old head stays because the new one is worse. onto: the version
    that came meanwhile and on which the new heads went; over: their classes that had another head there than where the
    tuning began. beside: versions that came meanwhile and of which the new one has no head.
    unchecked: classes that moved with the base and that no validation case annotates. reused: cases of earlier rounds that
    trained again.
    """

    result: TuneResult
    proof: Proof | None
    annotations: Mapping[str, Sequence[AnnotationRecord]]
    changes: Mapping[str, Change] = field(default_factory=dict)
    kept: tuple[str, ...] = ()
    onto: str = ""
    over: tuple[str, ...] = ()
    beside: tuple[str, ...] = ()
    unchecked: tuple[str, ...] = ()
    reused: tuple[str, ...] = ()


def tune_model(
    project: Project,
    model: Model,
    classes: Sequence[str],
    folder: Path,
    *,
    seed: int,
    device: torch.device,
    force: bool = False,
    on_progress: OnProgress = silent,
) -> Tuning:
    """Tune `classes` of `model` as ``config.tune`` says, and leave the weights in `folder`.

    Classes without a head get a new one. With ``trainable = "heads"`` the weights are read back from `folder`, put on the
    base, and every other class's logits are compared bit for bit with those before (FrozenChangedError).
    A new head that is worse than the one it replaces on the validation cases is left out of `folder`, unless `force`;
    where the base moved, heads cannot be exchanged one by one, and then all are left out.
    Where more than heads trains, a tuning that was killed goes on from its checkpoint.
    Raises ModelError when no case annotates a class.
    """
    settings, heads_alone = project.config.tune, project.config.tune.trainable == "heads"
    network, trained, cases, used, reused = _material(project, model, classes, seed)
    unrevised = [name for name in network.classes if name not in classes]
    probes = probe_windows(project, [case.case_id for case in cases[:2]])
    before = snapshot(network, unrevised, probes)
    watched = validation_data(project, trained)
    # Before anything trains: the heads of `model` are tuned in place.
    look = _validation(project, model.network, watched, device, frozen=heads_alone)
    old = look.dice(model.network, [n for n in trained if n in model.network.classes]) if look else {}
    made = add_missing_heads(
        network, classes, project.config.model_copy(update={"heads": project.heads}), seed
    )
    if not heads_alone and project.config.heads.start_bias == "prior":
        # As full training begins. Heads on a frozen base take sub-patches around their class, where no odds are needed.
        start_at_priors(network, cases, trained if settings.start == "scratch" else made)
    checkpoint = checkpoint_of(project, model, classes, seed)
    if heads_alone:
        result = _tune_heads(project, network, classes, cases, watched, seed, device, on_progress)
    else:
        result = _tune_more(project, network, classes, cases, watched, seed, device, on_progress, checkpoint)
    result = _looked_at_once(
        result, _validation(project, network, watched, device, frozen=heads_alone), network, trained
    )
    new = {name: dice for look in result.kept.values() for name, dice in look.dice.items()}
    changes = {name: change for name in new if name in old and (change := compare(old[name], new[name]))}
    kept = () if force else _kept(changes, trained, one_by_one=heads_alone and settings.start == "model")
    moved = [name for name in trained if name not in kept]
    new_base = bool(moved) and not (heads_alone and settings.start == "model")
    write_weights(folder, network, moved, with_base=new_base)
    proof = None
    if heads_alone and moved:
        proof = prove_unmoved(before, snapshot(compose(model, folder), unrevised, probes))
    write_record(folder, classes, result, used, changes, kept)
    for left in checkpoint.parent.glob(f"{checkpoint.stem}.*"):
        left.unlink(missing_ok=True)
    unchecked = () if heads_alone else tuple(n for n in moved if n not in new and n in model.record.heads)
    return Tuning(result, proof, used, changes, kept, unchecked=unchecked, reused=tuple(reused))


def checkpoint_of(project: Project, model: Model, classes: Sequence[str], seed: int) -> Path:
    """Where the tuning of `classes` of `model` leaves its checkpoints, while it runs; one of other settings has others."""
    settings = project.config.tune.model_dump(mode="json", exclude=HOW)
    about = json.dumps(
        [model.digest, sorted(classes), seed, settings, project.config.heads.start_bias], sort_keys=True
    )
    name = f"{TUNING}{hashlib.sha256(about.encode()).hexdigest()[:16]}.safetensors"
    return project.cache / "training" / name


def _best_of(checkpoint: Path) -> Path:
    return checkpoint.with_suffix(".best")


def _looked_at_once(
    result: TuneResult, look: Validation | None, network: Network, trained: Sequence[str]
) -> TuneResult:
    """The result with one look at the last weights of what nobody looked at while it trained (``validate_every = 0``)."""
    if look is None:
        return result
    kept = dict(result.kept)
    for watched, losses in result.losses.items():
        dice = {} if watched in kept else look.dice(network, trained if watched == "all" else (watched,))
        if dice:
            kept[watched] = look_of(len(losses), dice)
    return replace(result, kept=kept)


def _material(
    project: Project, model: Model, classes: Sequence[str], seed: int
) -> tuple[Network, tuple[str, ...], list[PreparedCase], dict[str, list[AnnotationRecord]], list[str]]:
    """(the network to start from, the classes that train, their cases, the annotations behind them, cases that train again)."""
    settings = project.config.tune
    # From scratch there are no other heads that a frozen part could belong to.
    alone = settings.trainable == "heads" or (settings.start == "scratch" and settings.trainable != "all")
    known = () if alone else model.network.classes
    trained = tuple(dict.fromkeys([*known, *classes]))
    if settings.data == "hybrid" and not alone:
        predict_missing(project, model, training_cases(project, classes, settings))
    again = replayed_cases(project, classes, trained, seed)
    # Neighbours are of every class that is known, so that it is of no matter which others are tuned.
    others = [*project.config.classes, *model.network.classes] if alone and settings.neighbour_share else []
    labelled = tuple(dict.fromkeys([*trained, *others]))
    cases, found = training_data(project, classes, labelled, settings, again)
    cases, used = [c for c in cases if set(c.labels) & set(trained)], {n: found[n] for n in trained}
    for name in classes:
        if not used[name]:
            hint = nearest(name, set(project.config.classes) | set(model.network.classes))
            raise ModelError(
                f"expected at least one case with an annotation of {name}, got none; "
                + (f"did you mean {hint}? or " if hint and hint != name else "")
                + "revise one first"
                + ("" if settings.data == "full" else " (`--data full` also takes what was imported)")
            )
    old = model.network.classes if settings.start == "model" else ()
    must_be_seen(cases, [name for name in classes if name not in old])
    if settings.start == "model":
        return model.network, trained, cases, used, again
    trained = tuple(name for name in trained if used[name])
    fresh = fresh_network(project, model, trained, seed)
    return fresh, trained, cases, {n: used[n] for n in trained}, again


def replayed_cases(project: Project, classes: Sequence[str], trained: Sequence[str], seed: int) -> list[str]:
    """Cases annotated earlier that train again, as ``tune.reuse`` says."""
    settings = project.config.tune
    if not settings.reuse:
        return []
    earlier = earlier_cases(project, trained, training_cases(project, classes, settings))
    return replay_cases(earlier, known_scores(project, earlier), settings.reuse, seed)


def _kept(changes: Mapping[str, Change], trained: Sequence[str], *, one_by_one: bool) -> tuple[str, ...]:
    worse = tuple(name for name, change in changes.items() if change.worse)
    return worse if one_by_one or not worse else tuple(trained)


def fresh_network(project: Project, model: Model, classes: Sequence[str], seed: int) -> Network:
    """A base like the model's and heads of `classes`, all with random weights; kinds as the model's, or as configured."""
    config = project.config
    base = build_base(model.network.base.config, seed)
    heads = {}
    for name in classes:
        known = name in model.network.classes
        own = model.network.head(name).kind if known else config.heads.kind
        kind = own if config.tune.head == "keep" else config.tune.head
        heads[name] = build_head(name, kind, base, seed, project.heads)
    return Network(base, heads).to(next(model.network.parameters()).device)


def predict_missing(project: Project, model: Model, case_ids: Sequence[str]) -> None:
    """Keep in the pool, as predicted annotations, what `model` says of its classes that people have not annotated in a case.

    What another model predicted does not count as known: of two predictions the newer one is taken (``hybrid.merge``).
    """
    pool, network = project.pool, model.network
    for case_id in case_ids:
        known = {
            project.class_of(record)
            for record in pool.annotations(case_id)
            if record.source in JUDGED or record.model == model.digest
        }
        missing = [name for name in network.classes if name not in known]
        if missing:
            prediction = predict_case(
                network, pool.load(case_id), project.config, model=model.digest, classes=missing
            )
            for name, mask in masks_of(prediction, project.config.inference.threshold).items():
                pool.annotate(
                    case_id,
                    name,
                    mask,
                    source=Source.PREDICTED,
                    author="ctune",
                    round=model.record.round,
                    model=model.digest,
                )


def _tune_heads(
    project: Project,
    network: Network,
    classes: Sequence[str],
    cases: Sequence[PreparedCase],
    watched: Sequence[PreparedCase],
    seed: int,
    device: torch.device,
    on_progress: OnProgress,
) -> TuneResult:
    config = project.config
    return tune_heads(
        network,
        classes,
        cases,
        config.tune,
        window=config.inference.patch_size,
        overlap=config.inference.overlap,
        seed=seed,
        device=device,
        cache=feature_folder(project),
        validation=_validation(project, network, watched, device, frozen=True),
        on_progress=on_progress,
    )


def _tune_more(
    project: Project,
    network: Network,
    classes: Sequence[str],
    cases: Sequence[PreparedCase],
    watched: Sequence[PreparedCase],
    seed: int,
    device: torch.device,
    on_progress: OnProgress,
    checkpoint: Path,
) -> TuneResult:
    """heads+decoder or all: ordinary training steps through what is not frozen, on the labels that the data names."""
    settings = project.config.tune
    tune_only(network, classes, trainable=settings.trainable)
    watch = watch_training(project, network, watched, settings, device, _best_of(checkpoint))
    if watch:
        watch.resume(identity_of(settings, seed, network, network.classes, [*cases, *watched]))
    done = train(
        network, cases, settings, seed=seed, device=device, checkpoint=checkpoint,
        on_epoch=watch.on_epoch if watch else None, on_progress=on_progress,
    )  # fmt: skip
    look = watch.restore() if watch else None
    settle(network)
    looks = {"all": tuple(watch.looks)} if watch else {}
    return TuneResult(
        {"all": done.losses}, {"all": done.steps}, done.seconds, 0.0, looks, {"all": look} if look else {}
    )


def feature_folder(project: Project) -> Path:
    """Where the project keeps frozen features."""
    return project.cache / "features"


def validation_data(project: Project, classes: Sequence[str]) -> list[PreparedCase]:
    """The validation cases in which people have annotated at least one of `classes`, in the network's space."""
    out = []
    for case in project.pool.cases(Split.VALIDATION):
        masks = only(hybrid_of(project, case.id, JUDGED), classes).masks
        if masks:
            out.append(prepare_labels(project, case.id, masks))
    return out


def _validation(
    project: Project, network: Network, cases: Sequence[PreparedCase], device: torch.device, *, frozen: bool
) -> Validation | None:
    """The validation cases, with cached features where the base is frozen; None when there is no case to look at."""
    if not cases:
        return None
    inference, base = project.config.inference, network.base
    if frozen:
        digest, settings = fingerprint(base, modes=False), project.config.tune
        source = feature_source(feature_folder(project), network, digest, settings, device, pin=False)
        return Validation(cases, cached_features(source, inference.patch_size), inference, device)
    return Validation(cases, live_features(base, inference.patch_size, device), inference, device)


def watch_training(
    project: Project,
    network: Network,
    cases: Sequence[PreparedCase],
    settings: Optimisation,
    device: torch.device,
    keep: Path | None = None,
) -> Watch | None:
    """A watch over all classes of a network whose base trains; None without validation cases. keep: as in ``Watch``."""
    validation = _validation(project, network, cases, device, frozen=False)
    if validation is None or not settings.validate_every:
        return None
    return Watch(network, lambda: validation.dice(network, network.classes), settings, keep)


def add_missing_heads(network: Network, classes: Sequence[str], config: Config, seed: int) -> list[str]:
    """A new head for each of `classes` that has none, or one of another kind than ``tune.head`` asks for; returns which."""
    made = []
    for name in classes:
        own: Kind | None = network.head(name).kind if name in network.classes else None
        kind = (own or config.heads.new_kind) if config.tune.head == "keep" else config.tune.head
        if own != kind:
            head = build_head(name, kind, network.base, seed, config.heads)
            network.set_head(name, head.to(next(network.parameters()).device))
            made.append(name)
    return made


def probe_windows(project: Project, case_ids: Sequence[str]) -> torch.Tensor:
    """The first window of each case, for comparing logits: (N, 1, X, Y, Z) float32."""
    settings = project.config.inference
    out = []
    for case_id in case_ids:
        volume, _ = to_network(project.pool.load(case_id), project.config.preprocessing)
        corner = window_corners(volume.shape, settings.patch_size, settings.overlap)[0]
        out.append(torch.from_numpy(cut(volume, corner, settings.patch_size, 0.0)))
    return torch.stack(out)[:, None] if out else torch.zeros((0, 1, *settings.patch_size))
