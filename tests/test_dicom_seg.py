"""DICOM segmentations: what others wrote is read as an independent reader reads it; ours say what and where they are."""

from __future__ import annotations

import shutil
from pathlib import Path

import highdicom
import nrrd
import numpy as np
import pydicom
import pytest
from pydicom.sr.codedict import codes
from small_images import write_series

from ctune.classes import NINE_ORGANS
from ctune.data.dicom_seg import read_dicom_seg
from ctune.data.exchange import Kind, kind_of, read_ct, read_segmentation, write_segmentation
from ctune.data.terminology import class_of_code, term_of
from ctune.errors import GeometryError, ImageFileError, LabelError
from ctune.types import Grid

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
TOTAL, DCMQI = SHARED / "totalsegmentator", SHARED / "dcmqi_ct3slice"
real = pytest.mark.skipif(
    not TOTAL.exists() or not DCMQI.exists(), reason=f"the real DICOM files are not in {SHARED}"
)
HU = np.arange(60).reshape(5, 4, 3)
SCT = {
    "spleen": codes.SCT.Spleen, "kidney_right": codes.SCT.Kidney, "kidney_left": codes.SCT.Kidney,
    "pancreas": codes.SCT.Pancreas, "liver": codes.SCT.Liver, "stomach": codes.SCT.Stomach, "aorta": codes.SCT.Aorta,
    "postcava": codes.SCT.InferiorVenaCava, "gall_bladder": codes.SCT.Gallbladder,
}  # fmt: skip


