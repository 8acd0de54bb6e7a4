"""What is written in a format of another program comes back on the CT's own grid, voxel for voxel, however it lies."""

from __future__ import annotations

import gzip
import shutil
import tracemalloc
import zipfile
from pathlib import Path

import nibabel as nib
import nrrd
import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from small_images import SHAPE, a_bomb, deflate, grids, turned, write_series

from ctune.classes import NINE_ORGANS
from ctune.data import dicom_series
from ctune.data.exchange import Format, Kind, kind_of, read_ct, read_segmentation, write_segmentation
from ctune.data.labels import TOTALSEGMENTATOR
from ctune.data.nifti import write_volume
from ctune.errors import GeometryError, ImageFileError, LabelError, UsageError
from ctune.types import Grid, Mask

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
TOTAL = SHARED / "totalsegmentator"
real = pytest.mark.skipif(not TOTAL.exists(), reason=f"the real CTs are not in {TOTAL}")
few = settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
LPS = Grid(SHAPE, np.array([[-0.8, 0, 0, 90], [0, -0.8, 0, 70], [0, 0, -2.5, -40.25], [0, 0, 0, 1.0]]))
"""Left, posterior, and slices that go down."""


def masks_of(numbers: list[int]) -> dict[str, Mask]:
    """Three classes; a voxel whose number is 3 belongs to two of them."""
    drawn = np.array(numbers).reshape(SHAPE)
    return {
        "liver": (drawn % 2 == 1).astype(np.uint8),
        "kidney_left": (drawn >= 2).astype(np.uint8),
        "mesentery": (drawn < 0).astype(np.uint8),
    }


voxels = st.lists(st.integers(0, 3), min_size=60, max_size=60).map(masks_of)
apart = st.lists(st.integers(0, 2), min_size=60, max_size=60).map(masks_of)


def same(got: dict[str, Mask], expected: dict[str, Mask]) -> bool:
    return got.keys() == expected.keys() and all(np.array_equal(got[k], expected[k]) for k in expected)


@few
@given(grids(), voxels, st.sampled_from([Format.MASKS, Format.SEG_NRRD]))
@example(LPS, masks_of([3] * 60), Format.SEG_NRRD)
def test_overlapping_classes_come_back(
    tmp_path: Path, grid: Grid, masks: dict[str, Mask], form: Format
) -> None:
    path = tmp_path / "out" / form.file_name
    shutil.rmtree(tmp_path / "out", ignore_errors=True)
    written = write_segmentation(path, masks, grid, form)
    assert same(read_segmentation(path, grid), masks)
    if form is Format.SEG_NRRD:
        assert written.numbers == {"liver": 1, "kidney_left": 2, "mesentery": 3}
        lps = nrrd.read_header(str(path))
        affine = np.diag([-1, -1, 1]) @ np.array(lps["space directions"])[-3:].T
        assert np.array_equal(affine, grid.affine[:3, :3]), "not a bit of the affine may be lost"
        assert np.array_equal(np.diag([-1, -1, 1]) @ lps["space origin"], grid.affine[:3, 3])


@few
@given(grids(), apart, st.sampled_from([Format.MULTILABEL, Format.ITK_SNAP]))
@example(LPS, masks_of([0] * 60), Format.ITK_SNAP)
def test_label_maps_come_back_with_their_names(
    tmp_path: Path, grid: Grid, masks: dict[str, Mask], form: Format
) -> None:
    shutil.rmtree(tmp_path / "out", ignore_errors=True)
    written = write_segmentation(tmp_path / "out" / form.file_name, masks, grid, form)
    assert not written.lost and len(written.files) == 2
    assert same(read_segmentation(tmp_path / "out" / form.file_name, grid), masks)
    assert same(read_segmentation(tmp_path / "out", grid), masks), "a folder is known by what it holds"


