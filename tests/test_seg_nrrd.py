"""The fields of .seg.nrrd as 3D Slicer writes and reads them, older and newer files, and headers that lie."""

from __future__ import annotations

import gzip
from contextlib import suppress
from pathlib import Path

import nrrd
import numpy as np
import pytest

from ctune.data.exchange import read_ct, read_segmentation, write_segmentation
from ctune.data.nrrd import _count
from ctune.data.seg_nrrd import names_in, read_seg_nrrd
from ctune.errors import GeometryError, ImageFileError, LabelError
from ctune.types import Grid

GRID = Grid((6, 5, 4), np.array([[-1.5, 0, 0, 30], [0, -1.5, 0, 40], [0, 0, 3.0, -50], [0, 0, 0, 1]]))
SPACE = {
    "space": "left-posterior-superior",
    "space directions": np.diag([1.5, 1.5, 3.0]),
    "space origin": [-30, -40, -50],
}


def masks() -> dict[str, np.ndarray]:
    liver, kidney, tumor = (np.zeros(GRID.shape, np.uint8) for _ in range(3))
    liver[1:4, 1:3, 1], kidney[5, 4, 0:3], tumor[2, 1:3, 1] = 1, 1, 1
    return {"liver": liver, "kidney_left": kidney, "liver_tumor": tumor}


def test_fields_of_every_segment(tmp_path: Path) -> None:
    path = tmp_path / "a.seg.nrrd"
    write_segmentation(path, masks(), GRID, "seg.nrrd")
    data, header = nrrd.read(str(path))
    assert data.shape == (2, 6, 5, 4) and header["kinds"] == ["list", "domain", "domain", "domain"]
    assert header["space"] == "left-posterior-superior" and np.isnan(header["space directions"][0]).all()
    for k, (name, number, layer, extent) in enumerate(
        [
            ("liver", 1, 0, "1 3 1 2 1 1"),
            ("kidney_left", 2, 0, "5 5 4 4 0 2"),
            ("liver_tumor", 1, 1, "2 2 1 2 1 1"),
        ]
    ):
        assert header[f"Segment{k}_ID"] == header[f"Segment{k}_Name"] == name
        assert (int(header[f"Segment{k}_LabelValue"]), int(header[f"Segment{k}_Layer"])) == (number, layer)
        assert header[f"Segment{k}_Extent"] == extent
    assert header["Segment0_Color"] == "0.866667 0.509804 0.396078"
    assert header["Segment1_Tags"] == (
        "TerminologyEntry:Segmentation category and type - 3D Slicer General Anatomy list"
        "~SCT^123037004^Anatomical Structure~SCT^64033007^Kidney~SCT^7771000^Left"
        "~Anatomic codes - DICOM master list~^^~^^|"
    )
    assert header["Segmentation_MasterRepresentation"] == "Binary labelmap"
    assert header["Segmentation_ContainedRepresentationNames"] == "Binary labelmap|"
    before = path.read_bytes()
    write_segmentation(path, masks(), GRID, "seg.nrrd")
    assert path.read_bytes() == before, "the same masks give the same bytes"


def test_slicers_own_reader_sees_the_same(tmp_path: Path) -> None:
    """slicerio is what the makers of 3D Slicer publish to read such files."""
    slicerio = pytest.importorskip("slicerio", reason="slicerio is not installed")
    write_segmentation(tmp_path / "a.seg.nrrd", masks(), GRID, "seg.nrrd")
    found = slicerio.read_segmentation(str(tmp_path / "a.seg.nrrd"))
    assert slicerio.segment_names(found) == ["liver", "kidney_left", "liver_tumor"]
    assert np.array_equal(np.diag([-1, -1, 1, 1]) @ found["ijkToLPS"], GRID.affine)
    for name, mask in masks().items():
        segment = slicerio.segment_from_name(found, name)
        assert np.array_equal(found["voxels"][segment["layer"]] == segment["labelValue"], mask == 1), name
    kidney = slicerio.segment_from_name(found, "kidney_left")["terminology"]
    assert (kidney["type"], kidney["typeModifier"]) == (
        ["SCT", "64033007", "Kidney"],
        ["SCT", "7771000", "Left"],
    )


