"""Data sets as they are published: which layout it is, which cases, which masks."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from small_sets import GRID, SHARED, box, case_folder, ct, decathlon, save

from ctune.data.exchange import write_segmentation
from ctune.data.found import FoundCase, case_id_of
from ctune.data.labels import TOTALSEGMENTATOR
from ctune.data.layouts import LAYOUTS, detect, find_cases
from ctune.errors import DataError, UsageError
from ctune.types import Source

CUT = b"NRRD0004\ndimension:"
"""A file of segments that is cut short within its header."""


def nnunet(
    root: Path, labels: dict[str, object], cases: tuple[str, ...] = ("a", "b"), version: int = 2
) -> Path:
    for seed, case in enumerate(cases):
        save(root / "imagesTr" / f"{case}_0000.nii.gz", ct(seed))
        save(root / "labelsTr" / f"{case}.nii.gz", box(0))
    document: dict[str, object] = {"labels": labels}
    if version == 2:
        document |= {"channel_names": {"0": "CT"}, "numTraining": len(cases), "file_ending": ".nii.gz"}
    else:
        pairs = [{"image": f"./imagesTr/{c}.nii.gz", "label": f"./labelsTr/{c}.nii.gz"} for c in cases]
        document |= {"modality": {"0": "CT"}, "training": pairs}
    (root / "dataset.json").write_text(json.dumps(document))
    return root


def test_each_layout_is_recognised(tmp_path: Path) -> None:
    case_folder(tmp_path / "ts", "s0001")
    case_folder(tmp_path / "atlas", "BDMAP_00000001")
    (tmp_path / "pairs.txt").write_text("img/a.nii.gz\tlabel/a.nii.gz\n")
    known = {
        "msd": decathlon(tmp_path / "msd", ["a"]),
        "nnunet": nnunet(tmp_path / "nn2", {"liver": 1}),
        "totalsegmentator": tmp_path / "ts",
        "abdomenatlas": tmp_path / "atlas",
        "list": tmp_path / "pairs.txt",
        "image": save(tmp_path / "one.nii", ct()),
    }
    assert {name: detect(src) for name, src in known.items()} == {name: name for name in known}
    assert set(known) == set(LAYOUTS)
    assert detect(nnunet(tmp_path / "nn1", {"1": "liver"}, version=1)) == "nnunet"
    assert detect(tmp_path / "ts" / "s0001") == "totalsegmentator", "one case alone"


def test_what_fits_no_layout_is_told_all_that_was_looked_for(tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "readme.md").write_text("hello")
    with pytest.raises(UsageError) as caught:
        detect(tmp_path)
    text = str(caught.value)
    assert "\n" not in text
    for name, layout in LAYOUTS.items():
        assert f"{name}: {layout.looks_like}" in text
    assert f"found none of them in {tmp_path} (there is notes, readme.md)" in text
    with pytest.raises(
        UsageError, match=r"expected a data set or an image, found nothing at .*/nowhere; check"
    ):
        detect(tmp_path / "nowhere")


def test_a_layout_that_was_named_must_fit(tmp_path: Path) -> None:
    case_folder(tmp_path, "s1")
    with pytest.raises(UsageError, match="expected the layout msd"):
        find_cases(tmp_path, "msd")
    with pytest.raises(UsageError, match=r"expected a layout of auto, nnunet, msd, .*; got 'dicom'"):
        find_cases(tmp_path, "dicom")


def test_decathlon(tmp_path: Path) -> None:
    root = decathlon(tmp_path, ["b", "a"])
    first, second = find_cases(root)
    assert first == FoundCase(
        "a", root / "imagesTr/a.nii.gz", "Toy", label_map=root / "labelsTr/a.nii.gz",
        labels={"Liver": (1,), "Spleen": (2,)},
    )  # fmt: skip
    assert (second.id, second.names, second.complete) == ("b", ("Liver", "Spleen"), True)
    (own,) = find_cases(root, labels={"liver": (1, 2)})[:1]
    assert (own.labels, own.complete) == ({"liver": (1, 2)}, False)


def test_decathlon_images_without_labels_come_when_asked_for(tmp_path: Path) -> None:
    root = decathlon(tmp_path, ["a"])
    document = json.loads((root / "dataset.json").read_text())
    (root / "dataset.json").write_text(json.dumps({**document, "test": ["./imagesTs/z.nii.gz"]}))
    assert [c.id for c in find_cases(root)] == ["a"]
    hidden = find_cases(root, with_unlabelled=True)[1]
    assert (hidden.id, hidden.image, hidden.names) == ("z", root / "imagesTs/z.nii.gz", ())


@pytest.mark.skipif(not (SHARED / "hippocampus").exists(), reason="needs the shared hippocampus data")
def test_the_real_hippocampus_set() -> None:
    found = find_cases(SHARED / "hippocampus")
    assert len(found) == 200 and {c.names for c in found} == {("Anterior", "Posterior")}
    assert (found[0].id, found[0].data_set) == ("hippocampus_001", "Hippocampus")
    assert all(c.image and c.image.is_file() and c.label_map and c.label_map.is_file() for c in found)


def test_nnunet_with_regions_and_voxels_that_nobody_judged(tmp_path: Path) -> None:
    root = nnunet(tmp_path, {"background": 0, "liver": [1, 2], "tumor": 2, "ignore": 3})
    first = find_cases(root)[0]
    assert (first.id, first.image) == ("a", root / "imagesTr/a_0000.nii.gz")
    assert (first.labels, first.ignore) == ({"liver": (1, 2), "tumor": (2,)}, (3, 255))


def test_nnunet_with_two_channels_says_so_case_by_case(tmp_path: Path) -> None:
    root = nnunet(tmp_path, {"liver": 1})
    save(root / "imagesTr" / "b_0001.nii.gz", ct())
    a, b = find_cases(root)
    assert a.problem == ""
    assert b.problem == "expected one image a case, got 2: b_0000.nii.gz, b_0001.nii.gz; keep one of them"


def test_totalsegmentator_with_masks_a_label_map_and_nothing(tmp_path: Path) -> None:
    case_folder(tmp_path, "s0001", ("liver", "kidney_left"))
    case_folder(tmp_path, "s0002", ())
    case_folder(tmp_path, "s0003", ())
    save(tmp_path / "s0003" / "segmentations.nii.gz", box(0))
    save(tmp_path / ".hidden" / "ct.nii.gz", ct())
    masks, bare, multi = find_cases(tmp_path)
    assert masks.masks == {n: tmp_path / f"s0001/segmentations/{n}.nii.gz" for n in ("kidney_left", "liver")}
    assert bare == FoundCase("s0002", tmp_path / "s0002/ct.nii.gz", tmp_path.name)
    assert multi.labels == TOTALSEGMENTATOR and multi.complete


def test_a_fault_in_the_labels_of_one_case_is_its_problem_alone(tmp_path: Path) -> None:
    for case in ("s1", "s2", "s3", "s4"):
        case_folder(tmp_path, case, ())
    for name in ("s1/a", "s1/b", "s2/labels", "s4/labels"):
        write_segmentation(tmp_path / f"{name}.seg.nrrd", {"liver": box(0)}, GRID, "seg.nrrd")
    (tmp_path / "s2" / "labels.seg.nrrd").write_bytes(CUT)
    save(tmp_path / "s3" / "labels.nii.gz", box(0))
    (tmp_path / "s3" / "labels.json").write_text("{")
    two, cut, table, good = find_cases(tmp_path)
    assert two.problem == (
        f"expected one segmentation in {tmp_path}/s1, found a.seg.nrrd, b.seg.nrrd; keep one of them"
    )
    assert cut.problem.startswith(f"expected a NRRD header in {tmp_path}/s2/labels.seg.nrrd, got ")
    assert cut.problem.endswith("; copy it again")
    assert table.problem.startswith(f"expected a JSON table of labels in {tmp_path}/s3/labels.json, got ")
    assert (good.problem, good.segments, two.image) == ("", ("liver",), tmp_path / "s1" / "ct.nii.gz")


def test_a_label_map_without_names_among_others_is_a_problem_of_its_case(tmp_path: Path) -> None:
    """A file of segments that is cut before the first of them is such a map."""
    case_folder(tmp_path, "s0", ())
    for case in ("s1", "s2"):
        case_folder(tmp_path, case, ())
        write_segmentation(tmp_path / case / "a.seg.nrrd", {"liver": box(0)}, GRID, "seg.nrrd")
    path = tmp_path / "s2" / "a.seg.nrrd"
    path.write_bytes(path.read_bytes()[:213])
    bare, good, nameless = find_cases(tmp_path)
    assert (bare.problem, good.problem, good.names) == ("", "", ("liver",))
    assert nameless.problem == (
        f"expected names for the numbers in {path}, got none; give --labels, such as 1=spleen,63=postcava"
    )
    (tmp_path / "s1" / "a.seg.nrrd").unlink()
    with pytest.raises(UsageError, match=r"^expected names for the numbers in .*s2/a\.seg\.nrrd, got none"):
        find_cases(tmp_path)


def test_a_segmentation_that_is_cut_short_is_a_problem_in_every_layout(tmp_path: Path) -> None:
    roots = [decathlon(tmp_path / "msd", ["a", "b"]), nnunet(tmp_path / "nn", {"liver": 1})]
    (tmp_path / "cut.seg.nrrd").write_bytes(CUT)
    for root in roots:
        (root / "labelsTr" / "b.nii.gz").write_bytes(CUT)
    (tmp_path / "pairs.txt").write_text("a.nii.gz\nb.nii.gz cut.seg.nrrd\n")
    for src in (*roots, tmp_path / "pairs.txt"):
        first, second = find_cases(src)
        assert (first.id[-1], first.problem) == ("a", "")
        assert second.problem.startswith("expected a NRRD header in "), src
    image = save(tmp_path / "one.nii.gz", ct())
    (one,) = find_cases(image, label_map=tmp_path / "cut.seg.nrrd")
    assert one.problem.startswith("expected a NRRD header in ")


def test_labels_that_may_not_be_opened_are_a_problem_of_their_case(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = decathlon(tmp_path, ["a", "b"])
    opened = Path.open

    def closed(path: Path, *arguments: Any, **more: Any) -> Any:
        if path == root / "labelsTr" / "a.nii.gz":
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path, *arguments, **more)

    monkeypatch.setattr(Path, "open", closed)
    a, b = find_cases(root)
    assert a.problem == f"[Errno 13] Permission denied: '{root}/labelsTr/a.nii.gz'" and b.problem == ""


def test_masks_alone_and_masks_that_a_model_predicted(tmp_path: Path) -> None:
    case_folder(tmp_path, "BDMAP_1", folder="predictions")
    case_folder(tmp_path, "BDMAP_2", folder="annotations")
    (tmp_path / "BDMAP_2" / "ct.nii.gz").unlink()
    predicted, alone = find_cases(tmp_path)
    assert (predicted.source, predicted.names) == (Source.PREDICTED, ("liver", "spleen"))
    assert (alone.source, alone.image) == (Source.ORIGINAL, None)


def test_lists_with_tabs_commas_blanks_comments_and_bare_images(tmp_path: Path) -> None:
    path = tmp_path / "train.txt"
    path.write_text(
        "# image, label\n\n01_BTCV/img/img0023.nii.gz\t01_BTCV/label/label0023.nii.gz\n"
        "05_KiTS/img/img0023.nii.gz,05_KiTS/label/label0023.nii.gz\n"
        "08/img/Case_00006_0000.nii.gz 08/label/Case_00006.nii.gz\nBDMAP_7/ct.nii.gz\n"
        "with blank/a b.nii.gz\tlabel.nii.gz\n07_WORD/img/word_0004.nii.gz\t07_WORD/label/word_0004.nii.gz\n"
    )
    found = {c.id: c for c in find_cases(path, labels={"liver": (1,)})}
    assert set(found) == {
        "01_BTCV_img0023", "05_KiTS_img0023", "08_Case_00006", "BDMAP_7", "with_blank_a_b", "07_WORD_word_0004",
    }  # fmt: skip
    assert found["05_KiTS_img0023"].label_map == tmp_path / "05_KiTS/label/label0023.nii.gz"
    assert found["BDMAP_7"].label_map is None
    elsewhere = find_cases(path, labels={"liver": (1,)}, root=Path("/data"))
    assert elsewhere[0].image == Path("/data/01_BTCV/img/img0023.nii.gz")


def test_a_list_needs_names_for_its_numbers(tmp_path: Path) -> None:
    path = tmp_path / "pairs.txt"
    path.write_text("a.nii.gz b.nii.gz\n")
    with pytest.raises(
        UsageError, match=r"expected names for the numbers in .*b\.nii\.gz, got none; give --labels"
    ):
        find_cases(path)
    path.write_text("a.nii.gz b.nii.gz c.nii.gz\n")
    with pytest.raises(DataError, match=r"expected an image and a label map, got 'a\.nii.*pairs\.txt:1"):
        find_cases(path, labels={"liver": (1,)})


def test_a_list_that_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "pairs.txt").write_bytes(b"\xff\xfe\x00a")
    with pytest.raises(DataError, match=r"expected a list in UTF-8 in .*pairs\.txt, got"):
        find_cases(tmp_path / "pairs.txt")


def test_the_second_case_of_one_id_says_so(tmp_path: Path) -> None:
    path = tmp_path / "pairs.txt"
    path.write_text(f"{tmp_path}/x/scan.nii.gz\n{tmp_path}/y/Scan.nii.gz\n")
    problems = [c.problem for c in find_cases(path)]
    assert problems.count("") == 1
    assert re.search(
        r"expected every id once, got scan for .*/x/scan.nii.gz and for .*/y/Scan.nii.gz", max(problems)
    )


def test_one_image(tmp_path: Path) -> None:
    image = save(tmp_path / "my scan.nii.gz", ct())
    assert find_cases(image) == [FoundCase("my_scan", image, tmp_path.name)]
    (found,) = find_cases(image, labels={"liver": (5,)}, label_map=tmp_path / "seg.nii.gz", case_id="p1")
    assert (found.id, found.label_map, found.labels) == ("p1", tmp_path / "seg.nii.gz", {"liver": (5,)})
    case_folder(tmp_path / "set", "s1")
    with pytest.raises(
        UsageError, match=r"expected a label map and an id for a single image only, got .* layout totals"
    ):
        find_cases(tmp_path / "set", case_id="p1")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("{", "expected a JSON document in .*dataset.json, got"),
        ("[]", "expected a JSON object in .*dataset.json, got list; repair it"),
        ('{"labels": {"1": "a"}}', r'expected "training": \[\{"image": .*dataset.json, got None; repair it'),
        ('{"labels": {"1": "a"}, "training": [{"image": "x"}]}', r"got \[\{'image': 'x'\}\]; repair it"),
        ('{"training": []}', 'expected "labels" such as'),
    ],
)
def test_a_damaged_dataset_json_is_one_line(tmp_path: Path, text: str, complaint: str) -> None:
    (tmp_path / "dataset.json").write_text(text)
    with pytest.raises(DataError, match=complaint) as caught:
        find_cases(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "case_id"),
    [("a.nii.gz", "a"), ("..odd..nii", "odd"), ("_.nii.gz", "case"), ("x" * 200, "x" * 128)],
)
def test_names_become_ids(name: str, case_id: str) -> None:
    assert case_id_of(name) == case_id