@few
@given(grids(), st.permutations(range(3)), st.tuples(*[st.booleans()] * 3), apart)
def test_a_file_that_another_program_turned_is_turned_back(
    tmp_path: Path, grid: Grid, order: list[int], flips: tuple[bool, ...], masks: dict[str, Mask]
) -> None:
    stored = np.asarray(sum(number * mask for number, mask in zip((1, 2, 3), masks.values(), strict=True)))
    image = nib.Nifti1Image(stored.astype(np.uint8), grid.affine)
    turn = np.array([[axis, -1 if flip else 1] for axis, flip in zip(order, flips, strict=True)])
    nib.save(image.as_reoriented(turn), tmp_path / "labels.nii.gz")
    labels = {name: (k + 1,) for k, name in enumerate(masks)}
    assert same(read_segmentation(tmp_path / "labels.nii.gz", grid, labels=labels), masks)


@few
@given(
    grids(), st.sampled_from(["left-posterior-superior", "right-anterior-superior", "left-anterior-superior"])
)
def test_a_nrrd_ct_lies_where_its_header_says(tmp_path: Path, grid: Grid, space: str) -> None:
    signs = {"l": -1, "r": 1, "p": -1, "a": 1}
    sign = np.array([signs[space[0]], signs[space.split("-")[1][0]], 1])[:, None]
    hu = np.arange(60, dtype=np.int16).reshape(SHAPE) - 30
    header = {
        "space": space,
        "space directions": (sign * grid.affine[:3, :3]).T,
        "space origin": (sign[:, 0] * grid.affine[:3, 3]),
    }
    nrrd.write(str(tmp_path / "ct.nrrd"), hu, header)
    case = read_ct(tmp_path / "ct.nrrd")
    assert case.id == "ct" and np.array_equal(case.volume, hu) and case.volume.dtype == np.float32
    # pynrrd's own writer keeps 17 decimals.
    assert np.allclose(case.grid.affine, grid.affine, rtol=1e-14, atol=1e-15)


@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from([np.eye(3), np.eye(3)[:, [1, 2, 0]], np.eye(3)[:, [0, 2, 1]]]),
    st.tuples(*[st.sampled_from((0.0, 11.3, -33.0))] * 3),
    st.sampled_from((2.5, -2.5)),
    voxels,
)
@example(np.eye(3), (0.0, 0.0, 0.0), -2.5, masks_of([0] * 59 + [1]))
def test_a_dicom_series_and_its_segmentation(
    tmp_path: Path, plane: np.ndarray, angles: tuple[float, ...], step: float, masks: dict[str, Mask]
) -> None:
    """Axial, sagittal and coronal, straight and oblique, slices up and down."""
    shutil.rmtree(tmp_path / "series", ignore_errors=True)
    hu = np.arange(60).reshape(SHAPE)
    axes = turned(angles) @ plane @ np.diag([0.8, 0.7, step])
    write_series(tmp_path / "series", hu, axes, (-90.5, 70.25, 12.0))
    case = read_ct(tmp_path / "series")
    for index in np.ndindex(SHAPE):
        place = np.diag([-1, -1, 1]) @ (np.array((-90.5, 70.25, 12.0)) + axes @ index)
        voxel = np.rint(nib.affines.apply_affine(np.linalg.inv(case.grid.affine), place)).astype(int)
        assert case.volume[tuple(voxel)] == hu[index]
    path = tmp_path / "out.dcm"
    write_segmentation(path, masks, case.grid, "dicom-seg", source=tmp_path / "series")
    assert same(read_segmentation(path, case.grid), masks)


def test_a_zipped_series_under_any_name(tmp_path: Path) -> None:
    hu = np.arange(60).reshape(SHAPE)
    write_series(tmp_path / "series", hu, np.diag([0.8, 0.7, 2.5]), (0, 0, 0))
    with zipfile.ZipFile(tmp_path / "upload", "w", zipfile.ZIP_DEFLATED) as archive:
        for path in (tmp_path / "series").iterdir():
            archive.write(path, f"../../study/{path.name}")
        archive.writestr("README.txt", "not an image")
    assert kind_of(tmp_path / "upload") is Kind.ZIP
    folder, zipped = read_ct(tmp_path / "series"), read_ct(tmp_path / "upload")
    assert np.array_equal(folder.volume, zipped.volume) and folder.grid == zipped.grid
    masks = {"liver": (hu > 30).astype(np.uint8)}
    write_segmentation(tmp_path / "a.dcm", masks, zipped.grid, "dicom-seg", source=tmp_path / "upload")
    assert same(read_segmentation(tmp_path / "a.dcm", folder.grid), masks)


