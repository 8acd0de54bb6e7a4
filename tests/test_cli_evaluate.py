"""``ctune evaluate``: it scores what ``ctune predict`` writes, class by class, with torch and with onnxruntime."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_network import network, project
from typer.testing import CliRunner

from cli.main import app
from ctune.cohort import evaluate_case
from ctune.compositions import register_model
from ctune.data.nifti import write_volume
from ctune.evaluate import read_scores, score_mask
from ctune.inference.runtime import TorchRuntime
from ctune.inference.slabs import Slabs
from ctune.model.text import text_table
from ctune.postprocess import clean_all
from ctune.predict import masks_of, predict_case
from ctune.project import Project
from ctune.types import Grid, Source, Split

runner = CliRunner()
INFERENCE = {"patch_size": (16, 16, 16), "overlap": 0.25, "threshold": 0.48}
"""Probabilities of an untrained network lie around .48: a threshold there gives masks of some size."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Project:
    rules = {"liver": {"largest": 1, "fill_holes": True}, "spleen": {"within": "liver", "within_mm": 4.0}}
    found, _ = project(
        tmp_path_factory.mktemp("project"), pool=1, test=2, inference=INFERENCE, postprocess=rules
    )
    register_model(found.open_registry(), "organs", network(), found.config, {})
    return found


def evaluated(made: Project, *words: object) -> dict[str, Any]:
    answer = runner.invoke(app, ["evaluate", *map(str, words), "--project", str(made.root), "--json"])
    assert answer.exit_code == 0, answer.output
    found: dict[str, Any] = json.loads(answer.stdout)
    return found


def test_it_measures_the_masks_that_users_get(made: Project) -> None:
    folder = Path(evaluated(made, "organs")["folder"])
    grid, expected = made.pool.cases(Split.TEST)[0].grid, []
    for case in made.pool.cases(Split.TEST):
        prediction = predict_case(network(), made.pool.load(case.id), made.config, model="")
        masks = clean_all(masks_of(prediction, 0.48), made.config.postprocess, grid)
        truth = {r.class_name: made.pool.read(r).mask for r in made.pool.annotations(case.id)}
        tolerance = made.config.evaluation.nsd_tolerance_mm
        expected += [score_mask(case.id, n, masks[n], truth[n], grid, tolerance) for n in ("liver", "spleen")]
    assert read_scores(folder) == expected and all(score.predicted_ml for score in expected)
    assert list(made.cache.glob("evaluate-*")) == [], "masks go when they are scored"


def test_onnxruntime_scores_alike_into_a_folder_of_its_own(made: Project, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="the extra `onnx` is not installed")
    words = ["export", "onnx", "organs", "-o", str(tmp_path / "o.onnx"), "--project", str(made.root)]
    assert runner.invoke(app, words).exit_code == 0
    torchs, onnxs = evaluated(made, "organs"), evaluated(made, tmp_path / "o.onnx", "--runtime", "onnx")
    assert torchs["model"] == onnxs["model"] and torchs["folder"] != onnxs["folder"]
    for name in ("liver", "spleen"):
        assert onnxs["classes"][name]["dice"] == pytest.approx(torchs["classes"][name]["dice"], abs=0.01)
    unknown = runner.invoke(app, ["evaluate", "organs", "--runtime", "tvm", "--project", str(made.root)])
    assert unknown.exit_code == 2 and "expected one of torch, onnx for --runtime, got 'tvm'" in unknown.stderr


def slab_of_torch(slabs: Slabs, channels: int, planes: int) -> torch.Tensor:
    shape = [planes if a == slabs._axis else n for a, n in enumerate(slabs._layout.padded)]
    return torch.zeros((channels, *shape)).movedim(1 + slabs._axis, 1)


def peak_bytes(folder: Path, classes: int) -> int:
    """Of arrays, while one case of 64^3 voxels with so many classes is predicted and its masks are read."""
    grid, rng = Grid((64, 64, 64), np.diag([2.0, 2.0, 2.0, 1.0])), np.random.default_rng(0)
    names = text_table().names[:classes]
    inference = {"patch_size": (32, 32, 32), "overlap": 0.0, "threshold": 0.48}
    found, _ = project(folder, pool=0, test=0, classes=names, inference=inference)
    mask = (rng.random(grid.shape) < 0.5).astype(np.uint8)
    write_volume(folder / "ct.nii.gz", rng.normal(0, 100, grid.shape).astype(np.float32), grid)
    found.pool.add_case(
        "a", folder / "ct.nii.gz", Split.TEST, dict.fromkeys(names, mask), source=Source.ORIGINAL, author="t"
    )
    runtime = TorchRuntime(network(names), None, found.config.inference)
    tracemalloc.start()
    try:
        assert len(evaluate_case(found, runtime, found.config, "a")) == classes
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_memory_does_not_grow_with_the_classes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Some blocks wait to be written, however many classes there are: small ones here. What one class's distances take
    # varies with its mask.
    monkeypatch.setattr("ctune.inference.blocks.BLOCK_VOXELS", 4 * 64**2)
    monkeypatch.setattr("ctune.cohort.score_mask", lambda *about: about[:2])
    # A slab has all classes, and is held to its own bound by a benchmark: torch's memory is not counted here.
    monkeypatch.setattr("ctune.inference.slabs.Slabs._zeros", slab_of_torch)
    peak_bytes(tmp_path / "imports", 1)
    few, many = peak_bytes(tmp_path / "few", 2), peak_bytes(tmp_path / "many", 12)
    assert many < few + 2**20, "a mask of 64^3 takes 2^18 bytes: ten more classes would take ten of them"
