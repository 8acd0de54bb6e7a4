"""Imports: whole cases or none, provenance in every annotation, and clear refusals that do not stop the rest."""

from __future__ import annotations

import gzip
import json
import multiprocessing
import os
import re
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from small_sets import AFFINE, GRID, SHARED, box, case_folder, ct, decathlon, files, save

from ctune.data.exchange import write_segmentation
from ctune.data.importing import ImportReport, check_classes, choose_cases, import_cases
from ctune.data.labels import TOTALSEGMENTATOR
from ctune.data.layouts import find_cases
from ctune.data.pool import Pool
from ctune.data.splits import Splits
from ctune.errors import UnknownClassError, UsageError
from ctune.types import UNLABELLED, Progress, Source, Split

TWO = ("liver", "spleen")
TOTAL = SHARED / "totalsegmentator"


@pytest.fixture
def pool(tmp_path: Path) -> Pool:
    return Pool.create(tmp_path / "pool")


def run(pool: Pool, src: Path, **options: object) -> ImportReport:
    finding = {k: options.pop(k) for k in ("layout", "labels", "label_map", "case_id") if k in options}
    return import_cases(pool, find_cases(src, **finding), **options)  # type: ignore[arg-type]


def outcomes(report: ImportReport) -> list[str]:
    return [case.outcome for case in report.cases]


def test_a_label_map_becomes_one_mask_a_class_with_its_provenance(pool: Pool, tmp_path: Path) -> None:
    seen: list[Progress] = []
    report = run(pool, decathlon(tmp_path / "set", ["a", "b"]), on_progress=seen.append)
    assert outcomes(report) == ["imported", "imported"]
    assert [(p.stage, p.done, p.total, p.detail) for p in seen] == [
        ("import", 1, 2, "a"),
        ("import", 2, 2, "b"),
    ]
    liver, spleen = pool.annotations("a")
    np.testing.assert_array_equal(pool.read(liver).mask, box(0))
    np.testing.assert_array_equal(pool.read(spleen).mask, box(3))
    assert (liver.source, liver.author, liver.round) == (Source.ORIGINAL, "Toy", 0)
    assert liver.note == "from a.nii.gz, label 1 (Liver)"
    assert pool.case("a").origin == {"data set": "Toy", "image": str(tmp_path / "set/imagesTr/a.nii.gz")}


def test_a_class_that_is_absent_in_a_case_is_an_empty_mask_where_the_data_set_names_it(
    pool: Pool, tmp_path: Path
) -> None:
    root = decathlon(tmp_path / "set", ["a"], labels={"1": "liver", "2": "spleen", "3": "aorta"})
    run(pool, root)
    assert not pool.read(pool.annotations("a", "aorta")[0]).mask.any()


def test_source_and_author_can_be_told(pool: Pool, tmp_path: Path) -> None:
    run(pool, case_folder(tmp_path / "set", "s1"), source=Source.REVISED, author="Dr. Ann")
    assert {(r.source, r.author, r.note) for r in pool.annotations("s1")} == {
        (Source.REVISED, "Dr. Ann", "from liver.nii.gz"),
        (Source.REVISED, "Dr. Ann", "from spleen.nii.gz"),
    }


def test_masks_from_a_folder_of_predictions_are_predicted(pool: Pool, tmp_path: Path) -> None:
    run(pool, case_folder(tmp_path / "atlas", "BDMAP_1", folder="predictions"))
    assert {r.source for r in pool.annotations("BDMAP_1")} == {Source.PREDICTED}


def test_names_go_through_aliases_and_what_nobody_asked_for_is_counted(pool: Pool, tmp_path: Path) -> None:
    case_folder(tmp_path, "s1", ("inferior_vena_cava", "GallBladder", "Milz", "brain", "ünknown!"))
    case_folder(tmp_path, "s2", ("brain",))
    wanted = ["postcava", "gall_bladder", "spleen", "liver"]
    report = import_cases(
        pool, find_cases(tmp_path, "totalsegmentator"), classes=wanted, aliases={"milz": "spleen"}
    )
    assert [r.class_name for r in pool.annotations("s1")] == ["gall_bladder", "postcava", "spleen"]
    assert report.skipped == {"brain": 2, "ünknown!": 1}
    assert (pool.annotations("s2"), "s2" in pool) == ([], True), "a case without wanted masks is still a case"