def test_a_deflated_series_is_the_series(tmp_path: Path) -> None:
    """Its whole data set is packed, not the pixels alone."""
    hu = np.arange(60).reshape(SHAPE)
    write_series(tmp_path / "plain", hu, np.diag([0.8, 0.7, 2.5]), (0, 0, 0))
    shutil.copytree(tmp_path / "plain", tmp_path / "deflated")
    for path in (tmp_path / "deflated").iterdir():
        deflate(path)
        assert path.stat().st_size < (tmp_path / "plain" / path.name).stat().st_size
    shutil.make_archive(str(tmp_path / "zipped"), "zip", tmp_path / "deflated")
    plain, folder, zipped = (read_ct(tmp_path / name) for name in ("plain", "deflated", "zipped.zip"))
    assert np.array_equal(folder.volume, plain.volume) and folder.grid == plain.grid
    assert np.array_equal(zipped.volume, plain.volume) and zipped.grid == plain.grid
    masks = {"liver": (hu > 30).astype(np.uint8)}
    write_segmentation(tmp_path / "a.dcm", masks, plain.grid, "dicom-seg", source=tmp_path / "deflated")
    assert same(read_segmentation(tmp_path / "a.dcm", plain.grid), masks)


def test_a_deflated_file_that_is_a_bomb_is_never_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    a_bomb(tmp_path / "bomb", 64 << 20)
    monkeypatch.setattr(dicom_series, "_MOST_INFLATED", 8 << 20)
    files = sorted((tmp_path / "bomb").iterdir())
    assert files[0].stat().st_size < 100_000
    tracemalloc.start()
    try:
        for read in (
            lambda: read_ct(tmp_path / "bomb"),
            lambda: dicom_series.read_series(files, "ct"),
            lambda: dicom_series.series_headers(files, "ct"),
        ):
            with pytest.raises(
                ImageFileError, match=r"it unpacks to more than 8388608 bytes.*export the series again"
            ):
                read()
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()
    monkeypatch.setattr(dicom_series, "_MOST_INFLATED", 65 << 20)
    assert read_ct(tmp_path / "bomb").volume.shape == (8, 8, 2)


def test_a_deflated_file_that_is_cut_short(tmp_path: Path) -> None:
    write_series(tmp_path / "series", np.zeros(SHAPE, int), np.eye(3), (0, 0, 0))
    path = next((tmp_path / "series").iterdir())
    deflate(path)
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(
        ImageFileError, match=r"expected a DICOM file in .*series/.*, got one that cannot be read"
    ):
        read_ct(tmp_path / "series")


def test_nifti_is_known_by_its_bytes(tmp_path: Path) -> None:
    hu = np.arange(60, dtype=np.int16).reshape(SHAPE)
    write_volume(tmp_path / "a.nii", hu, LPS)
    shutil.copy(tmp_path / "a.nii", tmp_path / "upload.bin")
    (tmp_path / "packed").write_bytes(gzip.compress((tmp_path / "a.nii").read_bytes()))
    for name in ("upload.bin", "packed"):
        case = read_ct(tmp_path / name)
        assert (
            kind_of(tmp_path / name) is Kind.NIFTI
            and np.array_equal(case.volume, hu)
            and case.grid.matches(LPS)
        )
    (tmp_path / "ct.nii.gz").write_bytes(b"no image")
    with pytest.raises(ImageFileError, match=r"case ct: expected a NIfTI image in .*ct.nii.gz"):
        read_ct(tmp_path / "ct.nii.gz")
    (tmp_path / "report.pdf").write_bytes(b"%PDF-1.4")
    with pytest.raises(
        ImageFileError, match=r"expected NIfTI, NRRD, DICOM or a zip archive .* none of them in .*pdf"
    ):
        read_ct(tmp_path / "report.pdf")
    with pytest.raises(ImageFileError, match=r"found no file .*nothing; check the path"):
        read_ct(tmp_path / "nothing")


