"""``Segmenter``: the masks of ``ctune predict`` in a few lines of Python."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from small_network import GRID, network, project, volume
from typer.testing import CliRunner

import ctune
from cli.main import app
from ctune import Segmenter
from ctune.compositions import register_model
from ctune.data.nifti import write_volume
from ctune.errors import DataError, UnknownClassError, UsageError
from ctune.predict import read_masks
from ctune.project import Project
from ctune.types import Mask


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Project:
    # Probabilities of an untrained network lie around .48: a threshold there gives masks of some size.
    inference = {"patch_size": (16, 16, 16), "overlap": 0.25, "threshold": 0.48}
    found, _ = project(
        tmp_path_factory.mktemp("project"), pool=2, test=0, inference=inference, postprocess={"liver": {"largest": 1}}
    )  # fmt: skip
    register_model(found.open_registry(), "organs", network(), found.config, {})
    return found


@pytest.fixture(scope="module")
def written(made: Project, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Mask]]:
    """What `ctune predict` writes of the pool."""
    out = tmp_path_factory.mktemp("out")
    words = ["predict", "organs", "-o", str(out), "--project", str(made.root)]
    assert CliRunner().invoke(app, words).exit_code == 0
    return {case.id: read_masks(out / case.id, case.grid) for case in made.pool.cases()}


def same(found: ctune.segmenter.Segmented, expected: dict[str, Mask]) -> bool:
    return list(found.masks) == list(expected) and all(
        np.array_equal(found.masks[name], mask) for name, mask in expected.items()
    )


def test_paths_and_arrays_get_the_masks_that_predict_writes(
    made: Project, written: dict[str, dict[str, Mask]]
) -> None:
    segmenter = Segmenter("organs", project=made.root)
    found = segmenter(made.pool.image("case_1"))
    assert same(found, written["case_1"]) and all(0 < mask.sum() < mask.size for mask in found.masks.values())
    assert found.volumes_ml["liver"] == pytest.approx(found.masks["liver"].sum() * 12 / 1000)
    assert found.grid.shape == GRID.shape and segmenter.classes == ("liver", "spleen")
    assert same(segmenter(volume(1)[0], GRID.affine), written["case_1"])
    # The same CT with its first axis turned: masks are on the array as it was given.
    turned = GRID.affine @ np.array([[-1, 0, 0, 15], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    mirrored = {name: mask[::-1] for name, mask in written["case_1"].items()}
    assert same(segmenter(volume(1)[0][::-1].astype(np.float64), turned), mirrored)


def test_several_one_after_the_other_and_as_files(
    made: Project, written: dict[str, dict[str, Mask]], tmp_path: Path
) -> None:
    for index in range(2):
        write_volume(tmp_path / "cts" / f"case_{index}.nii.gz", volume(index)[0], GRID)
    segmenter = Segmenter("organs", project=made.root)
    found = list(segmenter.each([tmp_path / "cts", (volume(0)[0], GRID.affine)]))
    assert [one.case_id for one in found] == ["case_0", "case_1", "array"]
    assert same(found[0], written["case_0"]) and same(found[1], written["case_1"])
    assert same(found[2], written["case_0"])
    volumes = segmenter.write([tmp_path / "cts"], tmp_path / "out")
    assert volumes["case_0"]["liver"] == pytest.approx(found[0].volumes_ml["liver"], abs=1e-3)
    assert np.array_equal(read_masks(tmp_path / "out" / "case_1", GRID)["liver"], written["case_1"]["liver"])


def test_an_exported_file_needs_no_project(
    made: Project, written: dict[str, dict[str, Mask]], tmp_path: Path
) -> None:
    pytest.importorskip("onnxruntime", reason="the extra `onnx` is not installed")
    graph = tmp_path / "organs.onnx"
    words = ["export", "onnx", "organs", "-o", str(graph), "--project", str(made.root)]
    assert CliRunner().invoke(app, words).exit_code == 0
    with_settings = Segmenter(graph, project=made.root, classes=["spleen"])
    found = with_settings(made.pool.image("case_0"))
    assert list(found.masks) == ["spleen"]
    assert (found.masks["spleen"] != written["case_0"]["spleen"]).sum() <= 4
    alone = Segmenter(graph)
    assert alone.digest == Segmenter("organs", project=made.root).digest == with_settings.digest
    assert alone(volume(0)[0], GRID.affine).masks["spleen"].sum() < found.masks["spleen"].sum(), (
        "without a project the threshold is .5"
    )


def test_what_does_not_fit_is_refused(made: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    segmenter = Segmenter("organs", project=made.root)
    with pytest.raises(UsageError, match="expected a path, or an array with its affine"):
        segmenter(volume(0)[0])
    with pytest.raises(
        DataError, match=r"expected HU \(X, Y, Z\) with an affine \(4, 4\), got shapes \(16, 16\)"
    ):
        segmenter(volume(0)[0][0], GRID.affine)
    (tmp_path / "bad.nii.gz").write_bytes(b"")
    with pytest.raises(DataError, match="case bad: expected an image, got an empty file"):
        segmenter.write([tmp_path / "bad.nii.gz"], tmp_path / "out")
    write_volume(tmp_path / "two.nii.gz", volume(0)[0], GRID)
    with pytest.raises(UsageError, match=r"expected one CT in .*, found 2; use `each` for several"):
        segmenter(tmp_path)
    with pytest.raises(UnknownClassError):
        Segmenter("organs", project=made.root, classes=["livr"])
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=r"expected ctune\.toml in"):
        Segmenter("organs")
    with pytest.raises(AttributeError, match="has no attribute 'Segmentor'"):
        ctune.Segmentor  # noqa: B018


def test_importing_ctune_alone_imports_no_torch() -> None:
    code = "import ctune, sys; sys.exit('torch' in sys.modules or not ctune.__version__)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
