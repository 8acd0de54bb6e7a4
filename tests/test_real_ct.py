"""The real CT of the shared data: import by ids, predict, write back, read in another orientation: the same places."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from small_network import config, network

from ctune.cohort import predict_cases
from ctune.data.importing import import_cases
from ctune.data.labels import parse_labels
from ctune.data.layouts import find_cases
from ctune.data.nifti import read_mask
from ctune.project import create_project
from ctune.types import Grid, Source

TOTAL = Path(__file__).resolve().parents[2] / "shared" / "data" / "totalsegmentator"
pytestmark = pytest.mark.skipif(not TOTAL.exists(), reason=f"the real CT is not in {TOTAL}")


def world(mask: np.ndarray, affine: np.ndarray) -> np.ndarray:
    points = nib.affines.apply_affine(affine, np.argwhere(mask)).round(2)
    return points[np.lexsort(points.T)]


def test_there_and_back(tmp_path: Path) -> None:
    organs = (
        "spleen",
        "kidney_right",
        "kidney_left",
        "pancreas",
        "liver",
        "stomach",
        "aorta",
        "postcava",
        "gall_bladder",
    )
    settings = config(
        classes=organs,
        preprocessing={"spacing_mm": (4.0, 4.0, 4.0)},
        inference={"patch_size": (32, 32, 32), "overlap": 0.25, "windows_per_batch": 4},
    )
    made = create_project(tmp_path / "project", settings)
    found = find_cases(
        TOTAL / "example_ct.nii.gz", "auto", parse_labels("totalsegmentator"),
        label_map=TOTAL / "example_seg_fast_force_split.nii.gz", case_id="real",
    )  # fmt: skip
    report = import_cases(made.pool, found, classes=organs)
    assert not report.refused, [c.reason for c in report.refused]
    records = made.pool.annotations("real")
    assert {r.class_name for r in records} == set(organs) and {r.source for r in records} == {Source.ORIGINAL}
    stored = np.asarray(nib.load(TOTAL / "example_seg_fast_force_split.nii.gz").dataobj)
    for name, number in (("liver", 5), ("postcava", 63), ("gall_bladder", 4), ("kidney_left", 3)):
        record = next(r for r in records if r.class_name == name)
        assert np.array_equal(made.pool.read(record).mask == 1, stored == number), name

    torch.manual_seed(0)
    predict_cases(made, network(("liver", "aorta")), "m" * 64, ["real"], tmp_path / "out")
    image = nib.load(tmp_path / "out" / "real" / "liver.nii.gz")
    ct = nib.load(TOTAL / "example_ct.nii.gz")
    assert image.shape == ct.shape and np.allclose(image.affine, ct.affine)
    predicted = np.asarray(image.dataobj)
    assert 0 < predicted.sum() < predicted.size, (
        "an untrained head must mark something, or this shows nothing"
    )
    turned = image.as_reoriented(nib.orientations.axcodes2ornt(("P", "I", "L")))
    nib.save(turned, tmp_path / "turned.nii.gz")
    again = read_mask(tmp_path / "turned.nii.gz", Grid(turned.shape, turned.affine), "turned")
    assert np.array_equal(world(predicted, image.affine), world(again, turned.affine))