def test_what_a_label_map_cannot_hold_is_said(tmp_path: Path) -> None:
    liver, tumor = np.zeros(SHAPE, np.uint8), np.zeros(SHAPE, np.uint8)
    liver[:3], tumor[2] = 1, 1
    tumor[4, 0, 0] = 255
    written = write_segmentation(
        tmp_path / "labels.nii.gz", {"liver": liver, "liver_tumor": tumor}, LPS, Format.MULTILABEL
    )
    assert (written.lost, written.unjudged) == ({"liver_tumor": 12}, {"liver_tumor": 1})
    back = read_segmentation(tmp_path / "labels.nii.gz", LPS)
    assert back["liver"].sum() == 36 and back["liver_tumor"].sum() == 0
    layers = write_segmentation(
        tmp_path / "a.seg.nrrd", {"liver": liver, "liver_tumor": tumor}, LPS, "seg.nrrd"
    )
    assert layers.lost == {} and layers.unjudged == {"liver_tumor": 1}
    assert read_segmentation(tmp_path / "a.seg.nrrd", LPS)["liver_tumor"].sum() == 12


@pytest.mark.parametrize(
    ("first", "second"), [(Format.ITK_SNAP, Format.MULTILABEL), (Format.MULTILABEL, Format.ITK_SNAP)]
)
def test_names_of_an_earlier_label_map_do_not_stay_beside_the_new_one(
    tmp_path: Path, first: Format, second: Format
) -> None:
    """The same classes in another order: by the names of the first map they would be swapped."""
    masks, path = masks_of([1, 2] * 30), tmp_path / "labels.nii.gz"
    written = write_segmentation(path, masks, LPS, first)
    again = write_segmentation(path, dict(reversed(masks.items())), LPS, second)
    assert same(read_segmentation(path, LPS), masks)
    assert sorted(tmp_path.iterdir()) == sorted(again.files) != sorted(written.files)


def test_what_is_no_table_of_names_stays_beside_a_label_map(tmp_path: Path) -> None:
    path = tmp_path / "scan.nii.gz"
    notes = {"scan.txt": "drawn on a Monday", "scan.json": '{"labels": {"liver": 9}, "Modality": "CT"}'}
    for name, text in notes.items():
        (tmp_path / name).write_text(text)
    write_segmentation(path, masks_of([1, 2] * 30), LPS, Format.MULTILABEL)
    assert (tmp_path / "scan.txt").read_text() == notes["scan.txt"]
    (tmp_path / "scan.json").write_text(notes["scan.json"])
    (tmp_path / "scan.txt").unlink()
    write_segmentation(path, masks_of([1, 2] * 30), LPS, Format.ITK_SNAP)
    assert (tmp_path / "scan.json").read_text() == notes["scan.json"]


