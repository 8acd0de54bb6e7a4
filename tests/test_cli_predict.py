"""``ctune predict``: what it takes, what it leaves, that it resumes, and that nothing is mirrored on the way."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from small_images import write_series
from small_network import GRID, network, project, volume
from typer.testing import CliRunner, Result

from cli.main import app
from ctune.compositions import register_model
from ctune.data.dicom_series import read_series
from ctune.data.exchange import read_segmentation
from ctune.data.nifti import write_volume
from ctune.data.nrrd import write_nrrd
from ctune.errors import GeometryError, ImageFileError, UsageError
from ctune.inference.inputs import find_inputs
from ctune.predict import read_masks, read_prediction
from ctune.project import Project
from ctune.types import Grid, Split

runner = CliRunner()
SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
SERIES = SHARED / "totalsegmentator" / "example_ct_dicom"
real = pytest.mark.skipif(not SERIES.exists(), reason=f"the real DICOM series is not in {SERIES}")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project with two pool cases and a registered network of two classes."""
    found, _ = project(tmp_path_factory.mktemp("project"), pool=2)
    register_model(found.open_registry(), "organs", network(), found.config, {})
    return found


def run(made: Project, *words: object) -> Result:
    return runner.invoke(app, ["predict", "organs", *map(str, words), "--project", str(made.root)])


def document(answer: Result) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(answer.stdout)
    return found


def test_the_pool_with_volumes_and_again_only_what_is_missing(made: Project, tmp_path: Path) -> None:
    answer = run(made, "-o", tmp_path, "--json")
    assert (answer.exit_code, answer.stderr) == (0, "")
    volumes = document(answer)["volumes_ml"]
    assert sorted(volumes) == ["case_0", "case_1"] and sorted(volumes["case_0"]) == ["liver", "spleen"]
    assert json.loads((tmp_path / "volumes.json").read_text()) == volumes
    mask = nib.load(tmp_path / "case_0" / "liver.nii.gz")
    assert volumes["case_0"]["liver"] == pytest.approx(np.asarray(mask.dataobj).sum() * 12 / 1000, abs=1e-3)
    assert sorted(p.name for p in (tmp_path / "case_0").iterdir()) == [
        "liver.nii.gz", "prediction.json", "spleen.nii.gz",
    ]  # fmt: skip
    shutil.rmtree(tmp_path / "case_1")
    before = (tmp_path / "case_0" / "prediction.json").stat().st_mtime_ns
    again = run(made, "-o", tmp_path)
    assert again.stdout == f"2 cases in {tmp_path}, volumes in {tmp_path / 'volumes.json'}\n"
    assert (tmp_path / "case_0" / "prediction.json").stat().st_mtime_ns == before
    assert (tmp_path / "case_1" / "prediction.json").exists()


def test_files_folders_and_folders_of_cases(made: Project, tmp_path: Path) -> None:
    for name in (
        "flat/a.nii.gz",
        "flat/b.nii",
        "cases/one/ct.nii.gz",
        "cases/one/segmentations/liver.nii.gz",
    ):
        write_volume(tmp_path / name, volume(0)[0], GRID)
    assert [i.case_id for i in find_inputs([tmp_path / "flat", tmp_path / "cases"])] == ["a", "b", "one"]
    answer = run(made, tmp_path / "flat", tmp_path / "cases/one/ct.nii.gz", "-o", tmp_path / "out", "--json")
    assert sorted(document(answer)["volumes_ml"]) == ["a", "b", "ct"]
    (tmp_path / "empty").mkdir()
    none = run(made, tmp_path / "empty")
    assert none.exit_code == 2 and f"error: expected CTs in {tmp_path / 'empty'}, found none" in none.stderr


def test_a_label_map_probabilities_and_one_class(made: Project, tmp_path: Path) -> None:
    write_volume(tmp_path / "a.nii.gz", volume(0)[0], GRID)
    words = (tmp_path / "a.nii.gz", "-o", tmp_path / "out", "--classes", "spleen")
    assert run(made, *words, "--labels", "--probabilities").exit_code == 0
    folder = tmp_path / "out" / "a"
    assert sorted(p.name for p in folder.iterdir()) == [
        "labels.nii.gz",
        "prediction.json",
        "probabilities.nii.gz",
    ]
    assert json.loads((folder / "prediction.json").read_text())["labels"] == {"spleen": 1}
    assert nib.load(folder / "probabilities.nii.gz").shape == (16, 16, 16, 1)
    unknown = run(made, tmp_path / "a.nii.gz", "--classes", "spleeen")
    assert unknown.exit_code == 2 and "got 'spleeen'" in unknown.stderr


