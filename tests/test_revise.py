"""Revisions from a folder: what a table of numbers means, one place a case, and faults that do not stop the rest."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from small_sets import GRID, box, ct, save
from typer.testing import CliRunner, Result

import ctune.revise
from cli.main import app
from ctune.config import preset
from ctune.data.exchange import Format, write_segmentation
from ctune.data.itksnap import write_descriptions
from ctune.exported import export_case
from ctune.project import Project, create_project
from ctune.revise import RevisionReport, import_revisions
from ctune.types import UNLABELLED, Mask, Source, Split

NNUNET = {"labels": {"background": 0, "liver": [1, 2], "liver_tumor": 2, "ignore": 4}}


@pytest.fixture
def made(tmp_path: Path) -> Project:
    """A project of three cases of the pool without an annotation."""
    made = create_project(tmp_path / "p", preset("phantom", classes=("liver", "liver_tumor", "spleen")))
    for seed, case_id in enumerate(("c1", "c2", "c3")):
        made.pool.add_case(case_id, save(tmp_path / "ct" / f"{case_id}.nii.gz", ct(seed)), Split.POOL)
    return made


def run(made: Project, *words: object) -> Result:
    options = ["--expert", "dr. a", "--project", str(made.root)]
    return CliRunner().invoke(app, ["revise", *map(str, words), *options])


def take(made: Project, folder: Path) -> RevisionReport:
    return import_revisions(made.pool, folder, expert="dr. a", round_number=1)


def masks(made: Project, case_id: str) -> dict[str, Mask]:
    return {r.class_name: made.pool.read(r).mask for r in made.pool.annotations(case_id)}


def same(got: dict[str, Mask], expected: dict[str, Mask]) -> bool:
    return got.keys() == expected.keys() and all(np.array_equal(got[k], expected[k]) for k in expected)


# What the numbers of a label map mean


def test_a_number_may_belong_to_two_classes(made: Project, tmp_path: Path) -> None:
    save(tmp_path / "in" / "c1.nii.gz", box(0) + box(3, value=2))
    answer = run(made, tmp_path / "in", "--labels", "1+2=liver,2=liver_tumor")
    assert answer.exit_code == 0, answer.output
    assert same(masks(made, "c1"), {"liver": box(0) + box(3), "liver_tumor": box(3)})


@pytest.mark.parametrize("beside", [False, True])
def test_what_nnunet_ignores_is_judged_by_nobody(made: Project, tmp_path: Path, beside: bool) -> None:
    """As an import of the same map with the same table: 255 for every class, and no class of that name."""
    save(tmp_path / "in" / "c1.nii.gz", box(0) + box(3, value=2) + box(6, value=4) + box(9, value=UNLABELLED))
    table = tmp_path / "in" / "c1.json" if beside else tmp_path / "dataset.json"
    table.write_text(json.dumps(NNUNET))
    words = [] if beside else ["--labels", table]
    answer = run(made, tmp_path / "in", *words)
    assert answer.exit_code == 0, answer.output
    nobody = box(6, value=UNLABELLED) + box(9, value=UNLABELLED)
    expected = {"liver": box(0) + box(3) + nobody, "liver_tumor": box(3) + nobody}
    assert same(masks(made, "c1"), expected)


def test_what_an_expert_marks_as_ignored_in_an_export_is_judged_by_nobody(
    made: Project, tmp_path: Path
) -> None:
    export_case(
        tmp_path / "in" / "c1",
        made.pool.case("c1"),
        made.pool.image("c1"),
        {"liver": box(0), "spleen": box(6)},
        Format.ITK_SNAP,
    )
    marked = box(0) + box(6, value=2)
    marked[2, 2:6, 2:6], marked[9:11, 2:6, 2:6] = 3, 3
    save(tmp_path / "in" / "c1" / "labels.nii.gz", marked)
    write_descriptions(tmp_path / "in" / "c1" / "labels.txt", {"liver": 1, "spleen": 2, "ignore": 3})
    assert not take(made, tmp_path / "in").refused
    expected = {"liver": box(0), "spleen": box(6)}
    for mask in expected.values():
        mask[marked == 3] = UNLABELLED
    assert same(masks(made, "c1"), expected)


# One place a case


@pytest.mark.parametrize(
    ("first", "second"), [("c1", "c1.nii.gz"), ("c1.nii.gz", "c1.seg.nrrd"), ("c1", "c1.seg.nrrd")]
)
def test_a_case_in_two_places_is_refused(made: Project, tmp_path: Path, first: str, second: str) -> None:
    for name in (first, second):
        form = {"c1": "masks", "c1.nii.gz": "itk-snap", "c1.seg.nrrd": "seg.nrrd"}[name]
        write_segmentation(tmp_path / "in" / name, {"liver": box(0)}, GRID, form)
    save(tmp_path / "in" / "c2" / "liver.nii.gz", box(3))
    report = take(made, tmp_path / "in")
    assert [(r.case_id, r.class_name) for r in report.revised] == [("c2", "liver")]
    assert report.refused == (
        (
            "c1",
            f"case c1: expected its masks in one place, found {first} and {second} in {tmp_path / 'in'}; keep one of them",
        ),
    )
    assert masks(made, "c1") == {}


@pytest.mark.parametrize("table", ["c1.json", "c1.txt", "c1.label"])
def test_a_table_of_names_is_no_second_place(made: Project, tmp_path: Path, table: str) -> None:
    save(tmp_path / "in" / "c1.nii.gz", box(0))
    if table == "c1.json":
        (tmp_path / "in" / table).write_text('{"labels": {"liver": 1}}')
    else:
        write_descriptions(tmp_path / "in" / table, {"liver": 1})
    report = take(made, tmp_path / "in")
    assert not report.refused and same(masks(made, "c1"), {"liver": box(0)})


# Faults of one case


def exported(made: Project, folder: Path, *case_ids: str) -> None:
    for case_id in case_ids:
        record = made.pool.case(case_id)
        export_case(folder / case_id, record, record.image, {"liver": box(0)}, Format.ITK_SNAP)


@pytest.mark.parametrize(
    ("text", "got"),
    [
        (b"{", "Invalid JSON: "),
        (b"\xff", "Invalid JSON: "),
        (b"[]", "Input should be an object"),
        (b'{"case": "c1", "format": "itk-snap"}', "classes: Field required"),
        (
            b'{"case": "c1", "format": "itk-snap", "classes": "liver"}',
            "classes: Input should be a valid array",
        ),
        (b'{"case": "c1", "format": "paint", "classes": []}', "format: Input should be 'multilabel', "),
    ],
)
def test_a_damaged_manifest_refuses_its_case_alone(
    made: Project, tmp_path: Path, text: bytes, got: str
) -> None:
    exported(made, tmp_path / "in", "c1", "c2")
    (tmp_path / "in" / "c1" / "exported.json").write_bytes(text)
    save(tmp_path / "in" / "c3" / "liver.nii.gz", box(3))
    answer = run(made, tmp_path / "in")
    assert answer.exit_code == 1 and answer.stderr == "", answer.output
    *others, refused = answer.stdout.splitlines()
    assert others == [
        "c3  liver: 0.00 -> 0.07 mL, 0.07 mL in 4 slices changed",
        "c2  liver: as it was exported, no revision",
    ]
    path = tmp_path / "in" / "c1" / "exported.json"
    assert refused.startswith(
        f"refused c1: case c1: expected what stood in {path} when it was exported, got a damaged file ({got}"
    )
    assert refused.endswith("); put it back as it was, or export the case anew and draw there")


@pytest.mark.parametrize("fault", [PermissionError(13, "Permission denied", "liver.nii.gz"), MemoryError()])
def test_a_file_that_cannot_be_read_does_not_end_the_rest(
    made: Project, tmp_path: Path, fault: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    for case_id in ("c1", "c2", "c3"):
        save(tmp_path / "in" / case_id / "liver.nii.gz", box(3))
    read = ctune.revise.read_segmentation

    def faulty(path: Path, *arguments: object, **more: object) -> dict[str, Mask]:
        if path.name == "c2":
            raise fault
        return read(path, *arguments, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(ctune.revise, "read_segmentation", faulty)
    report = take(made, tmp_path / "in")
    assert [r.case_id for r in report.revised] == ["c1", "c3"]
    why = f"case c2: expected masks that can be read in {tmp_path / 'in' / 'c2'}, got {str(fault) or 'MemoryError'}"
    assert report.refused == (("c2", f"{why}; hand it in again"),)


def test_a_pool_that_cannot_be_written_is_no_fault_of_a_case(
    made: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path / "in" / "c1" / "liver.nii.gz", box(3))

    def full(*_: object, **more: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(made.pool, "annotate", full)
    with pytest.raises(OSError, match="No space left on device"):
        take(made, tmp_path / "in")


def test_what_the_pool_took_before_it_refused_is_told(made: Project, tmp_path: Path) -> None:
    """What stands of the second of two classes is damaged: the first is in the pool, and the report says so."""
    for name in ("liver", "spleen"):
        save(tmp_path / "in" / "c1" / f"{name}.nii.gz", box(3))
    record = made.pool.annotate("c1", "spleen", box(6), source=Source.REVISED, author="dr. b")
    path = made.pool.root / record.path
    path.chmod(0o644)
    path.write_bytes(b"")
    report = take(made, tmp_path / "in")
    assert [r.class_name for r in report.revised] == ["liver"]
    assert [r.author for r in made.pool.annotations("c1")] == ["dr. a", "dr. b"]
    assert [case_id for case_id, _ in report.refused] == ["c1"]
