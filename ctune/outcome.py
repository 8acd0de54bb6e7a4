"""What a tuning leaves behind: a folder of weights with one record of how they came to be.

tuning.json                 losses, what trained, what the validation cases said; written last
<class>.safetensors         a head that is new
_base.safetensors           the base, where it is new; then the folder holds all heads of the network
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ctune.data.files import read_json, write_atomically, write_json
from ctune.errors import DataError
from ctune.model.network import Network
from ctune.model.weights import base_from_bytes, base_to_bytes, head_from_bytes, head_to_bytes
from ctune.types import AnnotationRecord, Source
from ctune.validate import Change

if TYPE_CHECKING:
    from ctune.compositions import Model
    from ctune.tune import TuneResult
    from ctune.watch import Look

BASE_FILE = "_base.safetensors"
"""No class can be called that: names begin with a letter or a digit."""
RECORD = "tuning.json"


def write_weights(folder: Path, network: Network, classes: Sequence[str], *, with_base: bool) -> None:
    """Write the heads of `classes` (and the base) as safetensors files; those of an earlier tuning go."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in (folder / RECORD, *folder.glob("*.safetensors")):
        old.unlink(missing_ok=True)
    files = {f"{name}.safetensors": head_to_bytes(network.head(name)) for name in classes}
    if with_base:
        files[BASE_FILE] = base_to_bytes(network.base)
    for name, data in files.items():
        with write_atomically(folder / name) as temporary:
            temporary.write_bytes(data)


def compose(model: Model, folder: Path) -> Network:
    """The network that results: the registered base, or the one in `folder`, with the heads in `folder` put in."""
    device = next(model.network.parameters()).device
    fresh = model.reload()
    base, heads = fresh.base, {name: fresh.head(name) for name in fresh.classes}
    new = folder / BASE_FILE
    if new.exists():
        # A head belongs to the base that it was tuned on: none of the registered ones fits another.
        base, heads = base_from_bytes(new.read_bytes(), model.network.base.config), {}
    for name in new_heads(folder):
        heads[name] = head_from_bytes((folder / f"{name}.safetensors").read_bytes())
    network = Network(base, heads).to(device)
    network.eval()
    return network


def new_heads(folder: Path) -> list[str]:
    """The classes of which `folder` holds a head."""
    return sorted(p.stem for p in folder.glob("*.safetensors") if p.name != BASE_FILE)


def write_record(
    folder: Path,
    classes: Sequence[str],
    result: TuneResult,
    annotations: Mapping[str, Sequence[AnnotationRecord]],
    changes: Mapping[str, Change],
    kept: Sequence[str],
) -> None:
    """Say how the weights came to be."""
    about = {
        "classes": list(classes),
        "losses": result.losses,
        "steps": result.steps,
        "validation": validation_of(result),
        "changes": {name: asdict(change) for name, change in changes.items()},
        "kept": list(kept),
        "annotations": {name: [asdict(r) for r in records] for name, records in annotations.items()},
    }
    write_json(folder / RECORD, about)


def read_record(folder: Path) -> dict[str, Any]:
    """What ``write_record`` wrote, annotations as records. Raises DataError when there is none."""
    if not (folder / RECORD).exists():
        raise DataError(f"expected a finished tuning in {folder}, found no {RECORD}; tune again")
    about: dict[str, Any] = read_json(folder / RECORD)
    about["annotations"] = {
        name: [AnnotationRecord(**{**r, "source": Source(r["source"])}) for r in records]
        for name, records in about["annotations"].items()
    }
    return about


def validation_of(result: TuneResult) -> dict[str, Any]:
    """{class: what the validation cases said of the weights that were kept}, as JSON values; None where none annotates it.

    dice, low, high: mean and 95 % interval. cases: how many annotate the class. epoch: whose weights were kept. looks:
    [[epoch, mean Dice over what was watched], ...].
    """
    out: dict[str, Any] = {}
    for watched in result.losses:
        look = result.kept.get(watched)
        looks = [[at.epoch, at.score] for at in result.looks.get(watched, ())]
        out |= {n: {**plain, "looks": looks} for n, plain in seen(look).items()} if look else {watched: None}
    return out


def seen(look: Look) -> dict[str, dict[str, Any]]:
    """{class: what one look saw of it}, as JSON values."""
    return {
        name: {
            "dice": d.mean, "low": d.low, "high": d.high, "cases": len(d.cases), "epoch": look.epoch,
        }
        for name, d in look.dice.items()
    }  # fmt: skip