def test_classes_apart_share_a_volume_of_three_dimensions(tmp_path: Path) -> None:
    write_segmentation(
        tmp_path / "a.seg.nrrd", {n: masks()[n] for n in ("liver", "kidney_left")}, GRID, "seg.nrrd"
    )
    data, header = nrrd.read(str(tmp_path / "a.seg.nrrd"))
    assert (
        data.shape == GRID.shape and header["kinds"] == ["domain"] * 3 and set(np.unique(data)) == {0, 1, 2}
    )


def test_the_box_that_slicer_keeps_is_put_in_its_place(tmp_path: Path) -> None:
    """3D Slicer may save only the box around the segments, or one that reaches over the CT."""
    stored = np.ones((2, 2, 1), np.uint8)
    header = {**SPACE, "space origin": [-30 + 1.5, -40 + 3.0, -50 + 6.0], "Segment0_Name": "Liver"}
    nrrd.write(
        str(tmp_path / "a.seg.nrrd"), stored, header | {"Segment0_LabelValue": "1", "Segment0_Layer": "0"}
    )
    expected = np.zeros(GRID.shape, np.uint8)
    expected[1:3, 2:4, 2] = 1
    assert np.array_equal(read_segmentation(tmp_path / "a.seg.nrrd", GRID)["liver"], expected)
    over = np.zeros((8, 5, 4), np.uint8)
    over[2:4, 2:4, 2] = 1
    header["space origin"] = [-30 - 1.5, -40, -50]
    nrrd.write(str(tmp_path / "b.seg.nrrd"), over, header)
    assert np.array_equal(read_segmentation(tmp_path / "b.seg.nrrd", GRID)["liver"], expected)
    over[0] = 1
    nrrd.write(str(tmp_path / "c.seg.nrrd"), over, header)
    with pytest.raises(GeometryError, match=r"liver: expected labels inside the CT .* got some outside it"):
        read_segmentation(tmp_path / "c.seg.nrrd", GRID)


def test_a_single_plane_of_any_thickness(tmp_path: Path) -> None:
    header = {**SPACE, "space origin": [-30, -40, -50 + 6.0], "space directions": np.diag([1.5, 1.5, -1.0])}
    header |= {"Segment0_Name": "Liver", "Segment0_LabelValue": "1", "Segment0_Layer": "0"}
    nrrd.write(str(tmp_path / "a.seg.nrrd"), np.ones((6, 5, 1), np.uint8), header)
    liver = read_segmentation(tmp_path / "a.seg.nrrd", GRID)["liver"]
    assert liver[:, :, 2].all() and liver.sum() == 30
    nrrd.write(str(tmp_path / "a.seg.nrrd"), np.ones((6, 5, 2), np.uint8), header)
    with pytest.raises(GeometryError, match=r"expected the CT's grid"):
        read_segmentation(tmp_path / "a.seg.nrrd", GRID)


def test_nothing_drawn_is_a_single_voxel(tmp_path: Path) -> None:
    header = {**SPACE, "Segment0_Name": "Liver", "Segment0_LabelValue": "1", "Segment0_Layer": "0"}
    nrrd.write(str(tmp_path / "a.seg.nrrd"), np.zeros((1, 1, 1), np.uint8), header)
    assert read_segmentation(tmp_path / "a.seg.nrrd", GRID)["liver"].sum() == 0


def test_files_of_before_there_were_layers_and_a_list_that_comes_last(tmp_path: Path) -> None:
    """One segment a volume, without numbers; and the list axis at the end."""
    both = np.stack([masks()["liver"], masks()["liver_tumor"]])
    names = {"Segment0_Name": "Liver", "Segment1_Name": "Liver tumor"}
    nan = np.full((1, 3), np.nan)
    first = {
        "kinds": ["list", *["domain"] * 3],
        "space directions": np.vstack([nan, SPACE["space directions"]]),
    }
    nrrd.write(str(tmp_path / "a.seg.nrrd"), both, SPACE | names | first)
    last = {
        "kinds": [*["domain"] * 3, "list"],
        "space directions": np.vstack([SPACE["space directions"], nan]),
    }
    nrrd.write(str(tmp_path / "b.seg.nrrd"), np.moveaxis(both, 0, -1), SPACE | names | last)
    for name in ("a", "b"):
        back = read_segmentation(tmp_path / f"{name}.seg.nrrd", GRID)
        assert list(back) == ["liver", "liver_tumor"]
        assert all(np.array_equal(back[n], masks()[n]) for n in back), name


