"""int8: wide convolutions alone, calibrated on given cases, with what it costs beside it; refused without cases."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from small_network import SIDE, project
from typer.testing import CliRunner, Result

from cli.main import app
from ctune.compositions import load_model, register_model
from ctune.config import BaseConfig
from ctune.export.int8 import case_windows
from ctune.export.onnx import OnnxNetwork
from ctune.model.base import build_base
from ctune.model.heads import build_head
from ctune.model.network import Network
from ctune.project import Project

pytest.importorskip("onnxruntime", reason="the extra `onnx` is not installed")
onnx = pytest.importorskip("onnx", reason="the extra `onnx` is not installed")

BASE = BaseConfig(architecture="unet_small", channels=(4, 32))
"""Its upper level is wide enough for int8, its lower one is not."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Project:
    inference = {"patch_size": (SIDE, SIDE, SIDE), "overlap": 0.25, "threshold": 0.464}
    found, _ = project(
        tmp_path_factory.mktemp("project"), pool=2, test=1, base=BASE.model_dump(), inference=inference
    )
    base = build_base(BASE, seed=0)
    network = Network(base, {name: build_head(name, "text", base, seed=0) for name in ("liver", "spleen")})
    register_model(found.open_registry(), "organs", network, found.config, {})
    return found


def export(made: Project, *words: object) -> Result:
    at = ("--project", str(made.root), "--json")
    return CliRunner().invoke(app, ["export", "onnx", "organs", "--int8", *map(str, words), *at])


def test_the_command_tells_what_it_costs(made: Project, tmp_path: Path) -> None:
    answer = export(made, "-o", tmp_path / "organs.onnx", "--calibrate", "case_1")
    assert answer.exit_code == 0, answer.output
    told = json.loads(answer.stdout)["int8"]
    graph = onnx.load(tmp_path / "organs.onnx").graph
    assert told["path"] == str(tmp_path / "organs.int8.onnx")
    assert 2 <= told["layers"] < sum(node.op_type == "Conv" for node in graph.node), "narrow ones stay float"
    assert (told["calibrated_on"], told["cases"]) == (["case_1"], 1)
    assert set(told["window_seconds"]) == {"float32", "int8"} and min(told["window_seconds"].values()) > 0
    assert set(told["dice"]) == {"liver", "spleen"}
    for dice in told["dice"].values():
        assert 0 < dice["float32"] < 1 and dice["int8"] == pytest.approx(dice["float32"], abs=0.1)
    small = OnnxNetwork(tmp_path / "organs.int8.onnx")
    assert small.about["int8"] == {"calibrated_on": ["case_1"], "layers": told["layers"]}
    assert small.about["model"] == OnnxNetwork(tmp_path / "organs.onnx").about["model"]
    model = load_model(made.open_registry(), "organs", torch.device("cpu"))
    window = case_windows(made, made.config, "case_0")[0]
    with torch.no_grad():
        expected = model.network(torch.from_numpy(window)).numpy()
    worst = float(np.abs(small(window) - expected).max())
    assert 0 < worst < 0.5 * float(expected.max() - expected.min()), "it is another network, and a near one"


def test_it_is_predicted_and_evaluated_with(made: Project, tmp_path: Path) -> None:
    assert export(made, "-o", tmp_path / "organs.onnx").exit_code == 0
    graph, at = str(tmp_path / "organs.int8.onnx"), ("--runtime", "onnx", "--project", str(made.root))
    done = CliRunner().invoke(app, ["predict", graph, "-o", str(tmp_path / "out"), *at])
    assert done.exit_code == 0 and (tmp_path / "out" / "case_0" / "liver.nii.gz").exists()
    assert CliRunner().invoke(app, ["evaluate", graph, *at]).exit_code == 0


def test_windows_hold_body_and_lie_in_padded_small_cts(made: Project) -> None:
    (window,) = case_windows(made, made.config, "case_0")
    assert window.shape == (1, 1, SIDE, SIDE, SIDE) and window.dtype == np.float32 and window.max() > 0.5


def test_without_cases_it_is_refused_and_nothing_is_written(made: Project, tmp_path: Path) -> None:
    found, _ = project(tmp_path / "empty", pool=0, test=0)
    shutil.copytree(made.root / "registry", found.root / "registry", dirs_exist_ok=True)
    none = export(found, "-o", tmp_path / "organs.onnx")
    assert none.exit_code == 1 and (
        "expected cases to calibrate int8 on, got none in the pool; import some, or name them with --calibrate"
        in none.stderr
    )
    unknown = export(made, "-o", tmp_path / "organs.onnx", "--calibrate", "case_9")
    assert unknown.exit_code == 1 and "case_9" in unknown.stderr
    untested, _ = project(tmp_path / "untested", pool=1, test=0)
    shutil.copytree(made.root / "registry", untested.root / "registry", dirs_exist_ok=True)
    no_truth = export(untested, "-o", tmp_path / "organs.onnx")
    assert no_truth.exit_code == 1 and "expected cases of the split 'test', got none" in no_truth.stderr
    assert [p.name for p in tmp_path.iterdir() if "int8" in p.name] == []
