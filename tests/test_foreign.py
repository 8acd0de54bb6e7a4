"""Imports from other programs' formats: the CT becomes NIfTI with its values and place, segments become annotations."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from small_images import turned, write_series
from small_sets import AFFINE, GRID, SHARED, box, ct, save
from typer.testing import CliRunner

from cli.main import app
from ctune.config import preset
from ctune.data.exchange import read_ct, write_segmentation
from ctune.data.importing import import_cases
from ctune.data.layouts import detect, find_cases
from ctune.data.nrrd import write_nrrd
from ctune.data.pool import Pool
from ctune.errors import UsageError
from ctune.project import create_project
from ctune.types import Mask, Source

TWO = {"liver": box(0), "spleen": box(3)}
DCMQI = SHARED / "dcmqi_ct3slice"


@pytest.fixture
def pool(tmp_path: Path) -> Pool:
    return Pool.create(tmp_path / "pool")


def annotations(pool: Pool, case_id: str) -> dict[str, Mask]:
    return {r.class_name: pool.read(r).mask for r in pool.annotations(case_id)}


def same(got: dict[str, Mask], expected: dict[str, Mask]) -> bool:
    return got.keys() == expected.keys() and all(np.array_equal(got[k], expected[k]) for k in expected)


def test_folders_of_cases_as_slicer_and_itk_snap_leave_them(pool: Pool, tmp_path: Path) -> None:
    root = tmp_path / "set"
    for case, form in (("a", "seg.nrrd"), ("b", "itk-snap")):
        (root / case).mkdir(parents=True)
        write_nrrd(root / case / "ct.nrrd", [ct(ord(case))], GRID)
        name = "Segmentation.seg.nrrd" if form == "seg.nrrd" else "labels.nii.gz"
        write_segmentation(root / case / name, TWO, GRID, form)
    assert detect(root) == "totalsegmentator"
    report = import_cases(pool, find_cases(root))
    assert [c.outcome for c in report.cases] == ["imported", "imported"], report.cases
    for case in ("a", "b"):
        assert np.array_equal(pool.load(case).volume, ct(ord(case))) and pool.grid(case).matches(GRID)
        assert same(annotations(pool, case), TWO)
        assert pool.case(case).origin["image"] == str(root / case / "ct.nrrd")
    notes = {r.note for case in ("a", "b") for r in pool.annotations(case, "liver")}
    assert notes == {"from Segmentation.seg.nrrd, segment liver", "from labels.nii.gz, label 1 (liver)"}
    again = import_cases(pool, find_cases(root))
    assert [c.outcome for c in again.cases] == ["already there"] * 2, (
        "converted again, the bytes are the same"
    )


def test_a_nrrd_of_fractions_is_kept_as_such(pool: Pool, tmp_path: Path) -> None:
    volume = (ct() / 3).astype(np.float32)
    write_nrrd(tmp_path / "a.nrrd", [volume], GRID)
    import_cases(pool, find_cases(tmp_path / "a.nrrd"))
    assert np.array_equal(pool.load("a").volume, volume)


@pytest.mark.parametrize("zipped", [False, True])
def test_a_dicom_series_with_its_segmentation(pool: Pool, tmp_path: Path, zipped: bool) -> None:
    series = tmp_path / "p_1"
    write_series(series, ct().astype(int), np.diag([0.8, 0.75, -2.5]), (-90.0, -70.0, 30.0))
    case = read_ct(series)
    write_segmentation(tmp_path / "seg.dcm", TWO, case.grid, "dicom-seg", source=series)
    if zipped:
        shutil.make_archive(str(series), "zip", series)
        shutil.rmtree(series)
        series = tmp_path / "p_1.zip"
    found = find_cases(series, label_map=tmp_path / "seg.dcm")
    assert [(one.id, one.segments) for one in found] == [("p_1", ("liver", "spleen"))]
    assert [c.reason for c in import_cases(pool, found).refused] == []
    record = pool.annotations("p_1", "liver")[0]
    assert (record.source, record.note) == (Source.ORIGINAL, "from seg.dcm, segment liver")
    assert same(annotations(pool, "p_1"), TWO)
    image = nib.load(pool.case("p_1").image)
    assert image.get_data_dtype() == np.int16 and np.array_equal(np.asarray(image.dataobj), case.volume)
    assert np.allclose(image.affine, case.grid.affine, atol=1e-4)


def test_folders_of_series(pool: Pool, tmp_path: Path) -> None:
    for k, case in enumerate(("p1", "p2")):
        folder = tmp_path / "study" / case
        write_series(folder, ct(k).astype(int), np.diag([0.8, 0.75, 2.5]), (0.0, 0.0, 0.0))
        write_segmentation(folder / "labels.dcm", TWO, read_ct(folder).grid, "dicom-seg", source=folder)
    found = find_cases(tmp_path / "study")
    assert [one.id for one in found] == ["p1", "p2"]
    assert [c.outcome for c in import_cases(pool, found).cases] == ["imported", "imported"]
    assert same(annotations(pool, "p2"), TWO)


def test_a_list_of_every_kind_and_a_revision_as_dicom(tmp_path: Path) -> None:
    """The pool's affine is NIfTI's float32, that of the segmentation is the series' own: they still meet."""
    project = create_project(tmp_path / "p", preset("phantom", classes=("liver", "spleen")))
    series = tmp_path / "in" / "p1"
    write_series(
        series, ct().astype(int), turned((3, 0, 14)) @ np.diag([0.8, 0.75, 2.5]), (-190.4, -170.1, 1230.7)
    )
    write_nrrd(tmp_path / "in" / "p2.nrrd", [ct(2)], GRID)
    write_segmentation(tmp_path / "in" / "p2.seg.nrrd", TWO, GRID, "seg.nrrd")
    (tmp_path / "in" / "cases.txt").write_text("p1\np2.nrrd p2.seg.nrrd\n")
    words = ["import", str(tmp_path / "in" / "cases.txt"), "--project", str(project.root)]
    answer = CliRunner().invoke(app, words)
    assert answer.exit_code == 0, answer.output
    assert [c.id for c in project.pool.cases()] == ["p1", "p2"] and same(annotations(project.pool, "p2"), TWO)
    case = read_ct(series)
    write_segmentation(tmp_path / "back" / "p1.dcm", TWO, case.grid, "dicom-seg", source=series)
    words = ["revise", str(tmp_path / "back"), "--expert", "dr. a", "--project", str(project.root)]
    assert CliRunner().invoke(app, words).exit_code == 0
    assert same(annotations(project.pool, "p1"), TWO)


