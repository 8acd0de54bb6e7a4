"""The heads of earlier rounds, on the base of the newest: members of an ensemble that cost next to nothing."""

from __future__ import annotations

from ctune.compositions import load_model
from ctune.config import Inference
from ctune.inference.runtime import TorchRuntime
from ctune.model.heads import Head
from ctune.model.network import Network
from ctune.optimise import resolve_device
from ctune.project import Project
from registry import ModelRecord, Registry


def open_with_earlier(
    project: Project, digest: str, device: str, settings: Inference, rounds: int
) -> TorchRuntime:
    """A registered model ready to predict, with the heads of up to `rounds` models before it. device: as in ``ctune.toml``."""
    registry = project.open_registry()
    network = load_model(registry, f"sha256:{digest}", resolve_device(device)).network
    return with_earlier(registry, digest, network, settings, rounds)


def with_earlier(
    registry: Registry, digest: str, network: Network, settings: Inference, rounds: int
) -> TorchRuntime:
    """The same of a network that is loaded."""
    return TorchRuntime(network, None, settings, earlier_networks(registry, digest, network, rounds))


def earlier_networks(registry: Registry, digest: str, network: Network, rounds: int) -> list[Network]:
    """Networks of up to `rounds` models before the model `digest`, newest first, on `network`'s own base.

    Goes back along first parents, as long as the base stays the same and a head differs: where a round trained the base
    too, or nothing, there is no other opinion to be had for the price of a head.
    """
    out: list[Network] = []
    record = registry.record_of(digest)
    device = next(network.parameters()).device
    while len(out) < rounds and isinstance(record, ModelRecord) and record.parents:
        parent = registry.record_of(record.parents[0])
        if not isinstance(parent, ModelRecord) or parent.base != record.base:
            break
        if any(record.heads[name] != head for name, head in parent.heads.items() if name in record.heads):
            loaded = load_model(registry, f"sha256:{record.parents[0]}", device).network
            heads: dict[str, Head] = {name: loaded.head(name) for name in loaded.classes}
            out.append(Network(network.base, heads).eval())
        record = parent
    return out