def test_only_classes_that_are_there_are_said_to_be_left_out(pool: Pool, tmp_path: Path) -> None:
    labels = {"1": "liver", "2": "spleen", "3": "aorta"}
    root = decathlon(tmp_path / "set", ["a", "b"], labels=labels)
    (root / "imagesTr/b.nii.gz").write_bytes(b"")
    report = run(pool, root, classes=["liver"])
    assert outcomes(report) == ["imported", "refused"]
    assert report.skipped == {"spleen": 1}, "no aorta in the map, and nothing of the refused case"


def test_all_classes_are_taken_when_none_are_named(pool: Pool, tmp_path: Path) -> None:
    report = run(pool, case_folder(tmp_path / "set", "s1", ("liver", "brain")), classes=None)
    assert report.cases[0].classes == ("brain", "liver") and report.skipped == {}


def test_classes_that_the_data_set_does_not_have(pool: Pool, tmp_path: Path) -> None:
    expected = (
        "expected a class of this data set (liver, spleen) among aorta, got none; name some with --classes"
    )
    with pytest.raises(UnknownClassError, match=re.escape(expected)):
        run(pool, case_folder(tmp_path / "set", "s1"), classes=["aorta"])
    assert pool.cases() == []


def test_two_files_of_one_class_are_refused(pool: Pool, tmp_path: Path) -> None:
    report = run(pool, case_folder(tmp_path / "set", "s1", ("postcava", "ivc")))
    assert (
        report.refused[0].reason
        == "case s1: expected one mask of postcava, got 'ivc' and 'postcava'; keep one of them"
    )


def test_voxels_that_nobody_judged_and_regions(pool: Pool, tmp_path: Path) -> None:
    labels = box(0) + box(3, value=2) + box(6, value=4)
    save(tmp_path / "set/imagesTr/a_0000.nii.gz", ct())
    save(tmp_path / "set/labelsTr/a.nii.gz", labels)
    table = {"background": 0, "liver": [1, 2], "liver_tumor": 2, "ignore": 4}
    (tmp_path / "set/dataset.json").write_text(json.dumps({"channel_names": {"0": "CT"}, "labels": table}))
    run(pool, tmp_path / "set")
    liver, tumor = (pool.read(r).mask for r in pool.annotations("a"))
    ignored = box(6, value=UNLABELLED)
    np.testing.assert_array_equal(liver, box(0) + box(3) + ignored)
    np.testing.assert_array_equal(tumor, box(3) + ignored)


def test_several_numbers_and_255_of_what_nobody_judged(pool: Pool, tmp_path: Path) -> None:
    numbers = box(0) + box(3, value=3) + box(6, value=4) + box(9, value=UNLABELLED)
    save(tmp_path / "seg.nii.gz", numbers)
    table = {"liver": (1,), "ignore": (3, 4)}
    report = run(pool, save(tmp_path / "a.nii.gz", ct()), label_map=tmp_path / "seg.nii.gz", labels=table)
    assert report.unnamed == {} and [r.class_name for r in pool.annotations("a")] == ["liver"]
    expected = np.where(numbers > 1, UNLABELLED, numbers)
    np.testing.assert_array_equal(pool.read(pool.annotations("a")[0]).mask, expected)


def test_integral_floats_are_labels_and_others_are_not(pool: Pool, tmp_path: Path) -> None:
    root = decathlon(tmp_path / "set", ["a", "b"], dtype=np.float32)
    half = np.asarray(nib.load(root / "labelsTr/b.nii.gz").dataobj).astype(np.float32)
    half[5, 5, 5] = 0.5
    save(root / "labelsTr/b.nii.gz", half)
    report = run(pool, root)
    assert outcomes(report) == ["imported", "refused"]
    expected = (
        f"case b: expected integral labels, got 0.5 in {root}/labelsTr/b.nii.gz; export the mask as integers"
    )
    assert report.refused[0].reason == expected
    np.testing.assert_array_equal(pool.read(pool.annotations("a", "spleen")[0]).mask, box(3))


