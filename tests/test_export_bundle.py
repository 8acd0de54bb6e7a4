"""A MONAI Bundle: verified and run by MONAI's own commands, in a process that cannot import ctune."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from small_network import SIDE, SMALL, config, project
from typer.testing import CliRunner

from cli.main import app
from ctune.compositions import Model, load_model, register_model
from ctune.data.nifti import write_volume
from ctune.errors import ModelError, UnknownClassError, UsageError
from ctune.export.bundle import export_bundle
from ctune.model.base import build_base
from ctune.model.heads import build_head
from ctune.model.network import Network
from ctune.predict import masks_of, predict_case
from ctune.project import Project
from ctune.types import Case, Grid
from registry import Registry

CPU = torch.device("cpu")
CLASSES = ("liver", "spleen", "aorta")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Project:
    found, _ = project(tmp_path_factory.mktemp("project"), pool=2)
    base = build_base(SMALL, seed=0)
    kinds = ("text", "text", "pyramid")
    heads = {name: build_head(name, kind, base, seed=0) for name, kind in zip(CLASSES, kinds, strict=True)}  # type: ignore[arg-type]
    register_model(found.open_registry(), "organs", Network(base, heads), config(), {})
    return found


@pytest.fixture(scope="module")
def model(made: Project) -> Model:
    return load_model(made.open_registry(), "organs", CPU)


@pytest.fixture(scope="module")
def bundle(made: Project, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("bundles") / "organs"
    words = ["export", "bundle", "organs", "-o", str(out), "--project", str(made.root), "--json"]
    answer = CliRunner().invoke(app, words)
    assert answer.exit_code == 0, answer.output
    assert json.loads(answer.stdout)["parity"]["noise"] < 1e-5
    return out


def without_ctune(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """``python -m monai.bundle`` where every import of ctune fails."""
    folder.mkdir(exist_ok=True)
    (folder / "sitecustomize.py").write_text(
        "import sys\n"
        "class Block:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] in ('ctune', 'cli', 'registry'):\n"
        "            raise ImportError(f'{name} is not here')\n"
        "sys.meta_path.insert(0, Block())\n",
        encoding="utf-8",
    )
    environment = {**os.environ, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "monai.bundle", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd=folder)


def test_monai_verifies_what_goes_in_and_out(bundle: Path, tmp_path: Path) -> None:
    configs = bundle / "configs"
    done = without_ctune(
        tmp_path / "w", "verify_net_in_out", "--net_id", "network_def", "--meta_file", str(configs / "metadata.json"),
        "--config_file", str(configs / "inference.json"), "--bundle_root", str(bundle), "--device", "cpu",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert "data shape of network is verified with no error" in done.stdout + done.stderr


def test_monai_runs_it_without_ctune_to_the_same_masks(
    bundle: Path, made: Project, model: Model, tmp_path: Path
) -> None:
    moved = tmp_path / "elsewhere"
    shutil.copytree(bundle, moved)
    images = tmp_path / "images"
    images.mkdir()
    for case in made.pool.cases()[:2]:
        shutil.copy(case.image, images / f"{case.id}.nii.gz")
    done = without_ctune(
        tmp_path / "w", "run", "--config_file", str(moved / "configs" / "inference.json"), "--bundle_root", str(moved),
        "--dataset_dir", str(images),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    for case in made.pool.cases()[:2]:
        image = nib.load(moved / "eval" / f"{case.id}_seg.nii.gz")
        found = np.asarray(image.dataobj)
        assert found.shape == (*case.grid.shape, len(CLASSES))
        assert np.allclose(image.affine, case.grid.affine)
        ours = masks_of(
            predict_case(model.network, made.pool.load(case.id), made.config, model=""), made.config.inference.threshold
        )  # fmt: skip
        for channel, name in enumerate(model.network.classes):
            differ = int((found[..., channel] != ours[name]).sum())
            assert differ <= 0.002 * SIDE**3, f"{name}: {differ} voxels differ"
        assert any(mask.any() for mask in ours.values())


def test_swin_unetr_at_another_spacing_on_an_axis_turned_ct(tmp_path: Path) -> None:
    """A blob in a CT of 2 x 2 x 3 mm in LPS order, seen at 4 mm: masks are ctune's, on the CT's own grid.

    MONAI keeps the first voxel where it is when it resamples, ctune the centre: for these sides that is the same.
    """
    grid = Grid((55, 47, 29), np.array([[-2.0, 0, 0, 20], [0, -2, 0, 30], [0, 0, 3, -10], [0, 0, 0, 1]]))
    x, y, z = np.indices(grid.shape, dtype=np.float32)
    away = ((x - 16) / 14) ** 2 + ((y - 30) / 10) ** 2 + ((z - 11) / 7) ** 2
    hu = (-150 + 380 * np.exp(-away)).astype(np.float32)
    settings = config(
        base={"architecture": "swin_unetr", "feature_size": 12},
        preprocessing={"spacing_mm": (4.0, 4.0, 4.0), "crop_foreground": False},
        inference={"patch_size": (64, 32, 32), "overlap": 0.25, "skip_air": False},
    )
    base = build_base(settings.base, seed=0)
    network = Network(base, {"liver": build_head("liver", "text", base, seed=0)})
    registry = Registry.open(tmp_path / "registry")
    register_model(registry, "organs", network, settings, {})
    model = load_model(registry, "organs", CPU)
    # An untrained network: the quarter with the highest probabilities is its mask.
    seen = predict_case(model.network, Case("a", hu, grid), settings, model="").probabilities[0]
    threshold = float(np.quantile(seen, 0.75))
    inference = settings.inference.model_copy(update={"threshold": threshold})
    folder = tmp_path / "bundle"
    done = export_bundle(model, folder, inference=inference, name="organs")
    assert max(done.parity.values()) < 1e-4
    write_volume(tmp_path / "images" / "a.nii.gz", hu, grid)
    at = ("--config_file", str(folder / "configs" / "inference.json"), "--bundle_root", str(folder))
    ran = without_ctune(tmp_path / "w", "run", *at, "--dataset_dir", str(tmp_path / "images"))
    assert ran.returncode == 0, ran.stderr[-3000:]
    image = nib.load(folder / "eval" / "a_seg.nii.gz")
    assert np.allclose(image.affine, grid.affine) and image.shape[:3] == grid.shape
    theirs, ours = np.asarray(image.dataobj).reshape(grid.shape) > 0, seen > threshold
    assert dice(theirs, ours) > 0.99
    for turned in (theirs[::-1], theirs[:, ::-1], theirs[:, :, ::-1]):
        assert dice(turned, ours) < 0.8, "masks are where they are, not turned"


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return float(2 * (a & b).sum() / (a.sum() + b.sum()))


def test_metadata_say_what_it_is(bundle: Path, model: Model) -> None:
    about = json.loads((bundle / "configs" / "metadata.json").read_text())
    channels = about["network_data_format"]["outputs"]["pred"]["channel_def"]
    assert list(channels.values()) == list(model.network.classes) == sorted(CLASSES)
    assert about["ctune"]["model"] == model.digest and set(about["ctune"]["heads"]) == set(CLASSES)
    assert "| 0 | aorta |" in (bundle / "docs" / "README.md").read_text()


def test_refusals_leave_nothing(bundle: Path, model: Model, tmp_path: Path) -> None:
    inference = config().inference
    with pytest.raises(UsageError, match="expected a folder that is not there yet"):
        export_bundle(model, bundle, inference=inference, name="organs")
    with pytest.raises(UnknownClassError):
        export_bundle(model, tmp_path / "a", inference=inference, name="organs", classes=["heart"])
    with pytest.raises(
        ModelError, match=r"expected the logits of the bundle within -1 of torch's on windows of noise"
    ):
        export_bundle(model, tmp_path / "b", inference=inference, name="organs", bound=-1.0)
    assert list(tmp_path.iterdir()) == []
