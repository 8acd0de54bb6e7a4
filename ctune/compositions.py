"""Between networks and the registry: a model in memory is a base and one head a class, and so it is stored.

This and ``round`` are the only files of ctune that know the registry.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from ctune import __version__
from ctune.config import BaseConfig, Config, Preprocessing
from ctune.errors import HeadBaseMismatchError, UsageError
from ctune.evaluate import CaseScore, summarise
from ctune.model.freeze import fingerprint
from ctune.model.heads import Head, TextHead
from ctune.model.network import Network
from ctune.model.weights import base_from_bytes, base_to_bytes, head_from_bytes, head_to_bytes
from ctune.types import AnnotationRecord
from registry import AnnotationUsed, BaseRecord, EvaluationRecord, HeadRecord, ModelRecord, Registry
from registry.names import check_name
from registry.records import digest_of


@dataclass(frozen=True, eq=False)
class Model:
    """A network with the record that it was read from."""

    digest: str
    record: ModelRecord
    base: BaseRecord
    network: Network
    registry: Registry

    def reload(self) -> Network:
        """The same network, read from the registry anew."""
        device = next(self.network.parameters()).device
        return load_model(self.registry, f"sha256:{self.digest}", device).network

    @property
    def preprocessing(self) -> Preprocessing:
        """How images must come to this base."""
        return Preprocessing.model_validate(self.base.preprocessing)


@dataclass(frozen=True)
class Tuned:
    """How one head came to be; what varies between identical runs (seconds, device) goes into `measured`."""

    annotations: Sequence[AnnotationRecord]
    settings: Mapping[str, Any]
    seed: int
    round: int
    measured: Mapping[str, Any] = field(default_factory=dict)


def load_model(registry: Registry, reference: str, device: torch.device) -> Model:
    """The model that a reference means (``NAME``, ``NAME:VERSION``, ``NAME@ALIAS``, ``sha256:...``), ready to predict.

    Raises HeadBaseMismatchError when a head was tuned on another base, and the registry's own errors.
    """
    digest = registry.resolve(reference)
    record = registry.record_of(digest)
    if not isinstance(record, ModelRecord):
        raise UsageError(
            f"expected a model, got the {record.kind} {reference}; `ctune registry list` names the models"
        )
    base_record = registry.record_of(record.base)
    assert isinstance(base_record, BaseRecord)
    base = base_from_bytes(registry.get(base_record.weights), BaseConfig.model_validate(base_record.settings))
    heads = {}
    for name, head_digest in record.heads.items():
        head_record = registry.record_of(head_digest)
        assert isinstance(head_record, HeadRecord)
        if head_record.base_fingerprint != base_record.fingerprint:
            raise HeadBaseMismatchError(
                f"the head of {name} (sha256:{head_digest[:12]}) needs the base {head_record.base_fingerprint[:12]}, got "
                f"{base_record.fingerprint[:12]}; compose it with its own base or tune {name} on this one"
            )
        heads[name] = head_from_bytes(registry.get(head_record.weights))
    network = Network(base, heads).to(device)
    network.eval()
    return Model(digest, record, base_record, network, registry)


def preprocessing_of(registry: Registry, digest: str) -> Preprocessing:
    """How images must come to a registered model, without its weights. Raises UsageError for what is no model."""
    record = registry.record_of(digest)
    if not isinstance(record, ModelRecord):
        raise UsageError(
            f"expected a model, got the {record.kind} sha256:{digest[:12]}; `ctune registry list` names the models"
        )
    base = registry.record_of(record.base)
    assert isinstance(base, BaseRecord)
    return Preprocessing.model_validate(base.preprocessing)


def may_be_name(name: str) -> str:
    """The name itself. Raises InvalidNameError: asked before a training, not after it."""
    return check_name(name)


def register_model(
    registry: Registry,
    name: str,
    network: Network,
    config: Config,
    tuned: Mapping[str, Tuned],
    *,
    parent: Model | None = None,
    tuned_from: Model | None = None,
    round_number: int = 0,
    note: str = "",
    after: int | None = None,
) -> str:
    """Register what is new of a network and a version of `name` that composes it; returns the model's digest.

    `tuned` names the heads that are new and how they came to be; every other head is the parent's, by digest. A base
    whose weights changed (trainable = all or heads+decoder) is new too, and then all heads are.
    tuned_from: the model whose heads were tuned, where it is not the parent; then both are parents of the new one.
    after: the version of `name` that must still be the newest (OvertakenError), 0 for none.
    """
    origin = tuned_from or parent
    network.eval()
    base_digest, base_fingerprint = _register_base(registry, network, config, parent)
    same_base = parent is not None and parent.record.base == base_digest
    heads = dict(parent.record.heads) if parent and same_base else {}
    for class_name in network.classes:
        if class_name in heads and class_name not in tuned:
            continue
        how = tuned.get(class_name) or Tuned((), {}, config.seed, round_number)
        before = origin.record.heads.get(class_name) if origin else None
        record = _head_record(registry, network, class_name, base_digest, base_fingerprint, how, before)
        heads[class_name] = registry.register(record, measured=dict(how.measured))
    model = ModelRecord(
        base=base_digest,
        heads=heads,
        parents=tuple(dict.fromkeys(m.digest for m in (parent, origin) if m)),
        round=round_number,
        config=config.model_dump(mode="json"),
        note=note,
    )
    digest = registry.register(model)
    # A round that was killed between here and its own record registers the same model again: that is no new version.
    if digest not in {version.digest for version in registry.versions(name)[-1:]}:
        registry.add_version(name, digest, note=note, after=after)
    return digest


def validation_of_model(registry: Registry, digest: str) -> dict[str, Any]:
    """{class: what the validation cases said when its head was made} (``outcome.seen``); None where none annotates it."""
    record = registry.record_of(digest)
    assert isinstance(record, ModelRecord)
    return {name: registry.measured(head).get("validation") for name, head in record.heads.items()}


def fingerprint_of_weights(record: BaseRecord | HeadRecord, data: bytes) -> str:
    """The fingerprint of stored weights, taken anew from the network that they make; for ``Registry.verify``."""
    if isinstance(record, BaseRecord):
        return fingerprint(base_from_bytes(data, BaseConfig.model_validate(record.settings)), modes=False)
    return fingerprint(head_from_bytes(data), modes=False)


def record_evaluation(
    registry: Registry, model: str, split: str, data: Mapping[str, str], scores: Sequence[CaseScore]
) -> str:
    """Register the scores of a model on the cases of a split; `data` is {case: sha256 of its CT}."""
    record = EvaluationRecord(
        model=model,
        split=split,
        data=dict(data),
        scores=tuple(asdict(s) for s in scores),
        summary={name: asdict(s) for name, s in summarise(scores).items()},
    )
    return registry.register(record)


def _register_base(
    registry: Registry, network: Network, config: Config, parent: Model | None
) -> tuple[str, str]:
    now = fingerprint(network.base, modes=False)
    if parent is not None and parent.base.fingerprint == now:
        return parent.record.base, now
    record = BaseRecord(
        architecture=network.base.config.architecture,
        settings=network.base.config.model_dump(mode="json"),
        fingerprint=now,
        weights=registry.put(base_to_bytes(network.base)),
        preprocessing=config.preprocessing.model_dump(mode="json"),
        classes=tuple(network.classes),
        code_version=__version__,
        parents=(parent.record.base,) if parent else (),
        seed=config.seed,
    )
    return registry.register(record), now


def _head_record(
    registry: Registry,
    network: Network,
    class_name: str,
    base_digest: str,
    base_fingerprint: str,
    how: Tuned,
    parent: str | None,
) -> HeadRecord:
    head = network.head(class_name)
    used = tuple(
        AnnotationUsed(
            case_id=a.case_id,
            class_name=a.class_name,
            sha256=a.sha256,
            source=a.source.value,
            author=a.author,
            created=a.created,
            round=a.round,
        )
        for a in sorted(how.annotations, key=lambda a: (a.case_id, a.sha256))
    )
    return HeadRecord(
        class_name=class_name,
        head_kind=head.kind,
        base=base_digest,
        base_fingerprint=base_fingerprint,
        fingerprint=fingerprint(head, modes=False),
        weights=registry.put(head_to_bytes(head)),
        text_vector=_text_vector(head),
        round=how.round,
        parent=parent,
        settings=dict(how.settings),
        seed=how.seed,
        annotations=used,
        experts=tuple(sorted({a.author for a in how.annotations if a.source == "revised"})),
        code_version=__version__,
    )


def _text_vector(head: Head) -> str | None:
    """sha256 of the class name's vector that a text head was made with, as float32, little-endian."""
    if not isinstance(head, TextHead):
        return None
    return digest_of(head.text.detach().cpu().numpy().astype("<f4").tobytes())