def test_a_label_map_that_could_not_be_named_anew_has_no_old_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ended between the map and its names: it is refused, not read by the names of the map before it."""
    masks, path = masks_of([1, 2] * 30), tmp_path / "labels.nii.gz"
    write_segmentation(path, masks, LPS, Format.ITK_SNAP)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    for name in ("write_volume", "write_descriptions"):
        assert same(read_segmentation(path, LPS), masks), "nothing was lost before the map itself is there"
        with monkeypatch.context() as patched, pytest.raises(OSError, match="No space left"):
            patched.setattr(f"ctune.data.exchange.{name}", full)
            write_segmentation(path, dict(reversed(masks.items())), LPS, Format.ITK_SNAP)
    with pytest.raises(LabelError, match=r"expected names for the numbers \[2, 3\]"):
        read_segmentation(path, LPS)


def test_refusals(tmp_path: Path) -> None:
    masks = masks_of([1] * 60)
    with pytest.raises(
        UsageError, match=r"expected a file \*\.seg\.nrrd for the format seg\.nrrd, got .*a\.nii\.gz"
    ):
        write_segmentation(tmp_path / "a.nii.gz", masks, LPS, "seg.nrrd")
    with pytest.raises(
        UsageError, match=r"expected the DICOM series that a DICOM segmentation is about, got none"
    ):
        write_segmentation(tmp_path / "a.dcm", masks, LPS, "dicom-seg")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match=r"expected one DICOM series in .*empty, found 0"):
        read_ct(tmp_path / "empty")
    write_segmentation(tmp_path / "a.nii.gz", masks, LPS, "multilabel")
    (tmp_path / "a.json").unlink()
    with pytest.raises(
        LabelError, match=r"case 7: expected names for the numbers \[1\] in .*a\.nii\.gz, found none"
    ):
        read_segmentation(tmp_path / "a.nii.gz", LPS, what="case 7")
    with pytest.raises(LabelError, match=r"expected every class once, got liver twice"):
        read_segmentation(tmp_path / "a.nii.gz", LPS, labels={"liver": (1,), "Liver": (2,)})
    shifted = Grid(SHAPE, LPS.affine + np.array([[0, 0, 0, 0.4]] + [[0] * 4] * 3))
    for form in (Format.SEG_NRRD, Format.MASKS, Format.ITK_SNAP):
        path = tmp_path / "shifted" / form.value / form.file_name
        write_segmentation(path, masks, shifted, form)
        with pytest.raises(
            GeometryError, match=r"expected the CT's grid .* origin \(90\.00, .*, got .*origin \(90\.40"
        ):
            read_segmentation(path, LPS)


@real
def test_labels_that_are_mirrored_against_their_series() -> None:
    """The array's y axis runs the other way than the series'; in the world they are in the same place."""
    case = read_ct(TOTAL / "example_ct_dicom")
    image = nib.load(TOTAL / "example_seg_dicom.nii.gz")
    stored = np.asarray(image.dataobj)
    labels = {str(number): (int(number),) for number in np.unique(stored) if number}
    masks = read_segmentation(TOTAL / "example_seg_dicom.nii.gz", case.grid, labels=labels)
    liver = stored == 5
    assert not np.array_equal(masks["5"], liver) and masks["5"].sum() == liver.sum() > 0
    there = nib.affines.apply_affine(image.affine, np.argwhere(liver)).mean(axis=0)
    here = nib.affines.apply_affine(case.grid.affine, np.argwhere(masks["5"])).mean(axis=0)
    assert np.allclose(there, here, atol=1e-3)
    # The liver is brighter than fat and darker than bone: a mirrored mask would take in air and spine.
    assert 20 < np.median(case.volume[masks["5"] == 1]) < 160


@real
def test_labels_of_a_cut_out_do_not_fit_the_whole_ct() -> None:
    """Slices 82 to 111 that carry the whole image's affine: they would land 246 mm too low."""
    whole, cut = read_ct(TOTAL / "example_ct.nii.gz"), read_ct(TOTAL / "example_ct_sm.nii.gz")
    labels = {str(number): (number,) for number in range(1, 118)}
    assert read_segmentation(TOTAL / "example_seg.nii.gz", cut.grid, labels=labels)["5"].sum() > 0
    with pytest.raises(
        GeometryError, match=r"expected the CT's grid \(shape 122x101x112.*got \(shape 122x101x30"
    ):
        read_segmentation(TOTAL / "example_seg.nii.gz", whole.grid, labels=labels)


@real
def test_the_nine_organs_of_the_real_ct_in_every_format_of_files(tmp_path: Path) -> None:
    case = read_ct(TOTAL / "example_ct.nii.gz")
    stored = TOTAL / "example_seg_fast_force_split.nii.gz"
    found = read_segmentation(stored, case.grid, labels=TOTALSEGMENTATOR)
    masks = {name: found[name] for name in NINE_ORGANS}
    assert min(int(mask.sum()) for mask in masks.values()) > 0
    for form in (Format.MULTILABEL, Format.MASKS, Format.SEG_NRRD, Format.ITK_SNAP):
        path = tmp_path / form.value / form.file_name
        write_segmentation(path, masks, case.grid, form)
        assert same(read_segmentation(path, case.grid), masks), form
