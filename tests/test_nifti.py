"""Image files in and out: what is written is what is read, and every bad file gets one clear line."""

from __future__ import annotations

import gzip
import warnings
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from ctune.data.nifti import (
    header_notes,
    read_case,
    read_grid,
    read_labels,
    read_mask,
    read_probabilities,
    write_mask,
    write_probabilities,
    write_volume,
)
from ctune.errors import GeometryError, ImageFileError, LabelError
from ctune.types import Grid

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
TOTAL = SHARED / "totalsegmentator"
needs_shared = pytest.mark.skipif(not TOTAL.exists(), reason=f"the real CT is not in {TOTAL}")

OBLIQUE = np.array([[0.9, -0.3, 0.0, 10], [0.3, 1.8, 0.1, -20], [0.0, -0.1, -2.5, 30], [0, 0, 0, 1.0]])
SHEARED = np.array([[1.0, 0.4, 0.0, 0], [0.0, 1.0, 0.0, 0], [0.0, 0.2, 3.0, 0], [0, 0, 0, 1.0]])


def box(shape: tuple[int, ...] = (6, 5, 4)) -> np.ndarray:
    mask = np.zeros(shape, dtype=np.uint8)
    mask[1:3, 2:4, 1:3] = 1
    return mask


@pytest.mark.parametrize(
    "affine",
    [np.eye(4), np.diag([-1.0, -1, 2, 1]), OBLIQUE, SHEARED],
    ids=["ras", "lps", "oblique", "sheared"],
)
def test_a_mask_comes_back_on_the_same_grid(tmp_path: Path, affine: np.ndarray) -> None:
    grid = Grid((6, 5, 4), affine)
    write_mask(tmp_path / "m.nii.gz", box(), grid)
    assert np.array_equal(read_mask(tmp_path / "m.nii.gz", grid, "m"), box())
    stored = nib.load(tmp_path / "m.nii.gz")
    assert np.allclose(stored.affine, affine, atol=1e-5)
    assert stored.get_data_dtype() == np.uint8


def test_a_sheared_grid_has_no_qform_that_would_tell_another_geometry(tmp_path: Path) -> None:
    write_mask(tmp_path / "m.nii.gz", box(), Grid((6, 5, 4), SHEARED))
    header = nib.load(tmp_path / "m.nii.gz").header
    assert (int(header["sform_code"]), int(header["qform_code"])) == (1, 0)
    assert header_notes(tmp_path / "m.nii.gz") == []


def test_the_same_mask_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_mask(tmp_path / name / "m.nii.gz", box(), Grid((6, 5, 4), OBLIQUE))
    assert (tmp_path / "a" / "m.nii.gz").read_bytes() == (tmp_path / "b" / "m.nii.gz").read_bytes()


def test_probabilities_come_back_within_half_a_step(tmp_path: Path) -> None:
    grid = Grid((6, 5, 4), OBLIQUE)
    p = np.random.default_rng(0).random((3, 6, 5, 4), dtype=np.float32)
    p[0, 0, 0, 0], p[0, 0, 0, 1] = 0.0, 1.0
    write_probabilities(tmp_path / "p.nii.gz", p, grid)
    back = read_probabilities(tmp_path / "p.nii.gz", grid)
    assert back.shape == p.shape and back.dtype == np.float32
    assert np.abs(back - p).max() <= 0.5 / 255 + 1e-6
    assert (back[0, 0, 0, 0], back[0, 0, 0, 1]) == (0.0, 1.0)
    # Another program reads the same numbers.
    assert np.allclose(np.moveaxis(nib.load(tmp_path / "p.nii.gz").get_fdata(), -1, 0), back, atol=1e-6)


def test_one_class_keeps_its_axis(tmp_path: Path) -> None:
    grid = Grid((6, 5, 4), np.eye(4))
    write_probabilities(tmp_path / "p.nii.gz", np.zeros((1, 6, 5, 4), dtype=np.float32), grid)
    assert read_probabilities(tmp_path / "p.nii.gz", grid).shape == (1, 6, 5, 4)


def test_a_failed_write_leaves_the_old_file_alone(tmp_path: Path) -> None:
    grid, path = Grid((6, 5, 4), np.eye(4)), tmp_path / "m.nii.gz"
    write_mask(path, box(), grid)
    before = path.read_bytes()
    with pytest.raises(GeometryError, match="expected an array of the grid's shape"):
        write_mask(path, np.zeros((1, 2, 3), dtype=np.uint8), grid)
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["m.nii.gz"]


# Bad files ------------------------------------------------------------------------------------------------------------


def save(path: Path, data: np.ndarray, affine: np.ndarray | None = None) -> Path:
    nib.save(nib.Nifti1Image(data, np.eye(4) if affine is None else affine), path)
    return path