def test_what_cannot_be_read_is_told_and_ends_with_one(made: Project, tmp_path: Path) -> None:
    (tmp_path / "bad.nii.gz").write_bytes(b"")
    write_volume(tmp_path / "good.nii.gz", volume(0)[0], GRID)
    answer = run(made, tmp_path, "-o", tmp_path / "out")
    assert answer.exit_code == 1 and "1 cases in" in answer.stdout
    none = run(made, tmp_path / "bad.nii.gz", "-o", tmp_path / "none")
    assert none.stdout.startswith(f"0 cases in {tmp_path / 'none'}\nrefused bad")
    assert "refused bad: case bad: expected an image, got an empty file" in answer.stdout


@pytest.mark.parametrize("name", ["...nii.gz", ".nii.gz", "volumes.json.nii.gz"])
def test_a_name_that_is_no_folder_beside_the_others(made: Project, tmp_path: Path, name: str) -> None:
    """The first would have its masks written beside --out, and what is there taken away."""
    write_volume(tmp_path / "in" / name, volume(0)[0], GRID)
    answer = run(made, tmp_path / "in" / name, "-o", tmp_path / "out")
    assert answer.exit_code == 2 and "expected a CT whose name could be that of its folder" in answer.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["in"]


def test_names_of_any_letters(made: Project, tmp_path: Path) -> None:
    write_volume(tmp_path / "a folder" / "ct 肝 ü (1).nii.gz", volume(0)[0], GRID)
    answer = run(made, tmp_path / "a folder", "-o", tmp_path / "out put", "--json")
    assert list(document(answer)["volumes_ml"]) == ["ct 肝 ü (1)"]
    assert (tmp_path / "out put" / "ct 肝 ü (1)" / "liver.nii.gz").exists()


@pytest.mark.parametrize("shape", [(16, 16, 1), (1, 1, 16), (5, 5, 5), (1, 1, 1)])
def test_a_ct_smaller_than_a_window(made: Project, tmp_path: Path, shape: tuple[int, int, int]) -> None:
    hu = volume(0)[0][tuple(slice(n) for n in shape)]
    write_volume(tmp_path / "a.nii.gz", hu, Grid(shape, GRID.affine))
    assert run(made, tmp_path / "a.nii.gz", "-o", tmp_path / "out").exit_code == 0
    assert nib.load(tmp_path / "out" / "a" / "liver.nii.gz").shape == shape


def test_a_class_named_twice_and_a_file_for_a_folder(made: Project, tmp_path: Path) -> None:
    write_volume(tmp_path / "a.nii.gz", volume(0)[0], GRID)
    words = (tmp_path / "a.nii.gz", "--classes", "liver,liver", "--json")
    assert list(document(run(made, *words, "-o", tmp_path / "out"))["volumes_ml"]["a"]) == ["liver"]
    wrong = run(made, *words, "-o", tmp_path / "a.nii.gz")
    assert wrong.exit_code == 2 and "expected a folder for --out, got the file" in wrong.stderr


def test_another_runtime(made: Project, tmp_path: Path) -> None:
    unknown = run(made, "--runtime", "tensorrt")
    assert (
        unknown.exit_code == 2
        and "expected one of torch, onnx for --runtime, got 'tensorrt'" in unknown.stderr
    )
    pytest.importorskip("onnxruntime", reason="the extra `onnx` is not installed")
    (tmp_path / "bad.onnx").write_bytes(b"no graph")
    words = ["predict", str(tmp_path / "bad.onnx"), "--runtime", "onnx", "--project", str(made.root)]
    answer = runner.invoke(app, words)
    assert answer.exit_code == 1 and "expected an ONNX file that ctune exported" in answer.stderr
    forgotten = runner.invoke(app, ["predict", str(tmp_path / "bad.onnx"), "--project", str(made.root)])
    assert forgotten.exit_code == 2 and "give --runtime onnx" in forgotten.stderr