def test_numbers_that_no_table_names(pool: Pool, tmp_path: Path) -> None:
    root = decathlon(tmp_path / "set", ["a"], labels={"1": "liver"})
    report = run(pool, root)
    assert "case a: expected the labels that the data set names (1), got 2 in" in report.refused[0].reason
    assert report.refused[0].reason.endswith("name the labels to take with --labels")
    # Whoever names some of them wants just those; the others are counted.
    report = run(pool, root, labels={"liver": (1,)})
    assert (outcomes(report), report.unnamed) == (["imported"], {2: 1})


def test_a_drawing_of_0_and_255_is_not_taken_for_unjudged(pool: Pool, tmp_path: Path) -> None:
    save(tmp_path / "seg.nii.gz", box(0, value=255))
    image = save(tmp_path / "scan.nii.gz", ct())
    report = run(pool, image, label_map=tmp_path / "seg.nii.gz", labels={"liver": (1,)})
    assert "case scan: expected labels of 1, got only 0 and 255 (not judged) in" in report.refused[0].reason
    assert outcomes(run(pool, image, label_map=tmp_path / "seg.nii.gz", labels={"liver": (255,)})) == [
        "imported"
    ]
    assert pool.read(pool.annotations("scan")[0]).mask.sum() == 3 * 4 * 4


# Broken files: each is one line, the rest of the import goes on


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


def without_its_checksum(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-8])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def pointer(path: Path) -> None:
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12345\n")


def four_dimensional(path: Path) -> None:
    save(path, np.stack([ct(), ct()], axis=3))


def not_a_number(path: Path) -> None:
    volume = ct().astype(np.float32)
    volume[1, 2, 3] = np.nan
    save(path, volume)


def without_spacing(path: Path) -> None:
    image = nib.Nifti1Image(ct(), AFFINE)
    image.header["pixdim"][1:4] = (1, 0, 1)
    image.header["sform_code"] = 0
    image.header["qform_code"] = 0
    raw = bytearray(image.header.binaryblock + b"\0\0\0\0" + ct().tobytes(order="F"))
    raw[108:112] = np.float32(352).tobytes()
    path.write_bytes(gzip.compress(bytes(raw)))


def missing(path: Path) -> None:
    path.unlink()


def text(path: Path) -> None:
    path.write_text("this is no image, whatever its name says" * 20)


BROKEN: dict[Callable[[Path], None], str] = {
    truncated: "cut short",
    without_its_checksum: "expected a whole image in {path}, got one that is cut short or damaged",
    empty: "expected an image, got an empty file {path}; copy it again",
    pointer: "expected an image, got a Git LFS pointer in {path}; run `git lfs pull` there",
    four_dimensional: "expected a three-dimensional image, got shape (12, 10, 8, 2) in {path}",
    not_a_number: "expected finite intensities, got 1 NaN or infinite voxels in {path}",
    without_spacing: "expected a spacing above 0 along every axis, got [1.0, 0.0, 1.0] mm in {path}",
    missing: "expected an image, found no file {path}; check the path",
    text: "expected a NIfTI image in {path}, got a file that is none",
}


@pytest.mark.parametrize("breaks", BROKEN, ids=lambda f: f.__name__)
@pytest.mark.parametrize("which", ["ct", "segmentations/spleen"])
def test_a_broken_file_is_one_line_and_the_rest_goes_on(
    pool: Pool, tmp_path: Path, breaks: Callable[[Path], None], which: str
) -> None:
    for seed, case in enumerate(("s1", "s2", "s3")):
        case_folder(tmp_path / "set", case, seed=seed)
    path = tmp_path / "set" / "s2" / f"{which}.nii.gz"
    if which != "ct" and breaks is missing:
        pytest.skip("a mask that is not there is a class that is not annotated")
    breaks(path)
    if which == "ct" and breaks is missing:
        expected = "expected a CT for a new case, got masks alone; import its CT first"
    elif which != "ct" and breaks is not_a_number:
        expected = "expected integral labels, got nan in {path}"
    else:
        expected = BROKEN[breaks]
    report = run(pool, tmp_path / "set")
    assert outcomes(report) == ["imported", "refused", "imported"]
    assert [c.id for c in pool.cases()] == ["s1", "s3"]
    assert sorted(p.name for p in pool.root.iterdir()) == [".lock", "s1", "s3"], (
        "nothing is left of a refused case"
    )
    reason = report.refused[0].reason
    assert reason.startswith("case s2") and expected.format(path=path) in reason and "\n" not in reason