def test_missing(tmp_path: Path) -> None:
    with pytest.raises(ImageFileError, match=r"case 7: expected an image, found no file .*x\.nii"):
        read_case(tmp_path / "x.nii.gz", "7")


def test_empty(tmp_path: Path) -> None:
    (tmp_path / "x.nii.gz").touch()
    with pytest.raises(ImageFileError, match="got an empty file"):
        read_case(tmp_path / "x.nii.gz", "7")


def test_lfs_pointer(tmp_path: Path) -> None:
    (tmp_path / "x.nii.gz").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n")
    with pytest.raises(ImageFileError, match=r"Git LFS pointer.*git lfs pull"):
        read_case(tmp_path / "x.nii.gz", "7")


def test_garbage(tmp_path: Path) -> None:
    (tmp_path / "x.nii.gz").write_bytes(gzip.compress(b"not an image" * 99))
    with pytest.raises(ImageFileError, match="7: expected a NIfTI image"):
        read_case(tmp_path / "x.nii.gz", "7")


def test_truncated_gzip(tmp_path: Path) -> None:
    path = save(tmp_path / "x.nii.gz", np.random.default_rng(0).normal(size=(20, 20, 20)).astype(np.float32))
    path.write_bytes(path.read_bytes()[:-4000])
    with pytest.raises(ImageFileError, match="cut short or damaged"):
        read_case(path, "7")


@pytest.mark.parametrize("damage", ["checksum", "length", "eight bytes", "a byte", "more"])
def test_a_gzip_file_is_read_to_its_end(tmp_path: Path, damage: str) -> None:
    """The checksum stands behind the voxels: whoever stops at the last of them reads damaged ones without a word."""
    path = save(tmp_path / "x.nii.gz", np.zeros((8, 8, 8), dtype=np.float32))
    whole = path.read_bytes()
    path.write_bytes({
        "checksum": whole[:-8] + bytes([whole[-8] ^ 1]) + whole[-7:],
        "length": whole[:-1] + bytes([whole[-1] ^ 1]),
        "eight bytes": whole[:-8],
        "a byte": whole[:-1],
        "more": whole + b"of another file",
    }[damage])  # fmt: skip
    with pytest.raises(ImageFileError, match="cut short or damaged"):
        read_case(path, "7")


def test_numbers_beyond_float32_are_refused_without_a_warning(tmp_path: Path) -> None:
    path = save(tmp_path / "x.nii", np.full((4, 4, 4), 1e300))
    with warnings.catch_warnings(), pytest.raises(ImageFileError, match="got 64 NaN or infinite voxels"):
        warnings.simplefilter("error")
        read_case(path, "7")


def test_four_dimensions(tmp_path: Path) -> None:
    path = save(tmp_path / "x.nii.gz", np.zeros((4, 4, 4, 2), dtype=np.float32))
    with pytest.raises(ImageFileError, match=r"three-dimensional image, got shape \(4, 4, 4, 2\)"):
        read_case(path, "7")
    assert read_case(
        save(tmp_path / "y.nii.gz", np.zeros((4, 4, 4, 1), dtype=np.float32)), "7"
    ).volume.shape == (4, 4, 4)


def test_nan(tmp_path: Path) -> None:
    data = np.zeros((4, 4, 4), dtype=np.float32)
    data[0, 0, 0] = np.nan
    with pytest.raises(ImageFileError, match="got 1 NaN or infinite voxels"):
        read_case(save(tmp_path / "x.nii.gz", data), "7")


@pytest.mark.parametrize("coded", [True, False])
def test_zero_spacing(tmp_path: Path, coded: bool) -> None:
    image = nib.Nifti1Image(np.zeros((4, 4, 4), dtype=np.float32), np.eye(4))
    if coded:
        image.header.set_sform(np.diag([1.0, 0.0, 1.0, 1.0]), code=1)
    else:
        image.header["sform_code"] = image.header["qform_code"] = 0
        image.header["pixdim"][2] = 0
    raw = tmp_path / "x.nii"
    with raw.open("wb") as file:
        file.write(image.header.binaryblock + b"\0" * 4 + bytes(4 * 64))
    with pytest.raises((GeometryError, ImageFileError), match="7: expected"):
        read_case(raw, "7")


