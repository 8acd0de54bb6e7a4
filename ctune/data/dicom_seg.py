"""DICOM segmentation objects, through highdicom (extra ``dicom``): a coded concept a class, on the source series' geometry."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ctune import __version__
from ctune.data.dicom_series import TO_RAS, import_pydicom
from ctune.data.files import write_atomically
from ctune.data.terminology import Code, class_of_code, term_of
from ctune.errors import GeometryError, ImageFileError, LabelError
from ctune.types import Grid, Mask

SEGMENTATION = "1.2.840.10008.5.1.4.1.1.66.4"
_BROKEN = (
    ValueError,
    RuntimeError,
    KeyError,
    AttributeError,
    TypeError,
    NotImplementedError,
    OSError,
    EOFError,
)


def write_dicom_seg(
    path: Path, masks: Mapping[str, Mask], grid: Grid, series: Sequence[Any], *, algorithm: str = "ctune"
) -> None:
    """Write {class: (X, Y, Z) uint8}, 1 the class, as a binary segmentation of `series` (its data sets, pixels not needed).

    Frames without a voxel are left out, as the standard allows. `algorithm` is who drew it. Raises GeometryError when
    the masks do not lie on the series' grid, LabelError without a class, ImageFileError for headers that lack what is referred to.
    """
    import highdicom as hd

    what = str(path)
    if not masks:
        raise LabelError(
            f"{what}: expected at least one class for a DICOM segmentation, got none; name a class"
        )
    ordered = _in_planes(series, grid, what)
    frames, planes = _frames(masks, grid)
    ordered = ordered[planes]
    first = ordered[0]
    spacing = grid.spacing_mm
    try:
        made = hd.seg.Segmentation(
            source_images=ordered,
            pixel_array=frames,
            segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
            segment_descriptions=[_described(hd, k + 1, name, algorithm) for k, name in enumerate(masks)],
            series_instance_uid=hd.UID(),
            series_number=int(first.get("SeriesNumber") or 0) + 1000,
            sop_instance_uid=hd.UID(),
            instance_number=1,
            manufacturer="ctune",
            manufacturer_model_name="ctune",
            software_versions=__version__,
            device_serial_number="0",
            content_label="SEGMENTATION",
            series_description="Segmentation by ctune",
            # A reader needs the distance of slices also where only one of them holds anything.
            pixel_measures=hd.PixelMeasuresSequence(
                pixel_spacing=[float(v) for v in first.PixelSpacing],
                slice_thickness=float(first.get("SliceThickness") or spacing[2]),
                spacing_between_slices=round(spacing[2], 9),
            ),
        )
    except _BROKEN as error:
        raise ImageFileError(
            f"{what}: expected a series that a segmentation can refer to, got one whose headers do not allow it "
            f"({_line(error)}); choose another format"
        ) from None
    with write_atomically(path) as temporary:
        made.save_as(temporary)


def read_dicom_seg(path: Path, what: str) -> tuple[Grid, Iterator[tuple[str, Mask]]]:
    """The grid that the frames of a segmentation lie on, and its segments one after the other: (name, (X, Y, Z) uint8).

    The grid reaches from the first frame with a voxel to the last. Fractional segmentations count from one half.
    Raises ImageFileError, and GeometryError for frames that are no regular volume.
    """
    found = _open(path, what)
    try:
        geometry = found.get_volume_geometry()
    except _BROKEN as error:
        raise ImageFileError(
            f"{what}: expected a DICOM segmentation in {path}, got a file that is none or is damaged ({_line(error)}); "
            "export it again"
        ) from None
    if geometry is None:
        raise GeometryError(
            f"{what}: expected frames that are one regular volume in {path}, got others; export the segmentation on one series"
        )
    affine = TO_RAS @ np.asarray(geometry.affine, dtype=np.float64)[:, [2, 1, 0, 3]]
    slices, rows, columns = geometry.spatial_shape
    return Grid((columns, rows, slices), affine), _segments(found, path, what)


def segment_names(path: Path, what: str) -> tuple[str, ...]:
    """The names of a segmentation's segments, as ``read_dicom_seg`` gives them. Raises ImageFileError."""
    found = _open(path, what)
    return tuple(_name(found.get_segment_description(number)) for number in found.segment_numbers)


def _open(path: Path, what: str) -> Any:
    import_pydicom()
    import highdicom as hd

    try:
        return hd.seg.segread(path)
    except _BROKEN as error:
        raise ImageFileError(
            f"{what}: expected a DICOM segmentation in {path}, got a file that is none or is damaged ({_line(error)}); "
            "export it again"
        ) from None


