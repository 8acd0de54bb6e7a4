"""``ctune score``: from the files of predictions to scores, weights and maps; resumed, streamed, by one model or two."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from small_network import GRID, project
from typer.testing import CliRunner, Result

from cli.main import app
from ctune.config import ImportanceConfig
from ctune.data.files import read_json, write_json
from ctune.data.nifti import check_whole, write_probabilities
from ctune.errors import DataError, GeometryError, ImageFileError, UsageError
from ctune.importance import read_importances, score_case
from ctune.importance.case import floor_of
from ctune.importance.files import channels, read_crops
from ctune.importance.judged import judged_volumes
from ctune.predict import read_prediction
from ctune.project import Project
from ctune.types import Grid

runner = CliRunner()
CLASSES = ("liver", "spleen")
OWN = ImportanceConfig()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Project:
    found, _ = project(tmp_path_factory.mktemp("project"), pool=3)
    return found


def write_prediction(folder: Path, case_id: str, seed: int) -> None:
    """Two soft boxes; the larger the seed, the softer."""
    shape = GRID.shape
    p = np.full((2, *shape), 0.02, dtype=np.float32)
    p[0, 2:8, 2:9, 3:12], p[1, 10:14, 4:9, 5:11] = 0.98 - 0.1 * seed, 0.9
    # Uneven spread, and only on one side of the first box.
    spread = np.zeros_like(p)
    spread[0, 2:4, 2:9, 3:12] = 0.2
    write_probabilities(folder / case_id / "probabilities.nii.gz", p, GRID)
    write_probabilities(folder / case_id / "inconsistency.nii.gz", spread, GRID)
    volumes = {n: float((c > 0.5).sum()) * GRID.voxel_ml for n, c in zip(CLASSES, p, strict=True)}
    write_json(
        folder / case_id / "prediction.json",
        {
            "case": case_id, "classes": CLASSES, "model": f"m{seed}", "threshold": 0.5, "inconsistency": True,
            "probabilities": True, "volumes_ml": volumes,
        },
    )  # fmt: skip


@pytest.fixture
def predictions(tmp_path: Path) -> Path:
    for index in range(3):
        write_prediction(tmp_path / "predictions", f"case_{index}", index)
    return tmp_path / "predictions"


def run(made: Project, *words: object) -> Result:
    return runner.invoke(app, ["score", *map(str, words), "--project", str(made.root)])


def test_it_ranks_the_unsure_first_with_minutes_reasons_weights_and_maps(
    made: Project, predictions: Path, tmp_path: Path
) -> None:
    out = tmp_path / "scores"
    answer = run(made, predictions, "-o", out, "--per-class", "--json")
    assert answer.exit_code == 0, answer.output
    found: dict[str, Any] = json.loads(answer.stdout)
    assert list(found["scores"]) == ["case_2", "case_1", "case_0"]
    assert found["minutes"]["case_2"] > found["minutes"]["case_0"] > 1.0, "half a minute a class at least"
    assert read_json(out / "weights.json")["revisions"] == 0
    scored = {one.case_id: one for one in read_importances(out / "scores.json")}
    liver = scored["case_2"].classes["liver"]
    assert liver.reason.startswith("liver: ") and set(liver.measures) >= {"doubt", "inconsistency", "volume"}
    image = nib.load(out / "attention" / "case_2.nii.gz")
    assert image.get_data_dtype() == np.uint8 and np.allclose(image.affine, GRID.affine)
    maps = [np.asarray(nib.load(out / "attention" / "case_2" / f"{n}.nii.gz").dataobj) for n in CLASSES]
    assert np.array_equal(np.maximum(*maps), np.asarray(image.dataobj))


def test_people_see_the_reason_and_the_weights(made: Project, predictions: Path, tmp_path: Path) -> None:
    lines = run(made, predictions, "-o", tmp_path / "scores").stdout.splitlines()
    assert "case_2" in lines[0] and "mL uncertain" in lines[0] and " min " in lines[0]
    assert lines[-1].startswith("weights: doubt") and "learned from 20 revised classes on" in lines[-1]


def test_a_case_that_is_done_is_not_read_again(
    made: Project, predictions: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, read = tmp_path / "scores", list[str]()
    first = run(made, predictions, "-o", out, "--json")
    (out / "scores.json").unlink()

    def reading(folders: list[Path], *more: Any) -> Any:
        read.append(folders[0].name)
        return read_crops(folders, *more)

    monkeypatch.setattr("ctune.importance.pool.read_crops", reading)
    again = run(made, predictions, "-o", out, "--json")
    assert again.exit_code == 0 and again.stdout == first.stdout and read == []
    # Kept by something else, or cut short: it is made again.
    write_json(out / "attention" / "case_0.json", {"about": {}, "importance": {}})
    (out / "attention" / "case_2.json").write_text('{"about": {"cla')
    assert run(made, predictions, "-o", out, "--json").stdout == first.stdout and read == ["case_0", "case_2"]


def test_a_prediction_that_was_made_again_is_scored_anew(
    made: Project, predictions: Path, tmp_path: Path
) -> None:
    """The same model, now with mirror images; then other values alone."""
    out, folder = tmp_path / "scores", predictions / "case_0"
    about = read_json(folder / "prediction.json")
    write_json(folder / "prediction.json", about | {"inconsistency": False})
    run(made, predictions, "-o", out)
    before = read_importances(out / "scores.json")[0].classes["liver"].measures
    write_json(folder / "prediction.json", about)
    run(made, predictions, "-o", out)
    after = read_importances(out / "scores.json")[0].classes["liver"].measures
    assert before["inconsistency"] == 0 < after["inconsistency"] and before["doubt"] == after["doubt"]
    (folder / "probabilities.nii.gz").write_bytes(b"")
    answer = run(made, predictions, "-o", out)
    assert answer.exit_code == 1 and "probabilities.nii.gz" in answer.stderr, "it is read again"


def test_one_more_case_changes_scores_and_no_map(
    made: Project, predictions: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is usual is known from eight masks on; a pool of three is told by what people drew."""
    out, drawn = tmp_path / "scores", dict[str, dict[str, float]]()
    monkeypatch.setattr("ctune.importance.judged.judged_volumes", lambda *_: drawn)
    run(made, predictions, "-o", out)
    maps = {path: path.stat().st_mtime_ns for path in (out / "attention").glob("*.nii.gz")}
    before = read_importances(out / "scores.json")[0]
    drawn |= {f"old_{n}": {"liver": 1000.0 + n} for n in range(8)}
    monkeypatch.setattr("ctune.importance.pool.read_crops", None)
    assert run(made, predictions, "-o", out).exit_code == 0
    after = read_importances(out / "scores.json")[0]
    assert before.classes["liver"].measures["volume"] == 0 < after.classes["liver"].measures["volume"]
    assert after.score > before.score and after.classes["spleen"] == before.classes["spleen"]
    assert {path: path.stat().st_mtime_ns for path in (out / "attention").glob("*.nii.gz")} == maps
    shutil.rmtree(out / "attention")
    monkeypatch.setattr("ctune.importance.pool.read_crops", read_crops)
    run(made, predictions, "-o", out)
    assert read_importances(out / "scores.json")[0] == after, "as from the voxels"


