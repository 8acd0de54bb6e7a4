"""``ctune import``: what it takes, what it prints, and how it ends."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from small_sets import SHARED, case_folder, ct, decathlon, save
from typer.testing import CliRunner, Result

from cli.main import app
from ctune.config import preset
from ctune.project import Project, create_project
from ctune.types import Source, Split

runner = CliRunner()


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return create_project(
        tmp_path / "p", preset("phantom", classes=("liver", "spleen"), aliases={"milz": "spleen"})
    )


def run(project: Project, *words: object) -> Result:
    return runner.invoke(app, ["import", *map(str, words), "--project", str(project.root)])


def as_json(project: Project, *words: object) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(run(project, *words, "--json").stdout)
    return document


def test_an_import_in_words(project: Project, tmp_path: Path) -> None:
    case_folder(tmp_path / "set", "s1", ("liver", "Milz", "brain"))
    case_folder(tmp_path / "set", "s2", ("liver",), seed=1)
    answer = run(project, tmp_path / "set")
    assert (answer.exit_code, answer.stderr) == (0, "")
    lines = answer.stdout.splitlines()
    assert lines[0].startswith(
        "totalsegmentator: 2 cases found, 2 imported, 0 got annotations, 0 already there, 0 refused ("
    )
    assert lines[1:] == [
        "splits: pool 2",
        "annotations written: liver 2, spleen 1",
        "left out, not asked for (`--classes all` takes them): brain 1",
    ]
    again = run(project, tmp_path / "set")
    assert (
        again.exit_code == 0 and "0 imported, 0 got annotations, 2 already there, 0 refused" in again.stdout
    )


def test_a_refusal_ends_with_one_and_the_rest_is_there(project: Project, tmp_path: Path) -> None:
    for case in ("s1", "s2", "s3"):
        case_folder(tmp_path / "set", case)
    (tmp_path / "set/s2/ct.nii.gz").write_bytes(b"")
    answer = run(project, tmp_path / "set")
    assert answer.exit_code == 1
    assert "3 cases found, 2 imported, 0 got annotations, 0 already there, 1 refused" in answer.stdout
    assert answer.stdout.splitlines()[-1] == (
        f"refused: case s2: expected an image, got an empty file {tmp_path}/set/s2/ct.nii.gz; copy it again"
    )
    document = as_json(project, tmp_path / "set")
    assert (document["already_there"], document["refused"]) == (2, 1)
    assert document["cases"][1]["outcome"] == "refused"
    assert document["cases"][1]["reason"].startswith("case s2: expected an image, got an empty file")


def test_the_document_of_an_import(project: Project, tmp_path: Path) -> None:
    root = decathlon(tmp_path / "set", ["a", "b", "c"])
    document = as_json(project, root, "--test", 1, "--validation", 1, "--author", "Ann")
    assert document.pop("seconds") > 0
    cases = document.pop("cases")
    assert document == {
        "layout": "msd", "source": str(root), "found": 3, "imported": 3, "added": 0, "already_there": 0, "refused": 0,
        "splits": {"pool": 1, "test": 1, "validation": 1}, "annotations": {"liver": 3, "spleen": 3},
        "skipped_classes": {}, "unnamed_labels": {},
    }  # fmt: skip
    assert [(c["id"], c["outcome"], c["classes"]) for c in cases] == [
        (i, "imported", ["liver", "spleen"]) for i in "abc"
    ]
    assert {r.author for r in project.pool.annotations("a")} == {"Ann"}


def test_the_draw_of_held_out_cases_follows_the_seed(tmp_path: Path) -> None:
    root = decathlon(tmp_path / "set", [f"c{i}" for i in range(8)])
    drawn = []
    for number, seed in enumerate((0, 0, 1)):
        project = create_project(tmp_path / f"p{number}", preset("phantom"))
        as_json(project, root, "--test", 3, "--seed", seed)
        drawn.append([c.id for c in project.pool.cases(Split.TEST)])
    assert drawn[0] == drawn[1] != drawn[2] and len(drawn[0]) == 3


def test_cases_are_chosen_by_id_file_or_number(project: Project, tmp_path: Path) -> None:
    root = decathlon(tmp_path / "set", ["a", "b", "c", "d"])
    run(project, root, "--cases", "d,b")
    assert [c.id for c in project.pool.cases()] == ["b", "d"]
    (tmp_path / "ids.txt").write_text("c\nd\n")
    run(project, root, "--cases", tmp_path / "ids.txt")
    assert [c.id for c in project.pool.cases()] == ["b", "c", "d"]
    run(project, root, "--limit", 1)
    assert [c.id for c in project.pool.cases()] == ["a", "b", "c", "d"]


def test_more_ids_than_a_file_name_has_letters(project: Project, tmp_path: Path) -> None:
    ids = [f"case_with_a_long_name_{i:02d}" for i in range(12)]
    assert len(",".join(ids)) > 255
    root = decathlon(tmp_path / "set", ids)
    answer = run(project, root, "--cases", ",".join(ids[:11] * 2))
    assert answer.exit_code == 0, answer.output
    assert [c.id for c in project.pool.cases()] == ids[:11]
    none = run(project, root, "--cases", "x" * 300)
    assert none.exit_code == 2 and none.stderr.startswith(
        "error: expected ids of the 12 cases found, got 'xxx"
    )


def test_a_file_of_ids_as_other_programs_write_it(project: Project, tmp_path: Path) -> None:
    root = decathlon(tmp_path / "set", ["a", "b", "c"])
    marked = tmp_path / "b,c.txt"
    marked.write_text("a\nb\n", encoding="utf-8-sig")
    assert run(project, root, "--cases", marked).exit_code == 0
    assert [c.id for c in project.pool.cases()] == ["a", "b"]
    (tmp_path / "wide.txt").write_text("c\n", encoding="utf-16")
    wide = run(project, root, "--cases", tmp_path / "wide.txt")
    assert (wide.exit_code, wide.stdout) == (2, "")
    assert wide.stderr.startswith(f"error: expected ids in UTF-8 in {tmp_path}/wide.txt, got ")
    assert wide.stderr.endswith("; save it as UTF-8\n") and wide.stderr.count("\n") == 1


def test_classes_are_chosen(project: Project, tmp_path: Path) -> None:
    src = case_folder(tmp_path / "set", "s1", ("liver", "brain", "inferior_vena_cava"))
    run(project, src, "--classes", "IVC")
    assert [r.class_name for r in project.pool.annotations("s1")] == ["postcava"]
    run(project, src, "--classes", "all", "--source", "predicted")
    assert [(r.class_name, r.source) for r in project.pool.annotations("s1")] == [
        ("brain", Source.PREDICTED), ("liver", Source.PREDICTED), ("postcava", Source.ORIGINAL),
        ("postcava", Source.PREDICTED),
    ]  # fmt: skip


def test_one_image_with_its_label_map(project: Project, tmp_path: Path) -> None:
    from small_sets import box

    image, labels = (
        save(tmp_path / "scan.nii.gz", ct()),
        save(tmp_path / "seg.nii.gz", box(0, value=5) + box(3, value=9)),
    )
    document = as_json(
        project, image, "--label", labels, "--labels", "5=liver", "--id", "p7", "--split", "test"
    )
    assert (document["layout"], document["splits"], document["unnamed_labels"]) == (
        "image",
        {"test": 1},
        {"9": 1},
    )
    assert project.pool.annotations("p7")[0].note == "from seg.nii.gz, label 5 (liver)"


def test_a_list_with_its_own_root(project: Project, tmp_path: Path) -> None:
    decathlon(tmp_path / "set", ["a"])
    (tmp_path / "train.txt").write_text("imagesTr/a.nii.gz\tlabelsTr/a.nii.gz\n")
    document = as_json(
        project, tmp_path / "train.txt", "--root", tmp_path / "set", "--labels", "1=liver,2=spleen"
    )
    assert (document["layout"], document["annotations"]) == ("list", {"liver": 1, "spleen": 1})


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (
            ["--classes", "livr"],
            "expected classes of this data set (liver, spleen), got 'livr'; did you mean 'liver'?",
        ),
        (
            ["--classes", "aorta"],
            "expected classes of this data set (liver, spleen), got 'aorta'; leave it out",
        ),
        (["--cases", "x9"], "expected ids of the 1 cases found, got 'x9'; leave it out"),
        (["--split", "train"], "expected one of pool, validation, test for --split, got 'train'"),
        (["--source", "gold"], "expected one of original, revised, predicted for --source, got 'gold'"),
        (["--split", "test", "--test", "1"], "expected --split or --test and --validation, got both"),
        (["--test", "2"], "expected at least 2 cases to keep 2 for testing and 0 for validation, got 1"),
        (["--layout", "dicom"], "expected a layout of auto, nnunet, msd"),
        (["--labels", "liver"], "expected labels such as 1=spleen"),
        (["--author", " "], "case a, liver: expected the name of an author"),
    ],
)
def test_what_cannot_be_asked_for(project: Project, tmp_path: Path, options: list[str], line: str) -> None:
    answer = run(project, decathlon(tmp_path / "set", ["a"]), *options)
    assert (
        answer.exit_code == 2
        and answer.stderr.startswith(f"error: {line}")
        and answer.stderr.count("\n") == 1
    )
    assert answer.stdout == "" and project.pool.cases() == []


def test_a_folder_of_nothing(project: Project, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    answer = run(project, tmp_path / "empty")
    assert answer.exit_code == 2
    assert answer.stderr.startswith(
        "error: expected one of the layouts (nnunet: dataset.json beside imagesTr/"
    )


def test_outside_a_project(tmp_path: Path) -> None:
    answer = runner.invoke(app, ["import", str(tmp_path), "--project", str(tmp_path)])
    assert answer.exit_code == 2 and "expected ctune.toml in" in answer.stderr


@pytest.mark.skipif(not (SHARED / "hippocampus").exists(), reason="needs the shared hippocampus data")
def test_the_real_hippocampus_set(tmp_path: Path) -> None:
    project = create_project(tmp_path / "p", preset("mr"))
    document = as_json(project, SHARED / "hippocampus", "--limit", 5, "--test", 2)
    assert (document["imported"], document["annotations"]) == (5, {"anterior": 5, "posterior": 5})
    assert document["splits"] == {"pool": 3, "test": 2}