def test_a_segment_without_a_name_is_called_by_its_terminology(tmp_path: Path) -> None:
    tags = (
        "TerminologyEntry:x~SCT^123037004^Anatomical Structure~SCT^64033007^Kidney~SCT^7771000^Left~y~^^~^^|"
    )
    header = {**SPACE, "Segment0_Name": "Segment_1", "Segment0_Tags": tags}
    nrrd.write(str(tmp_path / "a.seg.nrrd"), masks()["kidney_left"], header)
    assert list(read_segmentation(tmp_path / "a.seg.nrrd", GRID)) == ["kidney_left"]


def test_a_file_that_is_cut_anywhere_is_told_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "a.seg.nrrd"
    write_segmentation(path, {"liver": masks()["liver"]}, GRID, "seg.nrrd")
    whole = path.read_bytes()
    for length in range(4, len(whole)):
        path.write_bytes(whole[:length])
        # A header that is cut between two lines is one of fewer segments: that the voxels lack is seen with them.
        with suppress(ImageFileError, LabelError):
            names_in(path, "case 7")
        with pytest.raises(
            ImageFileError, match=r"^case 7: expected a whole NRRD image in .* \(.+\); copy it again$"
        ):
            read_seg_nrrd(path, "case 7")


def test_headers_that_lie(tmp_path: Path) -> None:
    hu = np.arange(120, dtype=np.int16).reshape(GRID.shape)
    path = tmp_path / "ct.nrrd"
    nrrd.write(str(path), hu, dict(SPACE))
    whole = path.read_bytes()
    path.write_bytes(whole[:-40])
    with pytest.raises(
        ImageFileError, match=r"case ct: expected a whole NRRD image in .*ct\.nrrd, got one that is cut"
    ):
        read_ct(path)
    head, _, _ = whole.partition(b"\n\n")
    path.write_bytes(head + b"\n\n" + gzip.compress(b"\0" * 10**7))
    with pytest.raises(ImageFileError, match=r"960 bytes promised at most, more came"):
        read_ct(path)
    path.write_bytes(head.replace(b"sizes: 6 5 4", b"sizes: 60000 50000 4000") + b"\n\n")
    with pytest.raises(
        ImageFileError, match=r"expected at most \d+ bytes of image, got a header that promises"
    ):
        read_ct(path)
    path.write_bytes(head + b"\ndata file: ../../../etc/passwd\n\n")
    with pytest.raises(ImageFileError, match=r"expected voxels in one file beside the header, got '\.\./"):
        read_ct(path)
    nrrd.write(str(path), hu, {"spacings": [1.5, 1.5, 3.0]})
    with pytest.raises(
        GeometryError, match=r"expected a patient space such as left-posterior-superior, got 'none'"
    ):
        read_ct(path)
    nrrd.write(str(path), hu, SPACE | {"space directions": np.diag([1.5, 1.5, 0.0])})
    with pytest.raises(GeometryError, match=r"expected an affine with three independent axes"):
        read_ct(path)
    nrrd.write(str(path), np.full(GRID.shape, np.nan, np.float32), dict(SPACE))
    with pytest.raises(ImageFileError, match=r"expected finite intensities"):
        read_ct(path)


def test_unpacking_stops_where_the_promise_ends(tmp_path: Path) -> None:
    with (tmp_path / "a").open("wb") as file:
        file.truncate(10**7)
    with (tmp_path / "a").open("rb") as file:
        assert _count(file, 960) == 961 and file.tell() == 961
        assert _count(file, 10**8) == 10**7 - 961


def test_a_detached_header(tmp_path: Path) -> None:
    hu = np.arange(120, dtype=np.int16).reshape(GRID.shape)
    nrrd.write(str(tmp_path / "ct.nhdr"), hu, dict(SPACE))
    case = read_ct(tmp_path / "ct.nhdr")
    assert np.array_equal(case.volume, hu) and case.grid == GRID and case.id == "ct"


def test_a_layer_that_is_not_there(tmp_path: Path) -> None:
    nrrd.write(
        str(tmp_path / "a.seg.nrrd"),
        masks()["liver"],
        {**SPACE, "Segment0_Name": "Liver", "Segment0_Layer": "3"},
    )
    with pytest.raises(LabelError, match=r"expected the segment 'Liver' in one of 1 layers, got layer 3"):
        read_segmentation(tmp_path / "a.seg.nrrd", GRID)
