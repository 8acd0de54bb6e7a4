"""Continual tuning of a registered model on a project's annotations: which cases train, what moved, what did not.

The value of a tuning is a folder of weights: the tuned heads, and the base too where the settings let it train.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from ctune.cohort import hybrid_of, prepare_labels
from ctune.compositions import Model
from ctune.config import Config
from ctune.data.files import write_atomically, write_json
from ctune.data.prepared import PreparedCase
from ctune.data.preprocess import to_network
from ctune.model.features import cut, window_corners
from ctune.model.freeze import tune_only
from ctune.model.heads import build_head
from ctune.model.network import Network
from ctune.model.weights import base_from_bytes, base_to_bytes, head_from_bytes, head_to_bytes
from ctune.project import Project
from ctune.train import train
from ctune.tune import Proof, TuneResult, prove_unmoved, snapshot, tune_heads
from ctune.types import AnnotationRecord, HybridAnnotation, OnProgress, Source, Split, silent

BASE_FILE = "base.safetensors"


@dataclass(frozen=True)
class Tuning:
    """What a tuning did, and on what. proof is None when the settings let more than the heads train."""

    result: TuneResult
    proof: Proof | None
    annotations: Mapping[str, Sequence[AnnotationRecord]]


def revised_cases(project: Project, classes: Sequence[str]) -> list[str]:
    """Pool cases in which an expert has revised at least one of `classes`, in any round."""
    wanted, pool = set(classes), project.pool
    return [
        case.id
        for case in pool.cases(Split.POOL)
        if wanted & {a.class_name for a in pool.annotations(case.id) if a.source == Source.REVISED}
    ]


def tune_model(
    project: Project,
    model: Model,
    classes: Sequence[str],
    folder: Path,
    *,
    seed: int,
    device: torch.device,
    on_progress: OnProgress = silent,
) -> Tuning:
    """Tune `classes` of `model` on the project's revised cases and leave the weights in `folder`.

    Classes without a head get a new one. With ``tune.trainable = "heads"`` the weights are read back from `folder`,
    put on the registered base, and every other class's logits are compared bit for bit with those before
    (FrozenChangedError). Raises ModelError when no case annotates a class.
    """
    settings, network = project.config.tune, model.network
    unrevised = [name for name in network.classes if name not in classes]
    cases = _cases(project, classes)
    probes = probe_windows(project, cases[:2])
    before = snapshot(network, unrevised, probes)
    add_missing_heads(network, classes, project.config, seed)
    merged = {case_id: hybrid_of(project, case_id) for case_id in cases}
    if settings.trainable == "heads":
        result = _tune_heads(project, network, classes, merged, seed, device, on_progress)
        write_weights(folder, network, classes, with_base=False)
        proof = prove_unmoved(before, snapshot(compose(model, folder, classes), unrevised, probes))
    else:
        result = _tune_more(project, network, classes, merged, seed, device, on_progress)
        write_weights(folder, network, network.classes, with_base=True)
        proof = None
    trained = tuple(classes) if settings.trainable == "heads" else network.classes
    write_json(folder / "tuning.json", {"losses": result.losses, "steps": result.steps})
    return Tuning(
        result, proof, {n: [r for h in merged.values() for r in h.records.get(n, ())] for n in trained}
    )


def _cases(project: Project, classes: Sequence[str]) -> list[str]:
    if project.config.tune.data == "full":
        return [case.id for case in project.pool.cases(Split.POOL) if project.pool.annotations(case.id)]
    return revised_cases(project, classes)


def _tune_heads(
    project: Project,
    network: Network,
    classes: Sequence[str],
    merged: Mapping[str, HybridAnnotation],
    seed: int,
    device: torch.device,
    on_progress: OnProgress,
) -> TuneResult:
    config = project.config
    return tune_heads(
        network,
        classes,
        _prepared(project, merged, classes),
        config.tune,
        window=config.inference.patch_size,
        overlap=config.inference.overlap,
        seed=seed,
        device=device,
        cache=project.root / "cache" / "features",
        on_progress=on_progress,
    )


def _tune_more(
    project: Project,
    network: Network,
    classes: Sequence[str],
    merged: Mapping[str, HybridAnnotation],
    seed: int,
    device: torch.device,
    on_progress: OnProgress,
) -> TuneResult:
    """heads+decoder or all: ordinary training steps through what is not frozen, on the labels that the data names."""
    settings = project.config.tune
    tune_only(network, classes, trainable=settings.trainable)
    labelled = classes if settings.data == "revised-only" else network.classes
    cases = _prepared(project, merged, labelled)
    done = train(network, cases, settings, seed=seed, device=device, on_progress=on_progress)
    return TuneResult({"all": done.losses}, {"all": done.steps}, done.seconds, 0.0)


def _prepared(
    project: Project, merged: Mapping[str, HybridAnnotation], classes: Sequence[str]
) -> list[PreparedCase]:
    out = []
    for case_id, hybrid in merged.items():
        masks = {name: hybrid.masks[name] for name in classes if name in hybrid.masks}
        if masks:
            out.append(prepare_labels(project, case_id, masks))
    return out


def add_missing_heads(network: Network, classes: Sequence[str], config: Config, seed: int) -> None:
    """A new head, of the kind that the settings name for new classes, for each of `classes` that has none."""
    for name in classes:
        if name not in network.classes:
            head = build_head(name, config.heads.new_kind, network.base, seed, config.heads)
            network.set_head(name, head.to(next(network.parameters()).device))


def probe_windows(project: Project, case_ids: Sequence[str]) -> torch.Tensor:
    """The first window of each case, for comparing logits: (N, 1, X, Y, Z) float32."""
    settings = project.config.inference
    out = []
    for case_id in case_ids:
        volume, _ = to_network(project.pool.load(case_id), project.config.preprocessing)
        corner = window_corners(volume.shape, settings.patch_size, settings.overlap)[0]
        out.append(torch.from_numpy(cut(volume, corner, settings.patch_size, 0.0)))
    return torch.stack(out)[:, None] if out else torch.zeros((0, 1, *settings.patch_size))


def write_weights(folder: Path, network: Network, classes: Sequence[str], *, with_base: bool) -> None:
    """Write the heads of `classes` (and the base) as safetensors files named after them."""
    folder.mkdir(parents=True, exist_ok=True)
    files = {f"{name}.safetensors": head_to_bytes(network.head(name)) for name in classes}
    if with_base:
        files[BASE_FILE] = base_to_bytes(network.base)
    for name, data in files.items():
        with write_atomically(folder / name) as temporary:
            temporary.write_bytes(data)


def compose(model: Model, folder: Path, classes: Sequence[str]) -> Network:
    """The network that results: the registered base (or the one in `folder`) with the heads in `folder` put in."""
    device = next(model.network.parameters()).device
    fresh = model.reload()
    base, heads = fresh.base, {name: fresh.head(name) for name in fresh.classes}
    if (folder / BASE_FILE).exists():
        base = base_from_bytes((folder / BASE_FILE).read_bytes(), base.config)
        heads, classes = {}, sorted({*fresh.classes, *classes})
    heads |= {name: head_from_bytes((folder / f"{name}.safetensors").read_bytes()) for name in classes}
    network = Network(base, heads).to(device)
    network.eval()
    return network