def test_labels_of_one_case_in_two_files_do_not_stop_the_rest(pool: Pool, tmp_path: Path) -> None:
    for seed, case in enumerate(("s1", "s2", "s3")):
        case_folder(tmp_path / "set", case, (), seed)
        write_segmentation(tmp_path / "set" / case / "a.seg.nrrd", {"liver": box(0)}, GRID, "seg.nrrd")
    shutil.copy(tmp_path / "set/s2/a.seg.nrrd", tmp_path / "set/s2/b.seg.nrrd")
    report = run(pool, tmp_path / "set", classes=["liver"])
    assert outcomes(report) == ["imported", "refused", "imported"]
    assert report.refused[0].reason == (
        f"case s2: expected one segmentation in {tmp_path}/set/s2, found a.seg.nrrd, b.seg.nrrd; keep one of them"
    )


def test_classes_of_cases_that_do_not_read_are_not_said_to_be_missing(tmp_path: Path) -> None:
    src = case_folder(tmp_path / "set", "s1", ())
    (src / "a.seg.nrrd").write_bytes(b"NRRD0004\ndimension:")
    found = find_cases(src)
    check_classes(found, ["liver"], {})
    good = find_cases(case_folder(tmp_path / "other", "s2"))
    with pytest.raises(UnknownClassError, match=r"expected classes of this data set \(liver, spleen\)"):
        check_classes([*found, *good], ["livr"], {})


# Grids


def test_a_label_on_another_grid_is_refused_with_both_printed(pool: Pool, tmp_path: Path) -> None:
    folder = case_folder(tmp_path / "set", "s1")
    moved = AFFINE.copy()
    moved[2, 3] += 246.0
    save(folder / "segmentations/spleen.nii.gz", box(3), moved)
    (case,) = run(pool, tmp_path / "set").refused
    assert case.reason == (
        "case s1, spleen: expected the CT's grid (shape 12x10x8, spacing 0.75x0.8x2.5 mm, origin (80.00, -40.00, 300.50) mm, "
        "axes LAS), got (shape 12x10x8, spacing 0.75x0.8x2.5 mm, origin (80.00, -40.00, 546.50) mm, axes LAS) in "
        f"{folder}/segmentations/spleen.nii.gz; resample the labels onto the CT or correct the header that is wrong"
    )
    assert pool.cases() == []


@pytest.mark.parametrize(
    "other",
    [
        pytest.param(lambda a: a @ np.diag([-1.0, 1, 1, 1]), id="flipped"),
        pytest.param(lambda a: a @ np.diag([1, 1, 1.02, 1]), id="spacing"),
        pytest.param(lambda a: a[:, [1, 0, 2, 3]], id="axes swapped"),
    ],
)
def test_any_other_affine_is_refused(
    pool: Pool, tmp_path: Path, other: Callable[[np.ndarray], np.ndarray]
) -> None:
    folder = case_folder(tmp_path / "set", "s1")
    save(folder / "segmentations/spleen.nii.gz", box(3), other(AFFINE))
    assert "expected the CT's grid" in run(pool, tmp_path / "set").refused[0].reason


needs_total = pytest.mark.skipif(not TOTAL.exists(), reason="needs the shared TotalSegmentator example")


