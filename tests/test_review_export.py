"""Cases out to ITK-SNAP and 3D Slicer and back: only what the expert drew becomes a revision, everything else stays."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import nrrd
import numpy as np
import pytest
from small_review import GRID, box, ct, review_project
from typer.testing import CliRunner, Result

from cli.main import app
from ctune.data.exchange import read_segmentation, write_segmentation
from ctune.data.itksnap import read_descriptions
from ctune.data.nifti import write_volume
from ctune.project import Project
from ctune.review.audit import AuditLog
from ctune.types import UNLABELLED, Source, Split

runner = CliRunner()


@pytest.fixture
def made(tmp_path: Path) -> Project:
    return review_project(tmp_path / "project")


def run(made: Project, *words: object) -> Result:
    return runner.invoke(app, [*map(str, words), "--project", str(made.root)])


def drawn(path: Path, number: int, where: tuple[slice, ...]) -> None:
    """Paint `number` as ITK-SNAP does: same header, other voxels."""
    image = nib.load(path)
    voxels = np.asarray(image.dataobj).copy()
    voxels[where] = number
    nib.save(nib.Nifti1Image(voxels, image.affine, image.header), path)


def test_itk_snap_there_and_back(made: Project, tmp_path: Path) -> None:
    out = tmp_path / "out"
    answer = run(made, "review", "export", "-o", out, "--expert", "dr. a")
    assert answer.exit_code == 0, answer.output
    log = AuditLog(made.root / "review" / "audit.jsonl")
    assert [(line["who"], line["what"], line["case"]) for line in log.lines()] == [
        ("dr. a", "exported", "case_1"), ("dr. a", "exported", "case_2"),
    ]  # fmt: skip
    assert log.verify() == []
    assert answer.stdout.splitlines()[0].startswith(
        f"2 cases in {out}; give them back with `ctune revise {out}"
    )
    folder = out / "case_1"
    assert {p.name for p in folder.iterdir() if not p.name.startswith(".")} == {
        "ct.nii.gz", "labels.nii.gz", "labels.txt", "exported.json",
    }  # fmt: skip
    assert (folder / "ct.nii.gz").read_bytes() == made.pool.case("case_1").image.read_bytes()
    assert read_descriptions(folder / "labels.txt") == {"liver": (1,), "spleen": (2,), "aorta": (3,)}
    assert np.allclose(nib.load(folder / "labels.nii.gz").affine, nib.load(folder / "ct.nii.gz").affine)
    # The expert draws the new class, and the slice of the liver that was missed.
    drawn(folder / "labels.nii.gz", 2, (slice(27, 35), slice(14, 24), slice(6, 13)))
    drawn(folder / "labels.nii.gz", 1, (slice(4, 18), slice(6, 24), slice(4, 5)))
    back = run(made, "revise", out, "--expert", "dr. a", "--minutes", "2", "--json")
    assert back.exit_code == 0, back.output
    document = json.loads(back.stdout)
    assert [(r["case_id"], r["class_name"]) for r in document["revised"]] == [
        ("case_1", "liver"),
        ("case_1", "spleen"),
    ]
    assert document["untouched"][0] == ["case_1", "aorta"] and len(document["untouched"]) == 4
    for name in ("liver", "spleen"):
        (record,) = made.pool.annotations("case_1", name)
        assert (record.source, record.author, record.round, record.seconds) == (
            Source.REVISED,
            "dr. a",
            1,
            60.0,
        )
        assert np.array_equal(made.pool.read(record).mask, box(name)), name
    assert made.pool.annotations("case_1", "aorta") == [] and made.pool.annotations("case_2") == []


def test_slicer_there_and_back_under_its_own_file_name(made: Project, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert run(made, "review", "export", "case_2", "-o", out, "--format", "slicer").exit_code == 0
    folder = out / "case_2"
    _, header = nrrd.read(str(folder / "labels.seg.nrrd"))
    assert header["Segment1_Name"] == "spleen" and header["Segment1_Extent"] == "0 -1 0 -1 0 -1"
    # 3D Slicer saves segments in its own order and with its own numbers, only the box that holds something.
    liver = box("liver")
    turned = {
        "space": header["space"],
        "space directions": header["space directions"],
        "space origin": header["space origin"] + 4 * header["space directions"][0],
        "Segment0_Name": "Liver", "Segment0_LabelValue": "7", "Segment0_Layer": "0",
        "Segment1_Name": "aorta", "Segment1_LabelValue": "3", "Segment1_Layer": "0",
    }  # fmt: skip
    nrrd.write(str(folder / "Segmentation.seg.nrrd"), (liver * 7 + box("aorta") * 3)[4:], turned)
    both = run(made, "revise", out, "--expert", "dr. a")
    assert both.exit_code == 1
    assert "expected one segmentation in" in both.stdout and "keep one of them" in both.stdout
    (folder / "labels.seg.nrrd").unlink()
    back = run(made, "revise", out, "--expert", "dr. a")
    assert back.exit_code == 0, back.output
    assert "case_2  aorta: as it was exported, no revision" in back.stdout
    (record,) = made.pool.annotations("case_2")
    assert record.class_name == "liver" and np.array_equal(made.pool.read(record).mask, liver)


@pytest.mark.parametrize("form", ["itk-snap", "slicer"])
def test_what_a_label_map_cannot_show_survives_an_edit(made: Project, tmp_path: Path, form: str) -> None:
    """Voxels that nobody judged and voxels of two classes, where the expert drew nothing."""
    part, over = box("spleen"), box("aorta")
    part[:, :, 10:] = UNLABELLED
    over[4:6, 6:8, 8] = 1
    made.pool.annotate("case_1", "spleen", part, source=Source.ORIGINAL, author="import")
    made.pool.annotate("case_1", "aorta", over, source=Source.REVISED, author="dr. b")
    out = tmp_path / "out"
    assert run(made, "review", "export", "case_1", "-o", out, "--format", form).exit_code == 0
    about = json.loads((out / "case_1" / "exported.json").read_text())
    assert about["lost"] == ({"aorta": 4} if form == "itk-snap" else {})
    assert about["unjudged"] == {"spleen": int((part == UNLABELLED).sum())}
    assert "no revision" in run(made, "revise", out, "--expert", "dr. a").stdout
    assert len(made.pool.annotations("case_1")) == 2, "nothing was drawn, nothing is revised"
    masks = read_segmentation(out / "case_1", GRID)
    masks["spleen"][0, 0, 0] = masks["aorta"][39, 35, 19] = 1
    path = out / "case_1" / ("labels.nii.gz" if form == "itk-snap" else "labels.seg.nrrd")
    write_segmentation(path, masks, GRID, "itk-snap" if form == "itk-snap" else "seg.nrrd")
    assert run(made, "revise", out, "--expert", "dr. a").exit_code == 0
    part[0, 0, 0] = over[39, 35, 19] = 1
    newest = {
        name: made.pool.read(made.pool.annotations("case_1", name)[-1]).mask for name in ("spleen", "aorta")
    }
    assert np.array_equal(newest["spleen"], part) and np.array_equal(newest["aorta"], over)


def test_a_new_label_of_the_expert_is_a_new_class(made: Project, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(made, "review", "export", "case_1", "-o", out)
    drawn(out / "case_1" / "labels.nii.gz", 4, (slice(0, 2), slice(0, 2), slice(0, 1)))
    nameless = run(made, "revise", out, "--expert", "dr. a")
    assert nameless.exit_code == 1 and "expected names for the numbers [4]" in nameless.stdout
    with (out / "case_1" / "labels.txt").open("a") as file:
        file.write('    4   10   20   30        1  1  1    "Gallbladder"\n')
    assert run(made, "revise", out, "--expert", "dr. a").exit_code == 0
    (record,) = made.pool.annotations("case_1")
    assert record.class_name == "gall_bladder" and made.pool.read(record).mask.sum() == 4


def test_refusals(made: Project, tmp_path: Path) -> None:
    out = tmp_path / "out"
    unknown = run(made, "review", "export", "case_1", "case_9", "-o", out)
    assert unknown.exit_code == 1 and "got 'case_9'" in unknown.stderr and not out.exists()
    write_volume(tmp_path / "t.nii.gz", ct(9), GRID)
    made.pool.add_case("kept", tmp_path / "t.nii.gz", Split.TEST)
    kept = run(made, "review", "export", "case_1", "kept", "-o", out)
    assert (
        kept.exit_code == 1
        and "case kept: expected a case of the pool split, got one kept for test" in kept.stderr
    )
    assert not out.exists()
    assert run(made, "review", "export", "case_1", "-o", out).exit_code == 0
    again = run(made, "review", "export", "case_1", "-o", out)
    assert again.exit_code == 1 and "which holds an export that may have been edited" in again.stderr
    other = run(made, "review", "export", "-o", out, "--format", "paint")
    assert (
        other.exit_code == 2 and "expected one of itk-snap, slicer for --format, got 'paint'" in other.stderr
    )
    (out / "case_1").rename(out / "case_2")
    moved = run(made, "revise", out, "--expert", "dr. a")
    assert moved.exit_code == 1 and "case case_2: expected its own export, got that of case_1" in moved.stdout
    (out / "case_2").rename(out / "case_1")
    masks = read_segmentation(out / "case_1", GRID)
    del masks["liver"]
    write_segmentation(out / "case_1" / "labels.nii.gz", masks, GRID, "itk-snap")
    gone = run(made, "revise", out, "--expert", "dr. a")
    assert (
        gone.exit_code == 1
        and "expected the class liver, which was exported, found it no more" in gone.stdout
    )


def test_revisions_in_every_format_without_an_export(made: Project, tmp_path: Path) -> None:
    masks = {"spleen": box("spleen"), "liver": box("liver")}
    inbox = tmp_path / "in"
    write_segmentation(inbox / "case_1.seg.nrrd", masks, GRID, "seg.nrrd")
    write_segmentation(inbox / "case_2.nii.gz", masks, GRID, "itk-snap")
    assert run(made, "revise", inbox, "--expert", "dr. a").exit_code == 0
    for case_id in ("case_1", "case_2"):
        found = {r.class_name: made.pool.read(r).mask for r in made.pool.annotations(case_id)}
        assert found.keys() == masks.keys() and all(np.array_equal(found[n], masks[n]) for n in masks), (
            case_id
        )
