"""ONNX: the same logits as torch, what the file says of itself, and no file where they differ."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from small_network import SIDE, SMALL, config, project
from typer.testing import CliRunner

from cli.main import app
from ctune.compositions import Model, load_model, register_model
from ctune.config import BaseConfig
from ctune.errors import ModelError, UnknownClassError, UsageError
from ctune.export.onnx import OnnxNetwork, export_onnx
from ctune.model.base import build_base
from ctune.model.heads import build_head
from ctune.model.network import Network
from ctune.project import Project
from registry import Registry

pytest.importorskip("onnxruntime", reason="the extra `onnx` is not installed")
pytest.importorskip("onnx", reason="the extra `onnx` is not installed")

WINDOW = (SIDE, SIDE, SIDE)
BOUND = 2e-5
"""Of the largest logit."""
KINDS: Mapping[str, str] = {"liver": "text", "spleen": "text", "aorta": "pyramid"}
CPU = torch.device("cpu")


def registered(registry: Registry, base: BaseConfig = SMALL) -> Model:
    made = build_base(base, seed=0)
    network = Network(made, {name: build_head(name, kind, made, seed=0) for name, kind in KINDS.items()})  # type: ignore[arg-type]
    register_model(registry, "organs", network, config(base=base.model_dump()), {})
    return load_model(registry, "organs", CPU)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Project:
    found, _ = project(tmp_path_factory.mktemp("project"), pool=1)
    registered(found.open_registry())
    return found


@pytest.fixture(scope="module")
def model(made: Project) -> Model:
    return load_model(made.open_registry(), "organs", CPU)


def noise(count: int, window: tuple[int, int, int] = WINDOW) -> torch.Tensor:
    return torch.rand(count, 1, *window, generator=torch.Generator().manual_seed(5))


def test_logits_are_torchs_for_any_batch_and_any_classes(model: Model, tmp_path: Path) -> None:
    done = export_onnx(model, tmp_path / "organs.onnx", window=WINDOW, classes=["spleen", "aorta"])
    assert done.classes == ("spleen", "aorta") and max(done.parity.values()) < 1e-4
    network = OnnxNetwork(done.path)
    for count in (1, 3):
        with torch.no_grad():
            expected = model.network(noise(count), ["spleen", "aorta"]).numpy()
        np.testing.assert_allclose(network(noise(count)), expected, atol=1e-4)
        np.testing.assert_allclose(network(noise(count), ["aorta"]), expected[:, 1:], atol=1e-4)


def test_logits_are_torchs_where_half_of_a_large_window_is_air(made: Project, tmp_path: Path) -> None:
    """onnxruntime's own norms lose digits in long sums: here they would be off by forty times the bound."""
    model = load_model(made.open_registry(), "organs", CPU)
    done = export_onnx(model, tmp_path / "o.onnx", window=(64, 64, 64), classes=["spleen", "aorta"])
    windows = noise(1, (64, 64, 64))
    windows[:, :, 16:] = 0
    with torch.no_grad():
        expected = model.network(windows, ["spleen", "aorta"]).numpy()
    assert np.abs(OnnxNetwork(done.path)(windows) - expected).max() < BOUND * np.abs(expected).max()


def test_swin_unetr(tmp_path: Path) -> None:
    model = registered(Registry.open(tmp_path / "r"), BaseConfig(architecture="swin_unetr", feature_size=12))
    done = export_onnx(model, tmp_path / "s.onnx", window=(64, 32, 32), classes=["liver"])
    assert max(done.parity.values()) < 1e-3


def test_the_file_says_what_it_is(model: Model, tmp_path: Path) -> None:
    about = OnnxNetwork(export_onnx(model, tmp_path / "o.onnx", window=WINDOW).path).about
    assert about["model"] == model.digest and about["base"] == model.record.base
    assert about["heads"] == model.record.heads and about["classes"] == list(model.network.classes)
    assert about["window"] == [SIDE] * 3
    assert about["preprocessing"] == model.preprocessing.model_dump(mode="json")


def test_another_network_than_torchs_is_refused_and_leaves_no_file(model: Model, tmp_path: Path) -> None:
    with pytest.raises(
        ModelError, match=r"within 1e-12 of torch's on windows of noise, got .*; nothing was written"
    ):
        export_onnx(model, tmp_path / "o.onnx", window=WINDOW, bound=1e-12)
    broken = {"one CT": np.full((1, 1, *WINDOW), np.nan, dtype=np.float32)}
    with pytest.raises(ModelError, match=r"on windows of one CT, got nan"):
        export_onnx(model, tmp_path / "o.onnx", window=WINDOW, windows=broken)
    assert list(tmp_path.iterdir()) == []


def test_what_does_not_fit_is_refused(model: Model, tmp_path: Path) -> None:
    with pytest.raises(UnknownClassError):
        export_onnx(model, tmp_path / "o.onnx", window=WINDOW, classes=["livr"])
    with pytest.raises(UsageError, match="expected a file to write the graph to, got the folder"):
        export_onnx(model, tmp_path, window=WINDOW)
    twice = export_onnx(model, tmp_path / "o.onnx", window=WINDOW, classes=["liver", "liver"])
    network = OnnxNetwork(twice.path)
    with pytest.raises(ModelError, match=r"expected windows \(N, 1, 16, 16, 16\), got \(1, 1, 32, 16, 16\)"):
        network(noise(1, (32, 16, 16)))
    with pytest.raises(UsageError, match=r"expected classes of the file \(liver\), got aorta"):
        network(noise(1), ["aorta"])
    (tmp_path / "bad.onnx").write_bytes(b"no graph")
    with pytest.raises(ModelError, match=r"expected an ONNX file that ctune exported"):
        OnnxNetwork(tmp_path / "bad.onnx")


def test_the_network_is_as_it_was(model: Model, tmp_path: Path) -> None:
    with torch.no_grad():
        before = model.network(noise(1))
        export_onnx(model, tmp_path / "o.onnx", window=WINDOW)
        assert torch.equal(model.network(noise(1)), before)
    assert not any(part.training for part in model.network.modules())


def test_the_command_checks_on_a_phantom_and_on_a_ct(made: Project, tmp_path: Path) -> None:
    out = tmp_path / "organs.onnx"
    ct = next(made.root.rglob("ct.nii.gz"))
    words = [
        "export",
        "onnx",
        "organs",
        "-o",
        out,
        "--classes",
        "liver",
        "--check",
        ct,
        "--project",
        made.root,
        "--json",
    ]
    answer = CliRunner().invoke(app, [str(word) for word in words])
    assert answer.exit_code == 0, answer.output
    assert sorted(json.loads(answer.stdout)["parity"]) == sorted(["noise", "phantom", str(ct)])
    assert OnnxNetwork(out).classes == ("liver",)