@needs_total
def test_real_labels_that_fit_are_imported(pool: Pool) -> None:
    labels = TOTAL / "example_seg_fast_force_split.nii.gz"
    report = run(
        pool, TOTAL / "example_ct.nii.gz", label_map=labels, labels=TOTALSEGMENTATOR,
        classes=["liver", "postcava", "gall_bladder"],
    )  # fmt: skip
    assert report.cases[0].classes == ("gall_bladder", "liver", "postcava")
    stored = np.asarray(nib.load(labels).dataobj)
    for name, number in (("liver", 5), ("postcava", 63), ("gall_bladder", 4)):
        mask = pool.read(pool.annotations("example_ct", name)[0]).mask
        np.testing.assert_array_equal(mask, stored == number)
        assert mask.any()


@needs_total
def test_real_labels_with_a_wrong_origin_are_refused(pool: Pool, tmp_path: Path) -> None:
    labels = TOTAL / "example_seg_fast_force_split.nii.gz"
    report = run(pool, TOTAL / "example_ct_sm.nii.gz", label_map=labels, labels=TOTALSEGMENTATOR)
    assert "expected the CT's grid (shape 122x101x30, " in report.refused[0].reason
    assert "got (shape 122x101x112, " in report.refused[0].reason
    # The same slices with the origin where it belongs: the shape fits, the world position is 246 mm away.
    whole = nib.load(TOTAL / "example_ct.nii.gz")
    save(tmp_path / "part.nii.gz", *_part(whole))
    report = run(
        pool, tmp_path / "part.nii.gz", label_map=TOTAL / "example_seg.nii.gz", labels=TOTALSEGMENTATOR
    )
    (reason,) = [case.reason for case in report.refused]
    first, second = (float(z) for z in re.findall(r"origin \([-\d.]+, [-\d.]+, ([-\d.]+)\)", reason))
    assert abs(first - second) == pytest.approx(246, abs=0.1)
    assert pool.cases() == []


def _part(image: nib.Nifti1Image) -> tuple[np.ndarray, np.ndarray]:
    part = image.slicer[:, :, 82:112]
    return np.asarray(part.dataobj), part.affine


# Again


def test_an_import_run_again_changes_nothing(pool: Pool, tmp_path: Path) -> None:
    root = decathlon(tmp_path / "set", ["a", "b"])
    run(pool, root)
    before = {
        p: (p.read_bytes(), p.stat().st_mtime_ns)
        for p in pool.root.rglob("*")
        if p.is_file() and p.name != ".lock"
    }
    report = run(pool, root)
    assert outcomes(report) == ["already there", "already there"] and report.cases[0].classes == ()
    after = {
        p: (p.read_bytes(), p.stat().st_mtime_ns)
        for p in pool.root.rglob("*")
        if p.is_file() and p.name != ".lock"
    }
    assert after == before


def test_more_classes_of_a_case_that_is_there_are_added(pool: Pool, tmp_path: Path) -> None:
    root = decathlon(tmp_path / "set", ["a", "b"])
    run(pool, root, classes=["liver"])
    before = files(pool.root)
    report = run(pool, root, classes=list(TWO))
    assert [(c.outcome, c.classes) for c in report.cases] == [("added", ("spleen",))] * 2
    after = files(pool.root)
    assert {name: after[name] for name in before} == before
    assert sorted(set(after) - set(before)) == [f"{c}/annotations/spleen/original-0001.nii.gz" for c in "ab"]


def test_masks_without_their_ct_are_added_to_a_case_that_is_there(pool: Pool, tmp_path: Path) -> None:
    run(pool, case_folder(tmp_path / "one", "s1", ("liver",)))
    (case_folder(tmp_path / "two", "s1", ("aorta",)) / "ct.nii.gz").unlink()
    report = run(pool, tmp_path / "two")
    assert [(c.outcome, c.classes) for c in report.cases] == [("added", ("aorta",))]


def test_another_ct_under_the_same_id_is_refused(pool: Pool, tmp_path: Path) -> None:
    run(pool, case_folder(tmp_path / "one", "s1"))
    before = files(pool.root)
    (case,) = run(pool, case_folder(tmp_path / "two", "s1", seed=1)).refused
    assert re.fullmatch(
        r"case s1: expected the CT that the pool holds \(sha256 \w{12}\), got another \(\w{12}\) in .*; give the new CT another id",
        case.reason,
    )
    assert files(pool.root) == before