def test_onnxruntime_gives_the_masks_of_torch(tmp_path: Path) -> None:
    """Only a voxel whose probability is at the threshold, within the step of a stored probability, may differ."""
    pytest.importorskip("onnxruntime", reason="the extra `onnx` is not installed")
    # Probabilities of an untrained network lie around .48: a threshold there gives masks of some size.
    inference = {"patch_size": (16, 16, 16), "overlap": 0.25, "threshold": 0.48}
    found, _ = project(tmp_path, pool=2, inference=inference)
    register_model(found.open_registry(), "organs", network(), found.config, {})
    graph, at = tmp_path / "organs.onnx", ("--project", str(found.root))
    assert runner.invoke(app, ["export", "onnx", "organs", "-o", str(graph), *at]).exit_code == 0
    for model, runtime in (("organs", "torch"), (str(graph), "onnx")):
        words = ["-o", str(tmp_path / runtime), "--runtime", runtime, "--probabilities", "--json"]
        answer = runner.invoke(app, ["predict", model, *words, *at])
        assert answer.exit_code == 0, answer.output
    for case in found.pool.cases(Split.POOL):
        torchs, onnxs = (read_masks(tmp_path / runtime / case.id, case.grid) for runtime in ("torch", "onnx"))
        values = read_prediction(tmp_path / "torch" / case.id, case.grid).probabilities
        for k, name in enumerate(("liver", "spleen")):
            assert 0 < torchs[name].sum() < torchs[name].size
            differ = torchs[name] != onnxs[name]
            assert (np.abs(values[k][differ] - 0.48) <= 1 / 255).all() and differ.mean() < 0.01
        made = [
            json.loads((tmp_path / r / case.id / "prediction.json").read_text()) for r in ("torch", "onnx")
        ]
        assert made[0]["model"] == made[1]["model"], "a file is the model that it was made of"
    one = runner.invoke(
        app,
        ["predict", str(graph), "--runtime", "onnx", "--classes", "spleen", "-o", str(tmp_path / "one"), *at],
    )
    assert one.exit_code == 0
    assert not (tmp_path / "one" / "case_0" / "liver.nii.gz").exists()
    np.testing.assert_array_equal(
        read_masks(tmp_path / "one" / "case_0", case.grid)["spleen"],
        read_masks(tmp_path / "onnx" / "case_0", case.grid)["spleen"],
    )


# Other programs' formats ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["labels", "seg.nrrd", "dicom-seg", "itk-snap"])
def test_every_format_holds_the_same_masks(made: Project, tmp_path: Path, form: str) -> None:
    series = tmp_path / "ct"
    write_series(series, np.rint(volume(0)[0]).astype(int), np.diag([2.0, 2.0, -3.0]), (10.0, 20.0, 30.0))
    assert run(made, series, "-o", tmp_path / "plain").exit_code == 0
    assert run(made, series, "-o", tmp_path / "out", "--format", form).exit_code == 0
    grid = find_inputs([series])[0].load().grid
    plain = read_segmentation(tmp_path / "plain" / "ct", grid)
    assert sum(int(mask.sum()) for mask in plain.values()) > 0
    written = {p.name for p in (tmp_path / "out" / "ct").iterdir()} - {"prediction.json"}
    names = {
        "labels": {"labels.nii.gz"}, "seg.nrrd": {"labels.seg.nrrd"}, "dicom-seg": {"labels.dcm"},
        "itk-snap": {"labels.nii.gz", "labels.txt"},
    }  # fmt: skip
    assert written == names[form]
    back = read_masks(tmp_path / "out" / "ct", grid)
    if form in ("labels", "itk-snap"):
        both = {name: plain[name] | back[name] for name in plain}
        assert all(np.array_equal(both[n], plain[n]) for n in plain), (
            "a label map takes nothing that a mask lacks"
        )
        assert np.array_equal(sum(back.values()), np.maximum(*plain.values())), "and leaves no voxel out"
    else:
        assert all(np.array_equal(back[n], plain[n]) for n in plain)
    before = (tmp_path / "out" / "ct" / "prediction.json").stat().st_mtime_ns
    assert run(made, series, "-o", tmp_path / "out", "--format", form).exit_code == 0
    assert (tmp_path / "out" / "ct" / "prediction.json").stat().st_mtime_ns == before, "it is finished"
    # Another format takes its place: nothing of the first stays.
    assert run(made, series, "-o", tmp_path / "out", "--format", "nifti").exit_code == 0
    assert {p.name for p in (tmp_path / "out" / "ct").iterdir()} == {
        "liver.nii.gz", "spleen.nii.gz", "prediction.json",
    }  # fmt: skip