@pytest.fixture(scope="module")
def series(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dicom") / "series"
    write_series(folder, HU, np.diag([0.8, 0.7, -2.5]), (-90.5, 70.25, 12.0))
    return folder


def test_the_codes_of_the_nine_organs_are_those_of_the_standard() -> None:
    for name in NINE_ORGANS:
        term, code = term_of(name), SCT[name]
        assert (term.type[0], term.type[1]) == (code.value, code.meaning) and term.known
        assert class_of_code(term.type[0], term.side[0] if term.side else "") == name
    assert term_of("kidney_left").side == (codes.SCT.Left.value, "Left")
    assert term_of("kidney_right").side == (codes.SCT.Right.value, "Right")
    assert term_of("mesentery").type == (codes.SCT.Tissue.value, "Tissue") and not term_of("mesentery").known
    assert term_of("liver_tumor").type[0] == codes.SCT.Mass.value
    assert len({term_of(name).colour for name in NINE_ORGANS}) == 9


def test_what_stands_in_a_file(series: Path, tmp_path: Path) -> None:
    case = read_ct(series)
    masks = {name: np.zeros(case.grid.shape, np.uint8) for name in (*NINE_ORGANS, "mesentery")}
    for k, mask in enumerate(masks.values()):
        mask[k % 5, k % 4, 1] = 1
    masks["aorta"][:] = 0
    write_segmentation(tmp_path / "a.dcm", masks, case.grid, "dicom-seg", source=series, author="organs:3")
    assert kind_of(tmp_path / "a.dcm") is Kind.DICOM_SEG
    found = pydicom.dcmread(tmp_path / "a.dcm")
    source = [pydicom.dcmread(path) for path in series.iterdir()]
    assert found.FrameOfReferenceUID == source[0].FrameOfReferenceUID
    assert found.StudyInstanceUID == source[0].StudyInstanceUID
    assert found.SeriesInstanceUID != source[0].SeriesInstanceUID
    assert found.ReferencedSeriesSequence[0].SeriesInstanceUID == source[0].SeriesInstanceUID
    for number, (item, name) in enumerate(zip(found.SegmentSequence, masks, strict=True), start=1):
        assert (item.SegmentNumber, item.SegmentLabel, item.SegmentAlgorithmName) == (
            number,
            name,
            "organs:3",
        )
        coded = item.SegmentedPropertyTypeCodeSequence[0]
        expected = SCT.get(name, codes.SCT.Tissue)
        assert (coded.CodeValue, coded.CodingSchemeDesignator) == (expected.value, "SCT")
        side = coded.get("SegmentedPropertyTypeModifierCodeSequence")
        assert (side[0].CodeMeaning if side else "") == {"kidney_left": "Left", "kidney_right": "Right"}.get(
            name, ""
        )
    at = {str(one.SOPInstanceUID): one.ImagePositionPatient for one in source}
    assert len(found.PerFrameFunctionalGroupsSequence) == 9, "nine of ten classes hold one voxel each"
    for frame in found.PerFrameFunctionalGroupsSequence:
        referenced = frame.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID
        assert frame.PlanePositionSequence[0].ImagePositionPatient == at[referenced]
    back = read_segmentation(tmp_path / "a.dcm", case.grid)
    assert {name: mask.sum() for name, mask in back.items()} == {n: int(n != "aorta") for n in masks}


def test_a_segment_without_a_name_is_called_by_its_code(series: Path, tmp_path: Path) -> None:
    case = read_ct(series)
    masks = {"kidney_right": (HU > 3).astype(np.uint8), "spleen": (HU < 3).astype(np.uint8)}
    write_segmentation(tmp_path / "a.dcm", masks, case.grid, "dicom-seg", source=series)
    found = pydicom.dcmread(tmp_path / "a.dcm")
    found.SegmentSequence[0].SegmentLabel, found.SegmentSequence[1].SegmentLabel = "Segment_1", "Milz"
    found.save_as(tmp_path / "b.dcm")
    back = read_segmentation(tmp_path / "b.dcm", case.grid)
    assert list(back) == ["kidney_right", "milz"] and np.array_equal(
        back["kidney_right"], masks["kidney_right"]
    )


def test_headers_that_an_anonymiser_emptied(series: Path, tmp_path: Path) -> None:
    shutil.copytree(series, tmp_path / "series")
    for path in (tmp_path / "series").iterdir():
        one = pydicom.dcmread(path)
        one.SpecificCharacterSet, one.PatientSex = "", "X"
        del one.PatientBirthDate, one.StudyID, one.AccessionNumber, one.StudyTime
        one.save_as(path)
    case = read_ct(tmp_path / "series")
    masks = {"liver": (HU > 3).astype(np.uint8)}
    write_segmentation(tmp_path / "a.dcm", masks, case.grid, "dicom-seg", source=tmp_path / "series")
    assert np.array_equal(read_segmentation(tmp_path / "a.dcm", case.grid)["liver"], masks["liver"])
    for path in (tmp_path / "series").iterdir():
        one = pydicom.dcmread(path)
        del one.FrameOfReferenceUID
        one.save_as(path)
    with pytest.raises(
        ImageFileError, match=r"expected a series that a segmentation can refer to, .*Frame Of Reference UID"
    ):
        write_segmentation(tmp_path / "b.dcm", masks, case.grid, "dicom-seg", source=tmp_path / "series")
    assert not (tmp_path / "b.dcm").exists()


def test_nothing_drawn(series: Path, tmp_path: Path) -> None:
    case = read_ct(series)
    empty = {"liver": np.zeros(case.grid.shape, np.uint8)}
    write_segmentation(tmp_path / "a.dcm", empty, case.grid, "dicom-seg", source=series)
    assert read_segmentation(tmp_path / "a.dcm", case.grid)["liver"].sum() == 0


def test_refusals(series: Path, tmp_path: Path) -> None:
    case = read_ct(series)
    shifted = Grid(case.grid.shape, case.grid.affine + np.array([[0, 0, 0, 0.5]] + [[0] * 4] * 3))
    masks = {"liver": np.ones(case.grid.shape, np.uint8)}
    with pytest.raises(
        GeometryError, match=r"a\.dcm: expected the grid of the source series, got \(shape 5x4x3"
    ):
        write_segmentation(tmp_path / "a.dcm", masks, shifted, "dicom-seg", source=series)
    fewer = tmp_path / "fewer"
    shutil.copytree(series, fewer)
    next(path for path in fewer.iterdir() if path.name.endswith("_0")).unlink()
    with pytest.raises(GeometryError, match=r"expected the 3 slices of the grid .* got a series of 2"):
        write_segmentation(tmp_path / "a.dcm", masks, case.grid, "dicom-seg", source=fewer)
    with pytest.raises(LabelError, match=r"expected at least one class for a DICOM segmentation, got none"):
        write_segmentation(tmp_path / "a.dcm", {}, case.grid, "dicom-seg", source=series)
    write_segmentation(tmp_path / "a.dcm", masks, case.grid, "dicom-seg", source=series)
    whole = (tmp_path / "a.dcm").read_bytes()
    (tmp_path / "cut.dcm").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ImageFileError, match=r"case 7: expected a DICOM segmentation in .*cut\.dcm"):
        read_segmentation(tmp_path / "cut.dcm", case.grid, what="case 7")
    with pytest.raises(GeometryError, match=r"liver: expected the CT's grid"):
        read_segmentation(tmp_path / "a.dcm", shifted)