def test_another_original_is_refused_and_a_revision_is_added(pool: Pool, tmp_path: Path) -> None:
    run(pool, case_folder(tmp_path / "one", "s1"), author="ann")
    other = case_folder(tmp_path / "two", "s1", ("aorta", "liver", "spleen"))
    before = files(pool.root)
    (case,) = run(pool, other).refused
    assert re.fullmatch(
        r"case s1, liver: expected the original annotation of 20\d\d-\d\d-\d\d by ann, which never changes, got another mask; "
        "import it with --source revised",
        case.reason,
    )
    assert files(pool.root) == before, "the aorta, which is new, is not added either"
    report = run(pool, other, source=Source.REVISED)
    assert report.cases[0].classes == ("aorta", "liver", "spleen")
    assert [r.source for r in pool.annotations("s1", "liver")] == [Source.ORIGINAL, Source.REVISED]
    assert outcomes(run(pool, other, source=Source.REVISED)) == ["already there"]


def test_a_damaged_annotation_in_the_pool_is_not_taken_for_the_same(pool: Pool, tmp_path: Path) -> None:
    src = case_folder(tmp_path / "one", "s1")
    run(pool, src)
    path = pool.root / pool.annotations("s1")[0].path
    path.chmod(0o644)
    path.write_bytes(b"")
    assert "expected the original annotation as it was written" in run(pool, src).refused[0].reason


# Splits and choices


def test_splits_are_the_same_whatever_the_order_and_kept_for_good(pool: Pool, tmp_path: Path) -> None:
    ids = [f"c{i:02d}" for i in range(30)]
    drawn = Splits(test=5, validation=3, seed=7).of(ids)
    assert drawn == Splits(test=5, validation=3, seed=7).of(ids[::-1])
    assert [list(drawn.values()).count(s) for s in (Split.TEST, Split.VALIDATION, Split.POOL)] == [5, 3, 22]
    assert drawn != Splits(test=5, validation=3, seed=8).of(ids)
    # Pinned: a draw that changed between versions would move cases of half-finished imports.
    assert sorted(c for c, s in drawn.items() if s == Split.TEST) == PINNED_TEST
    root = decathlon(tmp_path / "set", ["a", "b", "c", "d"])
    run(pool, root, splits=Splits(test=1, validation=1))
    before = {c.id: c.split for c in pool.cases()}
    assert sorted(before.values()) == [Split.POOL, Split.POOL, Split.TEST, Split.VALIDATION]
    assert outcomes(run(pool, root, splits=Splits(test=4))) == ["already there"] * 4
    assert {c.id: c.split for c in pool.cases()} == before


# By coreutils: the five smallest of `printf 7:c05 | sha256sum` and so on.
PINNED_TEST = ["c01", "c02", "c05", "c09", "c27"]


def test_a_split_that_was_asked_for_by_name_is_held(pool: Pool, tmp_path: Path) -> None:
    root = decathlon(tmp_path / "set", ["a"])
    run(pool, root, splits=Splits(rest=Split.TEST, strict=True))
    (case,) = run(pool, root, splits=Splits(rest=Split.POOL, strict=True)).refused
    assert case.reason == (
        "case a: expected split test, which it has for good, got pool; leave --split out for cases that are there"
    )


def test_more_held_out_cases_than_there_are(pool: Pool, tmp_path: Path) -> None:
    expected = "expected at least 3 cases to keep 2 for testing and 1 for validation, got 1; keep fewer"
    with pytest.raises(UsageError, match=expected):
        run(pool, decathlon(tmp_path / "set", ["a"]), splits=Splits(test=2, validation=1))


def test_some_cases_are_chosen(tmp_path: Path) -> None:
    found = find_cases(decathlon(tmp_path, ["liver_1", "liver_2", "liver_3"]))
    assert [c.id for c in choose_cases(found, ["liver_3", "liver_1"])] == ["liver_1", "liver_3"]
    assert [c.id for c in choose_cases(found, limit=2)] == ["liver_1", "liver_2"]
    with pytest.raises(
        UsageError, match="expected ids of the 3 cases found, got 'liver4'; did you mean 'liver_"
    ):
        choose_cases(found, ["liver4"])