def test_what_people_drew_is_measured_once(made: Project) -> None:
    found = judged_volumes(made, ["liver"])
    mask = made.pool.read(made.pool.annotations("case_0", "liver")[0]).mask
    assert found["case_0"] == {"liver": pytest.approx(float(mask.sum()) * GRID.voxel_ml, abs=1e-3)}
    assert set(found) == {"case_0", "case_1", "case_2"}
    kept = read_json(made.cache / "volumes.json")
    write_json(made.cache / "volumes.json", dict.fromkeys(kept, 7.0))
    assert judged_volumes(made, ["liver"])["case_0"] == {"liver": 7.0}
    (made.cache / "volumes.json").unlink()


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (
            ("--classes", "splen"),
            "expected classes among those that were predicted, got 'splen'; did you mean spleen?",
        ),
        (("--classes", "nonsense"), "got 'nonsense'; there are liver, spleen"),
    ],
)
def test_an_unknown_class_is_said_with_the_nearest(
    made: Project, predictions: Path, tmp_path: Path, words: tuple[str, ...], problem: str
) -> None:
    answer = run(made, predictions, "-o", tmp_path / "scores", *words)
    assert answer.exit_code == UsageError.exit_code and problem in " ".join(answer.stderr.split())


def test_a_class_that_is_named_twice_counts_once(made: Project, predictions: Path, tmp_path: Path) -> None:
    twice, once = (
        run(made, predictions, "-o", tmp_path / text, "--classes", text, "--json")
        for text in ("spleen,Spleen", "spleen")
    )
    assert json.loads(twice.stdout)["scores"] == json.loads(once.stdout)["scores"]


