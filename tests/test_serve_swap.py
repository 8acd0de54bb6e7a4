"""Another model in the place of one that serves: what is loaded, what is refused, and that nobody notices."""

from __future__ import annotations

import dataclasses
import json
import logging
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small_network
import small_serve as small
import torch
from starlette.testclient import TestClient

from ctune.compositions import load_model
from ctune.model.base import build_base
from ctune.model.heads import build_head
from ctune.serve.app import build_app
from ctune.serve.exported import FolderSource, write_folder
from ctune.serve.faults import Wrong
from ctune.serve.graphs import OnnxLoader
from ctune.serve.model import ServedModel, ServedRuntime, load
from ctune.serve.parts import Loader, TorchLoader
from ctune.serve.registered import RegistrySource
from ctune.serve.service import Service, Settings, open_service
from registry import Registry

CPU = torch.device("cpu")


@pytest.fixture(params=["torch", "onnx"])
def runtime(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return small.fill(tmp_path / "registry")


@pytest.fixture
def service(registry: Registry, tmp_path: Path, runtime: str) -> Iterator[Service]:
    source = RegistrySource(registry, "small@production")
    # The watcher is asked to look, it never does so by itself.
    loader = loader_of(runtime, source, tmp_path / "graphs")
    service = open_service(source, Settings(tmp_path / "state", poll_seconds=1000), loader, runtime)
    yield service
    service.close()


def logits(model: ServedModel, name: str, seed: int = 3) -> np.ndarray:
    windows = torch.rand(2, 1, 16, 16, 16, generator=torch.Generator().manual_seed(seed))
    (found,) = ServedRuntime(model, [name], lambda: None).logits(windows)
    return found.numpy()


def loader_of(runtime: str, source: RegistrySource, folder: Path) -> Loader:
    return TorchLoader(source, CPU) if runtime == "torch" else OnnxLoader(folder, source)


@pytest.mark.parametrize("kind", ["text", "pyramid"])
def test_parts_give_the_logits_of_the_network(tmp_path: Path, runtime: str, kind: Any) -> None:
    from ctune.compositions import register_model

    registry, base = Registry.open(tmp_path / "registry"), build_base(small_network.SMALL, 0)
    network = small_network.Network(base, {n: build_head(n, kind, base, 0) for n in ("liver", "spleen")})
    register_model(registry, "one", network, small_network.config(), {})
    source = RegistrySource(registry, "one")
    model = load(source, loader_of(runtime, source, tmp_path / "graphs"), source.resolve())
    windows = torch.rand(2, 1, 16, 16, 16, generator=torch.Generator().manual_seed(3))
    with torch.inference_mode():
        expected = network(windows, ["spleen"])[:, 0].numpy()
    assert np.allclose(logits(model, "spleen"), expected, atol=1e-4)


def test_only_the_head_that_changed_is_loaded(
    registry: Registry, service: Service, caplog: pytest.LogCaptureFixture
) -> None:
    assert service.watcher and not service.watcher.look()
    before, digest = service.model, small.next_round(registry, ["liver"])
    assert not service.watcher.look(), "another version, but the alias has not moved"
    registry.set_alias("small", "production", 2)
    with caplog.at_level(logging.INFO, "ctune.serve"):
        assert service.watcher.look()
    after = service.model
    assert (after.about.digest, after.loaded) == (digest, ("liver",))
    assert after.base is before.base and after.heads["spleen"] is before.heads["spleen"]
    assert np.array_equal(logits(after, "spleen"), logits(before, "spleen"))
    assert np.abs(logits(after, "liver") - logits(before, "liver")).max() > 1e-3
    expected = load_model(registry, f"sha256:{digest}", CPU).network
    windows = torch.rand(2, 1, 16, 16, 16, generator=torch.Generator().manual_seed(3))
    with torch.inference_mode():
        assert np.allclose(logits(after, "liver"), expected(windows, ["liver"])[:, 0].numpy(), atol=1e-4)
    (told,) = service.card()["swaps"]
    assert (told["outcome"], told["loaded"], told["to"]) == ("served", ["liver"], f"sha256:{digest}")
    assert f"model sha256:{digest[:12]} in the place of" in caplog.text


def test_a_bad_head_leaves_the_old_model_serving(
    registry: Registry, service: Service, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before, digest = service.model, small.next_round(registry, ["liver"])
    head = registry.record_of(registry.load(f"sha256:{digest}").record.heads["liver"])
    blob = tmp_path / "registry" / "blobs" / "sha256" / head.weights[:2] / head.weights
    blob.chmod(0o644)
    whole = blob.read_bytes()
    blob.write_bytes(whole[:-4] + b"\0\0\0\1")
    registry.set_alias("small", "production", 2)
    assert service.watcher and not service.watcher.look() and not service.watcher.look()
    assert service.model is before
    (told,) = service.card()["swaps"]
    assert told["outcome"] == "refused" and "expected" in told["why"] and "refused" in caplog.text
    blob.write_bytes(whole)
    service.watcher._refused = (digest, 0.0)  # A minute later.
    assert service.watcher.look() and service.model.about.digest == digest


def test_a_head_that_gives_no_numbers_is_refused(registry: Registry, service: Service) -> None:
    from ctune.compositions import Tuned, register_model

    model = load_model(registry, "small", CPU)
    head = build_head("liver", "text", model.network.base, 5)
    with torch.no_grad():
        next(head.parameters()).fill_(float("nan"))
    model.network.set_head("liver", head)
    tuned = {"liver": Tuned((), {}, 5, 1)}
    register_model(registry, "small", model.network, small_network.config(), tuned, parent=model)
    registry.set_alias("small", "production", 2)
    before = service.model
    assert service.watcher and not service.watcher.look() and service.model is before
    assert "liver" in service.watcher.swaps[-1]["why"]


def test_weights_that_are_not_those_of_their_record_are_refused(registry: Registry, service: Service) -> None:
    record = registry.load("small").record
    head = registry.record_of(record.heads["liver"])
    other = registry.register(head.model_copy(update={"fingerprint": "0" * 64}))
    registry.register(record.model_copy(update={"heads": {**record.heads, "liver": other}}), name="small")
    registry.set_alias("small", "production", 2)
    before = service.model
    assert service.watcher and not service.watcher.look() and service.model is before
    assert "expected weights with the fingerprint 000000000000" in service.watcher.swaps[-1]["why"]


def test_weights_of_another_class_are_refused(registry: Registry, service: Service) -> None:
    record = registry.load("small").record
    spleen = registry.record_of(record.heads["spleen"])
    posing = registry.register(spleen.model_copy(update={"class_name": "liver"}))
    registry.register(record.model_copy(update={"heads": {**record.heads, "liver": posing}}), name="small")
    registry.set_alias("small", "production", 2)
    before = service.model
    assert service.watcher and not service.watcher.look() and service.model is before
    why = service.watcher.swaps[-1]["why"]
    assert f"expected weights of a head of liver for sha256:{posing[:12]}, got those of spleen" in why


def test_a_class_that_would_be_a_path_is_never_served(
    registry: Registry, runtime: str, tmp_path: Path
) -> None:
    """Whatever the model comes from: a registry that did not look, or an exported folder that somebody wrote into."""
    source = RegistrySource(registry, "small")
    about = source.describe(source.resolve())
    for name in ("../../victim/liver", "a/b", "Liver", "gallbladder"):
        evil = dataclasses.replace(about, heads={name: about.heads["liver"]})
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(source, "describe", lambda digest, evil=evil: evil)
            with pytest.raises(Wrong, match="expected classes by the names that ctune gives them in sha256:"):
                load(source, loader_of(runtime, source, tmp_path / "graphs"), about.digest)


def test_an_exported_folder_serves_no_weights_of_another_class(registry: Registry, tmp_path: Path) -> None:
    write_folder(RegistrySource(registry, "small"), tmp_path / "out", "torch")
    path = tmp_path / "out" / "model.json"
    document = json.loads(path.read_text())
    document["heads"]["liver"] = document["heads"]["spleen"]
    path.write_text(json.dumps(document))
    source = FolderSource(tmp_path / "out")
    with pytest.raises(Wrong, match=r"expected weights of a head of liver for .*, got those of spleen"):
        load(source, source.loader(CPU), source.resolve())


def test_classes_come_and_go_and_a_registry_that_is_away_changes_nothing(
    registry: Registry, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = registry.load("small").record
    fewer = record.model_copy(update={"heads": {"spleen": record.heads["spleen"]}})
    registry.register(fewer, name="small")
    registry.set_alias("small", "production", 2)
    assert service.watcher and service.watcher.look() and service.model.classes == ("spleen",)
    assert service.watcher.swaps[-1]["removed"] == ["liver"] and service.model.loaded == ()
    with monkeypatch.context() as away:
        away.setattr(registry, "resolve", lambda reference: (_ for _ in ()).throw(OSError("away")))
        assert not service.watcher.look() and service.model.classes == ("spleen",)


def test_no_request_is_lost_or_mixed_while_models_change(registry: Registry, service: Service) -> None:
    digests = [service.model.about.digest, small.next_round(registry, ["liver", "spleen"])]
    expected: dict[str, set[bytes]] = {f"sha256:{d}": set() for d in digests}
    failed, ended = [], threading.Event()
    with TestClient(build_app(service)) as client:

        def ask() -> None:
            while not ended.is_set():
                answer = client.post("/segment", content=small.ct())
                if answer.status_code != 200:
                    failed.append(answer.text)
                else:
                    expected[answer.headers["x-ctune-model"]].add(answer.content)

        threads = [threading.Thread(target=ask) for _ in range(3)]
        for thread in threads:
            thread.start()
        for version in (2, 1, 2, 1):
            registry.set_alias("small", "production", version)
            assert service.watcher and service.watcher.look()
            client.post("/segment", content=small.ct())
        ended.set()
        for thread in threads:
            thread.join(20)
    assert failed == []
    assert [len(found) for found in expected.values()] == [1, 1], "each model has one answer"