@real
def test_the_liver_of_another_program_as_independent_readers_see_it() -> None:
    case = read_ct(DCMQI)
    assert case.volume.shape == (512, 512, 3), "the segmentation in the same folder is no slice"
    masks = read_segmentation(DCMQI / "liver.dcm", case.grid)
    assert list(masks) == ["liver"]
    stored, header = nrrd.read(str(DCMQI / "liver_seg.nrrd"))
    # The slices of the CT go down, those of the NRRD go up.
    assert header["space origin"][2] == pytest.approx(-128.69) and case.grid.affine[2, 2] == pytest.approx(-1)
    assert np.array_equal(masks["liver"], stored[:, :, ::-1]) and masks["liver"].sum() == 107098
    found = pydicom.dcmread(DCMQI / "liver.dcm")
    for frame, groups in zip(found.pixel_array, found.PerFrameFunctionalGroupsSequence, strict=True):
        z = float(groups.PlanePositionSequence[0].ImagePositionPatient[2])
        k = round((z - case.grid.affine[2, 3]) / case.grid.affine[2, 2])
        assert np.array_equal(frame.T, masks["liver"][:, :, k])


@real
def test_label_maps_with_gaps_and_overlaps() -> None:
    grid = read_ct(DCMQI).grid
    labels = {"liver": (1,), "spine": (5,)}
    both = read_segmentation(DCMQI / "liver_spine_gapped_seg.nrrd", grid, labels=labels)
    spine = read_segmentation(DCMQI / "spine_seg_label5.nrrd", grid, labels={"spine": (5,)})["spine"]
    liver = read_segmentation(DCMQI / "liver_seg.nrrd", grid, labels={"liver": (1,)})["liver"]
    assert np.array_equal(both["spine"], spine) and np.array_equal(both["liver"], liver)


@real
def test_the_real_series_out_and_in(tmp_path: Path) -> None:
    """Written on the real series from labels that are mirrored against it, and read back by highdicom alone."""
    source = TOTAL / "example_ct_dicom"
    case = read_ct(source)
    labels = {"liver": (5,), "aorta": (52,), "rest": tuple(n for n in range(1, 118) if n not in (5, 52))}
    masks = read_segmentation(TOTAL / "example_seg_dicom.nii.gz", case.grid, labels=labels)
    masks = {"liver": masks["liver"], "aorta": masks["aorta"], "mesentery": masks["liver"]}
    write_segmentation(tmp_path / "a.dcm", masks, case.grid, "dicom-seg", source=source)
    found = highdicom.seg.segread(tmp_path / "a.dcm")
    slices = [pydicom.dcmread(path) for path in source.iterdir()]
    for one in slices:
        one.SOPClassUID = one.file_meta.MediaStorageSOPClassUID
    reference = highdicom.get_volume_from_series(slices)
    matched = found.get_volume(segment_numbers=[1, 2, 3]).match_geometry(reference.get_geometry()).array
    for k, name in enumerate(masks):
        assert np.array_equal(matched[..., k], masks[name].transpose(2, 1, 0)), name
    ids = {path.name.removeprefix("CT.") for path in source.iterdir()}
    for frame in found.PerFrameFunctionalGroupsSequence:
        assert frame.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID in ids
    got, _ = read_dicom_seg(tmp_path / "a.dcm", "a")
    assert got.matches(case.grid)


@real
def test_real_structures_that_overlap(tmp_path: Path) -> None:
    """Five structures over three label maps: all of them at once in each format that can hold them."""
    grid, masks = read_ct(DCMQI).grid, {}
    for number, ids in ((1, (1, 4, 5)), (2, (2,)), (3, (3,))):
        labels = {f"structure_{k}": (k,) for k in ids}
        masks |= read_segmentation(DCMQI / f"partial_overlaps-{number}.nrrd", grid, labels=labels)
    assert len(masks) == 5 and np.max(sum(masks.values())) > 1, "or nothing overlaps"
    write_segmentation(tmp_path / "a.dcm", masks, grid, "dicom-seg", source=DCMQI)
    write_segmentation(tmp_path / "a.seg.nrrd", masks, grid, "seg.nrrd")
    for name in ("a.dcm", "a.seg.nrrd"):
        back = read_segmentation(tmp_path / name, grid)
        assert list(back) == list(masks) and all(np.array_equal(back[n], masks[n]) for n in masks), name
