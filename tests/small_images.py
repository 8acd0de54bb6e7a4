"""Images in other programs' formats, made here: grids turned every way, and a DICOM series of a few small slices."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import nibabel as nib
import numpy as np
from hypothesis import strategies as st

from ctune.types import Grid

SHAPE = (5, 4, 3)


def turned(angles: tuple[float, float, float]) -> np.ndarray:
    """A rotation by three angles in degrees about x, y and z."""
    return np.asarray(nib.eulerangles.euler2mat(*np.deg2rad(angles)))


@st.composite
def grids(draw: st.DrawFn, shape: tuple[int, int, int] = SHAPE) -> Grid:
    """Grids of small images: axes in any order and direction (LPS, RAS, PIR, ...), straight or oblique, voxels of any form."""
    order, signs = draw(st.permutations(range(3))), draw(st.tuples(*[st.sampled_from((-1, 1))] * 3))
    axes = np.zeros((3, 3))
    for column, (row, sign) in enumerate(zip(order, signs, strict=True)):
        axes[row, column] = sign
    angle = st.sampled_from((0.0, 0.0, 7.3, -21.7, 45.0))
    spacing = draw(st.tuples(*[st.floats(0.3, 6.0)] * 3))
    affine = np.eye(4)
    affine[:3, :3] = turned(draw(st.tuples(angle, angle, angle))) @ axes @ np.diag(spacing)
    affine[:3, 3] = draw(st.tuples(*[st.floats(-500, 500)] * 3))
    return Grid(shape, affine)


def write_series(folder: Path, hu: np.ndarray, axes: np.ndarray, origin: tuple[float, float, float]) -> None:
    """Write a CT series: `hu` (X, Y, Z) integers, `axes` (3, 3) the steps of columns, rows and slices in LPS millimetres."""
    import pydicom
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

    study, series, frame = generate_uid(), generate_uid(), generate_uid()
    steps = np.linalg.norm(axes, axis=0)
    folder.mkdir(parents=True)
    for k in range(hu.shape[2]):
        one = pydicom.Dataset()
        one.file_meta = FileMetaDataset()
        one.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        one.file_meta.MediaStorageSOPClassUID = one.SOPClassUID = CTImageStorage
        one.file_meta.MediaStorageSOPInstanceUID = one.SOPInstanceUID = generate_uid()
        one.StudyInstanceUID, one.SeriesInstanceUID, one.FrameOfReferenceUID = study, series, frame
        one.Modality, one.SeriesNumber, one.InstanceNumber = "CT", 3, k + 1
        one.PatientID, one.PatientName, one.StudyID, one.AccessionNumber = "p", "p^", "1", ""
        one.PatientBirthDate = one.PatientSex = one.StudyDate = one.StudyTime = one.ReferringPhysicianName = (
            ""
        )
        one.Rows, one.Columns = hu.shape[1], hu.shape[0]
        one.PixelSpacing = [f"{steps[1]:.10g}", f"{steps[0]:.10g}"]
        one.SliceThickness = f"{steps[2]:.10g}"
        one.ImageOrientationPatient = [f"{v:.11f}" for v in (*axes[:, 0] / steps[0], *axes[:, 1] / steps[1])]
        one.ImagePositionPatient = [f"{v:.8f}" for v in np.asarray(origin) + k * axes[:, 2]]
        one.SamplesPerPixel, one.PhotometricInterpretation = 1, "MONOCHROME2"
        one.BitsAllocated = one.BitsStored = 16
        one.HighBit, one.PixelRepresentation = 15, 1
        one.RescaleSlope, one.RescaleIntercept = 1, -1000
        one.PixelData = np.ascontiguousarray((hu[:, :, k] + 1000).T.astype("<i2")).tobytes()
        # Names in an order that has nothing to do with that of the slices.
        one.save_as(folder / f"{(7 * k) % 11:02d}_{k}", enforce_file_format=True)


def deflate(path: Path, more: bytes = b"", zeros: int = 0) -> None:
    """Write a DICOM file anew with its data set deflated; `more` bytes and then `zeros` stand at its end."""
    import pydicom
    from pydicom.uid import DeflatedExplicitVRLittleEndian

    image = pydicom.dcmread(path)
    image.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    image.save_as(path, enforce_file_format=True)
    data = path.read_bytes()
    start = 144 + int(pydicom.filereader.read_file_meta_info(path).FileMetaInformationGroupLength)
    packed = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    parts = [packed.compress(zlib.decompress(data[start:], -zlib.MAX_WBITS) + more)]
    parts += [packed.compress(bytes(2**20)) for _ in range(zeros // 2**20)]
    path.write_bytes(data[:start] + b"".join(parts) + packed.flush())


def a_bomb(folder: Path, size: int) -> None:
    """A CT series of two slices of a few kilobytes; each holds `size` bytes of nothing in an element of its own."""
    write_series(folder, np.zeros((8, 8, 2), int), np.diag([1.0, 1, 1]), (0, 0, 0))
    for path in folder.iterdir():
        deflate(path, struct.pack("<HH2sHI", 0x7FE1, 0x1010, b"OB", 0, size), size)