def test_an_empty_author_stops_before_anything_is_written(pool: Pool, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="expected the name of an author"):
        run(pool, decathlon(tmp_path / "set", ["a"]), author=" ")
    assert pool.cases() == []


# Kills


def test_an_import_that_is_killed_goes_on_to_the_same_pool(tmp_path: Path) -> None:
    root = decathlon(tmp_path / "set", ["a", "b", "c"])
    clean = Pool.create(tmp_path / "clean")
    run(clean, root, splits=Splits(test=1))
    splits = {c.id: c.split for c in clean.cases()}
    steps = _killed(tmp_path / "never", root, 10_000)
    assert steps is None, "unkilled it runs through"
    for point in (1, 4, 9, 14, 17, 18, 19, 25, 33, 40, 55):
        place = tmp_path / f"pool_{point}"
        assert _killed(place, root, point) == -signal.SIGKILL
        pool = Pool.open(place)
        for case in pool.cases():
            assert [r.class_name for r in pool.annotations(case.id)] == ["liver", "spleen"]
            assert files(place / case.id) == files(clean.root / case.id)
        run(pool, root, splits=Splits(test=1))
        assert files(place) == files(clean.root)
        assert {c.id: c.split for c in pool.cases()} == splits
        assert sorted(p.name for p in place.iterdir()) == [".lock", "a", "b", "c"]


def _killed(place: Path, root: Path, point: int) -> int | None:
    """Import in a process that is killed at its `point`-th step on the disk; its exit code, None when it ran through."""

    def work() -> None:
        left = point
        for name in ("fsync", "replace", "rename"):
            step = getattr(os, name)

            def counted(*args: object, step: Callable[..., object] = step) -> object:
                nonlocal left
                left -= 1
                if left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                return step(*args)

            setattr(os, name, counted)
        report = run(Pool.create(place), root, splits=Splits(test=1))
        os._exit(0 if not report.refused else 1)

    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    process.join()
    return process.exitcode or None


def test_a_disk_that_is_full_refuses_and_leaves_nothing(
    pool: Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(source: Path, target: Path) -> None:
        target.write_bytes(source.read_bytes()[:100])
        raise OSError(28, "No space left on device", str(target))

    monkeypatch.setattr(shutil, "copyfile", full)
    (case,) = run(pool, case_folder(tmp_path / "set", "s1")).refused
    assert "No space left on device" in case.reason
    assert [p.name for p in pool.root.iterdir()] == [".lock"]


def test_a_case_id_that_differs_in_its_letters_alone_is_refused(pool: Pool, tmp_path: Path) -> None:
    run(pool, case_folder(tmp_path / "one", "Scan"))
    (case,) = run(pool, case_folder(tmp_path / "two", "scan")).refused
    assert case.reason == "expected a new case id, got 'scan' while the pool has 'Scan'; rename the new case"


@pytest.mark.skipif(not (SHARED / "hippocampus").exists(), reason="needs the shared hippocampus data")
def test_real_mr_with_expert_labels(pool: Pool) -> None:
    found = find_cases(SHARED / "hippocampus")
    # Some of the labels are stored as float32.
    floats = [c for c in found if c.label_map and nib.load(c.label_map).get_data_dtype() == np.float32]
    chosen = [*(c for c in found[:5] if c not in floats), *floats[:2]]
    report = import_cases(pool, chosen, classes=["anterior", "posterior"])
    assert floats and set(outcomes(report)) == {"imported"} and report.skipped == {}
    for case in chosen:
        assert case.label_map is not None
        stored = np.asarray(nib.load(case.label_map).dataobj)
        for name, number in (("anterior", 1), ("posterior", 2)):
            (record,) = pool.annotations(case.id, name)
            np.testing.assert_array_equal(pool.read(record).mask, stored == number)
            assert record.author == "Hippocampus"