def test_degenerate_affine(tmp_path: Path) -> None:
    flat = np.array([[1.0, 1.0, 0, 0], [1.0, 1.0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    image = nib.Nifti1Image(np.zeros((4, 4, 4), dtype=np.float32), None)
    image.header.set_sform(flat, code=1)
    raw = tmp_path / "x.nii"
    with raw.open("wb") as file:
        file.write(image.header.binaryblock + b"\0" * 4 + bytes(4 * 64))
    with pytest.raises(GeometryError, match="three independent axes"):
        read_grid(raw, "7")


def test_float_labels_with_integral_values_are_labels(tmp_path: Path) -> None:
    path = save(tmp_path / "x.nii.gz", np.full((4, 4, 4), 2.0, dtype=np.float32))
    labels = read_labels(path, Grid((4, 4, 4), np.eye(4)), "7")
    assert labels.dtype == np.int32 and (labels == 2).all()


def test_other_float_labels_are_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "x.nii.gz", np.full((4, 4, 4), 0.5, dtype=np.float32))
    with pytest.raises(LabelError, match=r"case 7, liver: expected integral labels, got 0\.5"):
        read_labels(path, Grid((4, 4, 4), np.eye(4)), "case 7, liver")


def test_a_mask_of_several_values_is_refused(tmp_path: Path) -> None:
    data = np.zeros((4, 4, 4), dtype=np.uint8)
    data[0], data[1] = 1, 3
    with pytest.raises(LabelError, match=r"expected a mask of 0 and 1 .* got values \[0, 1, 3\]"):
        read_mask(save(tmp_path / "x.nii.gz", data), Grid((4, 4, 4), np.eye(4)), "7")


def test_another_grid_is_refused_with_both_printed(tmp_path: Path) -> None:
    shifted = np.eye(4)
    shifted[2, 3] = 246
    path = save(tmp_path / "x.nii.gz", np.zeros((4, 4, 4), dtype=np.uint8), shifted)
    with pytest.raises(GeometryError) as caught:
        read_mask(path, Grid((4, 4, 4), np.eye(4)), "case 7, liver")
    text = str(caught.value)
    assert "origin (0.00, 0.00, 0.00)" in text and "origin (0.00, 0.00, 246.00)" in text and "\n" not in text


def test_qform_and_sform_that_disagree_are_told(tmp_path: Path) -> None:
    image = nib.Nifti1Image(np.zeros((4, 4, 4), dtype=np.float32), np.eye(4))
    moved = np.eye(4)
    moved[0, 3] = 5
    image.header.set_sform(np.eye(4), code=1)
    image.header.set_qform(moved, code=1)
    nib.save(image, tmp_path / "x.nii.gz")
    assert "qform disagree; the sform is used" in header_notes(tmp_path / "x.nii.gz")[0]
    assert np.array_equal(read_grid(tmp_path / "x.nii.gz", "7").affine, np.eye(4))


# Real files -----------------------------------------------------------------------------------------------------------


@needs_shared
def test_the_planted_wrong_origin_is_caught() -> None:
    cropped = read_case(TOTAL / "example_ct_sm.nii.gz", "small")
    with pytest.raises(GeometryError, match=r"122x101x30.*122x101x112"):
        read_labels(TOTAL / "example_seg_fast_force_split.nii.gz", cropped.grid, "small")


@needs_shared
def test_labels_stored_with_a_flipped_axis_are_not_taken_for_the_series_own_grid(tmp_path: Path) -> None:
    stored = nib.load(TOTAL / "example_seg_dicom.nii.gz")
    flipped = nib.as_closest_canonical(stored)
    nib.save(flipped, tmp_path / "ras.nii.gz")
    grid = read_grid(TOTAL / "example_seg_dicom.nii.gz", "dicom")
    with pytest.raises(GeometryError, match=r"axes LAS.*axes RAS"):
        read_labels(tmp_path / "ras.nii.gz", grid, "dicom")


@needs_shared
def test_a_real_mask_is_at_the_same_place_in_another_orientation(tmp_path: Path) -> None:
    case = read_case(TOTAL / "example_ct.nii.gz", "ct")
    liver = (read_labels(TOTAL / "example_seg_fast_force_split.nii.gz", case.grid, "ct") == 5).astype(
        np.uint8
    )
    write_mask(tmp_path / "liver.nii.gz", liver, case.grid)
    image = nib.load(tmp_path / "liver.nii.gz")
    turned = image.as_reoriented(nib.orientations.axcodes2ornt(("P", "I", "L")))
    nib.save(turned, tmp_path / "turned.nii.gz")
    grid = read_grid(tmp_path / "turned.nii.gz", "turned")
    again = read_mask(tmp_path / "turned.nii.gz", grid, "turned")

    def world(mask: np.ndarray, affine: np.ndarray) -> np.ndarray:
        points = nib.affines.apply_affine(affine, np.argwhere(mask))
        return points[np.lexsort(points.T)]

    assert np.allclose(world(liver, case.grid.affine), world(again, grid.affine), atol=1e-3)


@needs_shared
def test_a_real_ct_written_back_is_itself(tmp_path: Path) -> None:
    case = read_case(TOTAL / "example_ct.nii.gz", "ct")
    write_volume(tmp_path / "ct.nii.gz", case.volume, case.grid)
    again = read_case(tmp_path / "ct.nii.gz", "ct")
    assert np.array_equal(case.volume, again.volume) and again.grid.matches(case.grid)