def test_one_bad_series_does_not_stop_the_rest(pool: Pool, tmp_path: Path) -> None:
    for k, case in enumerate(("p1", "p2")):
        write_series(tmp_path / "s" / case, ct(k).astype(int), np.diag([0.8, 0.75, 2.5]), (0.0, 0.0, 0.0))
    write_series(tmp_path / "other", ct(5).astype(int), np.diag([0.8, 0.75, 2.5]), (0.0, 0.0, 0.0))
    for path in (tmp_path / "other").iterdir():
        shutil.copy(path, tmp_path / "s" / "p1" / f"other_{path.name}")
    report = import_cases(pool, find_cases(tmp_path / "s"))
    assert [c.outcome for c in report.cases] == ["refused", "imported"]
    assert "case p1: expected one DICOM series in" in report.refused[0].reason
    assert "found 2; keep the slices of one CT" in report.refused[0].reason


def test_a_label_map_without_names(tmp_path: Path) -> None:
    write_nrrd(tmp_path / "a.nrrd", [ct()], GRID)
    write_nrrd(tmp_path / "b.nrrd", [box(0)], GRID)
    with pytest.raises(
        UsageError, match=r"expected names for the numbers in .*b\.nrrd, got none; give --labels"
    ):
        find_cases(tmp_path / "a.nrrd", label_map=tmp_path / "b.nrrd")


def test_on_the_command_line(tmp_path: Path) -> None:
    project = create_project(
        tmp_path / "p", preset("phantom", classes=("liver", "spleen"), aliases={"milz": "spleen"})
    )
    save(tmp_path / "ct.nii.gz", ct())
    write_segmentation(
        tmp_path / "drawn.seg.nrrd", {"liver": box(0), "milz": box(3), "brain": box(6)}, GRID, "seg.nrrd"
    )
    words = ["import", str(tmp_path / "ct.nii.gz"), "--label", str(tmp_path / "drawn.seg.nrrd"), "--id", "k1"]
    answer = CliRunner().invoke(app, [*words, "--json", "--project", str(project.root)])
    assert answer.exit_code == 0, answer.output
    document = json.loads(answer.stdout)
    assert document["annotations"] == {"liver": 1, "spleen": 1} and document["skipped_classes"] == {
        "brain": 1
    }
    assert same(annotations(project.pool, "k1"), TWO)
    assert np.allclose(project.pool.grid("k1").affine, AFFINE)


@pytest.mark.skipif(not DCMQI.exists(), reason=f"the real DICOM files are not in {DCMQI}")
def test_the_real_slices_with_a_segmentation_of_another_program(pool: Pool) -> None:
    found = find_cases(DCMQI, label_map=DCMQI / "liver.dcm", case_id="real")
    report = import_cases(pool, found)
    assert [c.reason for c in report.refused] == []
    assert annotations(pool, "real")["liver"].sum() == 107098
    # The same organ from a label map whose slices run the other way, as a second annotation of the same CT.
    labels = {"liver": (1,)}
    import_cases(
        pool,
        find_cases(DCMQI, labels=labels, label_map=DCMQI / "liver_seg.nrrd", case_id="real"),
        source=Source.REVISED,
    )
    one, two = (pool.read(r).mask for r in pool.annotations("real", "liver"))
    assert np.array_equal(one, two)