@pytest.mark.parametrize("text", ["", '{"case": "case_1", "clas', "[]", "{}"])
def test_a_record_that_is_cut_short_is_one_clear_line(
    made: Project, predictions: Path, tmp_path: Path, text: str
) -> None:
    (predictions / "case_1" / "prediction.json").write_text(text)
    answer = run(made, predictions, "-o", tmp_path / "scores")
    said = " ".join(answer.stderr.split())
    assert answer.exit_code == 1 and "case_1/prediction.json, got one that is cut short or damaged" in said


def test_scores_that_are_missing_or_cut_short_are_one_clear_line(made: Project, tmp_path: Path) -> None:
    def select() -> Result:
        return runner.invoke(app, ["select", str(tmp_path), "--project", str(made.root)])

    found = select()
    assert found.exit_code == 1 and "found no such file; run `ctune score` first" in " ".join(
        found.stderr.split()
    )
    for text in ("", '[{"case_id": "case_0", "sco', '[{"case_id": "case_0"}]', "7"):
        (tmp_path / "scores.json").write_text(text)
        found = select()
        assert found.exit_code == 1 and "cut short or damaged" in " ".join(found.stderr.split())


def test_files_score_as_the_same_prediction_in_memory(
    predictions: Path, made: Project, tmp_path: Path
) -> None:
    run(made, predictions, "-o", tmp_path / "scores")
    scored = {one.case_id: one for one in read_importances(tmp_path / "scores" / "scores.json")}
    inside = score_case(read_prediction(predictions / "case_1", GRID), OWN).summary()
    assert scored["case_1"] == inside
    image = nib.load(tmp_path / "scores" / "attention" / "case_1.nii.gz")
    again = score_case(read_prediction(predictions / "case_1", GRID), OWN)
    assert np.array_equal(np.asarray(image.dataobj), again.attention)


def test_two_models_disagree(predictions: Path, made: Project, tmp_path: Path) -> None:
    other = tmp_path / "other"
    for index in range(3):
        write_prediction(other, f"case_{index}", 4)
    assert run(made, predictions, other, "-o", tmp_path / "scores").exit_code == 0
    scored = {one.case_id: one for one in read_importances(tmp_path / "scores" / "scores.json")}
    values = [scored[f"case_{index}"].classes["liver"].measures["disagreement"] for index in range(3)]
    assert values[0] > values[1] > values[2] > 0
    shutil.rmtree(other / "case_1")
    answer = run(made, predictions, other, "-o", tmp_path / "scores")
    assert answer.exit_code == 2 and "got [3, 2] with 2 in common; predict what is missing" in answer.stderr


def test_without_predictions_it_says_what_to_run(made: Project, tmp_path: Path) -> None:
    answer = run(made, tmp_path / "nothing")
    assert (
        answer.exit_code == UsageError.exit_code
        and "found none; run `ctune predict MODEL --probabilities" in answer.stderr
    )


def test_whichever_byte_is_damaged_one_line_says_so(tmp_path: Path) -> None:
    """nibabel reads the header with the standard library, ctune the voxels with another: each has errors of its own."""
    path, grid = tmp_path / "probabilities.nii.gz", Grid((20, 20, 20), np.eye(4))
    values = np.random.default_rng(0).random((1, 20, 20, 20)).astype(np.float32)
    write_probabilities(path, values, grid)
    whole, refused = path.read_bytes(), 0
    for at in (*range(10, 200), *range(200, len(whole), 97)):
        damaged = bytearray(whole)
        damaged[at] ^= 0xFF
        path.write_bytes(damaged)
        for read in (lambda: list(channels(path, grid)), lambda: check_whole(path, "case")):
            try:
                read()
            except DataError:
                refused += 1
    assert refused > 190


def test_files_that_do_not_fit_are_refused(predictions: Path) -> None:
    floor, clear = floor_of(OWN)
    folder = predictions / "case_0"
    with pytest.raises(
        DataError, match=r"expected a prediction of aorta in .*, got liver, spleen; predict again"
    ):
        read_crops([folder], GRID, ["aorta"], floor, clear)
    moved = type(GRID)(GRID.shape, np.diag([2.0, 2.0, 3.0, 1.0]))
    with pytest.raises(GeometryError, match="expected the CT's grid"):
        read_crops([folder], moved, ["liver"], floor, clear)
    whole = (folder / "probabilities.nii.gz").read_bytes()
    (folder / "probabilities.nii.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(
        ImageFileError, match=r"expected a whole file .*, got one that is cut short or damaged"
    ):
        list(channels(folder / "probabilities.nii.gz", GRID))
    (folder / "prediction.json").unlink()
    with pytest.raises(DataError, match=r"found no prediction\.json; predict the case again"):
        read_crops([folder], GRID, ["liver"], floor, clear)