def test_inputs_of_every_kind(made: Project, tmp_path: Path) -> None:
    hu = np.rint(volume(0)[0]).astype(np.int16)
    write_volume(tmp_path / "in" / "a.nii.gz", hu, GRID)
    write_nrrd(tmp_path / "in" / "b.nrrd", [hu], GRID)
    write_series(tmp_path / "series", hu.astype(int), np.diag([2.0, 2.0, 3.0]), (0.0, 0.0, 0.0))
    shutil.make_archive(str(tmp_path / "in" / "c"), "zip", tmp_path / "series")
    write_nrrd(tmp_path / "in" / "b.seg.nrrd", [hu], GRID)
    found = find_inputs([tmp_path / "in", tmp_path / "series"])
    assert [one.case_id for one in found] == ["a", "b", "c", "series"]
    assert [one.series is not None for one in found] == [False, False, True, True]
    assert all(np.array_equal(np.sort(one.load().volume, axis=None), np.sort(hu, axis=None)) for one in found)
    zipped = run(made, tmp_path / "in" / "c.zip", "-o", tmp_path / "out", "--format", "dicom-seg")
    assert zipped.exit_code == 0 and (tmp_path / "out" / "c" / "labels.dcm").exists()
    other = run(made, tmp_path / "in", "-o", tmp_path / "no", "--format", "dicom-seg")
    assert other.exit_code == 2 and not (tmp_path / "no").exists()
    assert "expected CTs as DICOM series for DICOM segmentations, got a in another format" in other.stderr
    both = run(made, tmp_path / "in" / "c.zip", "--labels", "--format", "seg.nrrd")
    assert both.exit_code == 2 and "expected --labels or --format seg.nrrd, got both" in both.stderr


# DICOM ----------------------------------------------------------------------------------------------------------------


@real
def test_a_series_lies_where_its_segmentation_says(made: Project, tmp_path: Path) -> None:
    """The labels of the series are stored mirrored against it: only in the world do they meet the same tissue."""
    (found,) = find_inputs([SERIES])
    case = found.load()
    assert case.id == "example_ct_dicom" and case.grid.shape == (512, 512, 20)
    assert case.grid.spacing_mm == pytest.approx((0.9765625, 0.9765625, 2.0))
    labels = nib.load(SHARED / "totalsegmentator" / "example_seg_dicom.nii.gz")
    ct = nib.as_closest_canonical(nib.Nifti1Image(case.volume, case.grid.affine))
    seg = nib.as_closest_canonical(labels)
    assert np.allclose(ct.affine, seg.affine, atol=1e-3) and ct.shape == seg.shape
    liver = np.asarray(seg.dataobj) == 5
    hu = np.asarray(ct.dataobj)[liver]
    assert liver.sum() > 10_000 and (np.abs(hu - 100) < 80).mean() > 0.95, "liver is soft tissue all over"
    flipped = np.asarray(ct.dataobj)[:, ::-1][liver]
    assert (np.abs(flipped - 100) < 80).mean() < 0.9, "or this test would not see a flip"


@real
def test_a_series_that_misses_a_slice_is_refused(tmp_path: Path) -> None:
    files = sorted(SERIES.iterdir())
    with pytest.raises(GeometryError, match="case s: expected a series that is one regular volume in"):
        read_series([*files[:5], *files[7:]], "s")
    with pytest.raises(GeometryError, match="expected a series of two slices or more"):
        read_series(files[:1], "s")
    (tmp_path / "cut.dcm").write_bytes(files[0].read_bytes()[:3000])
    with pytest.raises(ImageFileError, match="case s: expected"):
        read_series([files[1], tmp_path / "cut.dcm"], "s")


def test_without_the_extra_a_series_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "slice").write_bytes(bytes(128) + b"DICM")
    monkeypatch.setitem(__import__("sys").modules, "highdicom", None)
    with pytest.raises(UsageError, match=r"expected the extra 'dicom' .* run `pip install 'ctune\[dicom\]'`"):
        find_inputs([tmp_path])