def _frames(masks: Mapping[str, Mask], grid: Grid) -> tuple[npt.NDArray[np.integer[Any]], slice]:
    """(slices, rows, columns) of segment numbers, or (slices, rows, columns, segments) of 0 and 1 where classes overlap.

    The third axis of the grid is a slice, the second a row. Only the slices between the first and the last that hold
    anything, and which these are; a volume a class is taken only where it must be.
    """
    numbers = np.zeros(grid.shape[::-1], dtype=np.uint8 if len(masks) < 256 else np.uint16)
    overlap = False
    for k, mask in enumerate(masks.values()):
        one = (np.asarray(mask) == 1).T
        overlap |= bool((one & (numbers > 0)).any())
        numbers[one] = k + 1
    held = np.flatnonzero(numbers.any(axis=(1, 2)))
    first, last = (int(held[0]), int(held[-1])) if held.size else (0, 0)
    # Two at least: of one slice alone a reader does not learn how thick it is.
    first = min(first, max(grid.shape[2] - 2, 0))
    planes = slice(first, max(last, min(first + 1, grid.shape[2] - 1)) + 1)
    if not overlap:
        return numbers[planes], planes
    shape = (planes.stop - planes.start, *numbers.shape[1:], len(masks))
    del numbers
    stacked = np.zeros(shape, dtype=np.uint8)
    for k, mask in enumerate(masks.values()):
        stacked[..., k] = (np.asarray(mask) == 1).T[planes]
    return stacked, planes


def _segments(found: Any, path: Path, what: str) -> Iterator[tuple[str, Mask]]:
    for number in found.segment_numbers:
        try:
            frames = found.get_volume(segment_numbers=[number]).array[..., 0]
        except _BROKEN as error:
            raise ImageFileError(
                f"{what}: expected whole frames of segment {number} in {path}, got {_line(error)}; export it again"
            ) from None
        yield (
            _name(found.get_segment_description(number)),
            (frames.transpose(2, 1, 0) >= 0.5).astype(np.uint8),
        )


def _name(described: Any) -> str:
    """The label that a person gave; where there is none, what its code means."""
    label = str(described.segment_label).strip()
    generic = not label or label.lower().removeprefix("segment").strip(" _").isdigit()
    if not generic:
        return label
    sides = described.segmented_property_type.get(
        "SegmentedPropertyTypeModifierCodeSequence"
    ) or described.get("SegmentedPropertyTypeModifierCodeSequence")
    side = str(sides[0].CodeValue) if sides else ""
    return (
        class_of_code(str(described.segmented_property_type.value), side)
        or label
        or str(described.segment_number)
    )


def _described(hd: Any, number: int, name: str, algorithm: str) -> Any:
    term = term_of(name)
    made = hd.seg.SegmentDescription(
        segment_number=number,
        segment_label=name,
        segmented_property_category=_concept(hd, term.category),
        segmented_property_type=_concept(hd, term.type),
        algorithm_type=hd.seg.SegmentAlgorithmTypeValues.SEMIAUTOMATIC,
        algorithm_identification=hd.AlgorithmIdentificationSequence(
            name=algorithm,
            family=hd.sr.CodedConcept("123109", "DCM", "Manual Processing")
            if algorithm == "manual"
            else hd.sr.CodedConcept("123110", "DCM", "Artificial Intelligence"),
            version=__version__,
        ),
        display_color=hd.color.CIELabColor.from_rgb(*term.colour),
    )
    if term.side is not None:
        # The attribute stands inside the type's item (PS3.3, C.8.20.4).
        made.SegmentedPropertyTypeCodeSequence[0].SegmentedPropertyTypeModifierCodeSequence = [
            _concept(hd, term.side)
        ]
    return made


def _concept(hd: Any, code: Code) -> Any:
    return hd.sr.CodedConcept(code[0], "SCT", code[1])


def _in_planes(series: Sequence[Any], grid: Grid, what: str) -> list[Any]:
    """The data sets of a series in the order of the grid's third axis. Raises GeometryError when they are others."""
    to_index = np.linalg.inv(TO_RAS @ grid.affine)
    planes: dict[int, Any] = {}
    for one in series:
        x, y, z = to_index[:3, :3] @ [float(v) for v in one.ImagePositionPatient] + to_index[:3, 3]
        if (
            max(abs(x), abs(y), abs(z - round(z))) > 0.01
            or (int(one.Columns), int(one.Rows)) != grid.shape[:2]
        ):
            raise GeometryError(
                f"{what}: expected the grid of the source series, got ({grid.describe()}) while a slice lies at "
                f"{[float(v) for v in one.ImagePositionPatient]} (LPS); write the masks on the series they were made on"
            )
        planes[round(z)] = one
    if sorted(planes) != list(range(grid.shape[2])):
        raise GeometryError(
            f"{what}: expected the {grid.shape[2]} slices of the grid ({grid.describe()}), got a series of {len(planes)}; "
            "write the masks on the series they were made on"
        )
    return [planes[k] for k in range(grid.shape[2])]


def _line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:160]
