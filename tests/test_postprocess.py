"""Cleaning of masks on phantoms one can picture: boxes, a speck, a hole, a lesion inside and one outside its organ."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from ctune.config import Cleaning, dump, load, preset
from ctune.errors import ConfigError, UnknownClassError
from ctune.inference.engine import Job, predict_jobs
from ctune.inference.output import Wanted
from ctune.inference.runtime import ArrayRuntime
from ctune.postprocess import (
    clean,
    clean_all,
    drop_small,
    fill_holes,
    in_order,
    keep_largest,
    keep_within,
    needed,
)
from ctune.predict import read_masks, read_volumes
from ctune.types import Case, Grid

GRID = Grid((20, 20, 20), np.diag([1.0, 1.0, 2.0, 1.0]))
"""A voxel is 0.002 mL."""


def boxes(*corners: tuple[int, int, int, int]) -> np.ndarray:
    """(X, Y, Z) uint8 with a cube for each (x, y, z, side)."""
    mask = np.zeros(GRID.shape, dtype=np.uint8)
    for x, y, z, side in corners:
        mask[x : x + side, y : y + side, z : z + side] = 1
    return mask


ORGAN, PART, SPECK = (2, 2, 2, 6), (12, 12, 2, 4), (18, 1, 18, 1)


def test_the_largest_parts_stay_and_the_input_is_unchanged() -> None:
    mask = boxes(ORGAN, PART, SPECK)
    before = mask.copy()
    assert np.array_equal(keep_largest(mask), boxes(ORGAN))
    assert np.array_equal(keep_largest(mask, 2), boxes(ORGAN, PART))
    assert np.array_equal(keep_largest(mask, 9), mask) and np.array_equal(mask, before)
    touching = boxes(ORGAN, (8, 8, 8, 2))
    assert np.array_equal(keep_largest(touching), touching), "parts that touch at a corner are one"
    twins = boxes((1, 1, 1, 2), (10, 10, 10, 2))
    assert np.array_equal(keep_largest(twins), boxes((1, 1, 1, 2))), "of equal ones the first"


def test_small_parts_go_by_their_volume() -> None:
    mask = boxes(ORGAN, PART, SPECK)
    assert np.array_equal(drop_small(mask, 2), boxes(ORGAN, PART))
    # 4^3 voxels of 0.002 mL are 0.128 mL.
    for min_ml, kept in ((0.128, boxes(ORGAN, PART)), (0.129, boxes(ORGAN)), (9.0, boxes())):
        assert np.array_equal(clean(mask, Cleaning(min_ml=min_ml), GRID), kept)


def test_a_hole_is_filled_and_a_bay_is_not() -> None:
    mask = boxes(ORGAN)
    mask[4, 4, 4] = 0
    mask[2, 4, 4] = 0
    filled = fill_holes(mask)
    assert filled[4, 4, 4] == 1 and filled[2, 4, 4] == 0 and filled.sum() == mask.sum() + 1


def test_a_lesion_counts_in_its_organ_or_near_it_in_millimetres() -> None:
    host, lesions = boxes(ORGAN), boxes((4, 4, 4, 2), (4, 4, 10, 1), (12, 4, 4, 1))
    assert np.array_equal(keep_within(lesions, host, GRID.spacing_mm, 0), boxes((4, 4, 4, 2)))
    # The organ ends with voxel 7: z 10 is three voxels of 2 mm away, x 12 five of 1 mm.
    near = keep_within(lesions, host, GRID.spacing_mm, 5.5)
    assert np.array_equal(near, boxes((4, 4, 4, 2), (12, 4, 4, 1)))
    assert np.array_equal(keep_within(lesions, host, GRID.spacing_mm, 6), lesions)
    rules = Cleaning(within="liver")
    assert np.array_equal(clean(lesions, rules, GRID, boxes()), lesions), (
        "an organ that was not found takes nothing"
    )
    assert np.array_equal(clean(lesions, rules, GRID, None), lesions)


def test_hosts_are_cleaned_first_and_classes_without_rules_are_left() -> None:
    rules = {"lesion": Cleaning(within="liver"), "liver": Cleaning(largest=1)}
    masks = {
        "lesion": boxes((4, 4, 4, 1), (13, 13, 3, 1)),
        "liver": boxes(ORGAN, PART),
        "aorta": boxes(SPECK),
    }
    assert in_order(masks, rules) == ["liver", "lesion"] and needed(masks, rules) == {"liver", "lesion"}
    found = clean_all(masks, rules, GRID)
    assert np.array_equal(found["liver"], boxes(ORGAN)) and found["aorta"] is masks["aorta"]
    assert np.array_equal(found["lesion"], boxes((4, 4, 4, 1))), "the other lay in what is no liver any more"
    assert needed(["lesion"], rules) == {"lesion"}


def test_nothing_is_done_by_default() -> None:
    mask = boxes(ORGAN, SPECK)
    assert np.array_equal(clean(mask, Cleaning(), GRID), mask) and preset("ct").postprocess == {}
    assert np.array_equal(clean(boxes(), Cleaning(largest=1, fill_holes=True, min_ml=1), GRID), boxes())


def test_rules_are_those_of_the_class_whatever_it_is_called() -> None:
    """A rule of a name that no class has would do nothing, and nobody would know."""
    rules = {"Gall Bladder": {"within": "Leber", "largest": 1}, "IVC": {"fill_holes": True}}
    found = preset("ct", postprocess=rules, aliases={"Leber": "liver"}).postprocess
    assert list(found) == ["gall_bladder", "postcava"] and found["gall_bladder"].within == "liver"
    with pytest.raises(UnknownClassError, match="expected every class once, got 'postcava'"):
        preset("ct", postprocess={"IVC": {}, "postcava": {}})
    with pytest.raises(ConfigError, match="host organs without a circle"):
        preset("ct", postprocess={"liver": {"within": "IVC"}, "postcava": {"within": "Liver"}})


def test_settings_come_back_and_circles_are_refused(tmp_path: Path) -> None:
    config = preset(
        "ct", postprocess={"liver": {"largest": 1}, "tumour": {"within": "liver", "within_mm": 5}}
    )
    (tmp_path / "ctune.toml").write_text(dump(config))
    assert load(tmp_path / "ctune.toml") == config
    circle = {"liver": {"within": "aorta"}, "aorta": {"within": "liver"}}
    with pytest.raises(
        ConfigError, match="host organs without a circle, got liver within aorta within liver"
    ):
        preset("ct", postprocess=circle)


@pytest.mark.parametrize("labels", [False, True])
@pytest.mark.parametrize("block_voxels", [2**22, 900])
def test_files_are_cleaned(
    tmp_path: Path, labels: bool, block_voxels: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A network that says what its image shows: 100 HU liver, 200 HU lesion."""
    monkeypatch.setattr("ctune.inference.blocks.BLOCK_VOXELS", block_voxels)
    liver, lesion = boxes(ORGAN, PART), boxes((4, 4, 4, 2), (17, 17, 17, 2))
    hu = np.where(lesion, 200, np.where(liver, 100, -100)).astype(np.float32)
    affine = np.diag([1.0, 1.0, -2.0, 1.0])
    case = Case("c", hu, Grid(hu.shape, affine))

    def network(windows: np.ndarray) -> np.ndarray:
        shown = windows[:, 0] * 425 - 175
        return np.stack([np.where(shown > 150, 9, -9), np.where((shown > 50) & (shown < 150), 9, -9)], axis=1)

    settings = preset(
        "phantom",
        inference={"patch_size": (20, 20, 20), "overlap": 0.25},
        postprocess={
            "lesion": {"within": "liver", "within_mm": 1},
            "liver": {"largest": 1, "fill_holes": True},
        },
    )
    runtime = ArrayRuntime(network, ["lesion", "liver"])
    jobs = [Job("c", lambda: case, tmp_path / "c")]
    predict_jobs(runtime, jobs, settings, model="m", wanted=Wanted(labels=labels))
    masks = read_masks(tmp_path / "c", case.grid)
    # As masks the classes overlap where the liver's hole was filled; in a label map the lesion keeps its voxels.
    assert np.array_equal(masks["liver"], boxes(ORGAN) - (boxes((4, 4, 4, 2)) if labels else 0))
    assert np.array_equal(masks["lesion"], boxes((4, 4, 4, 2)))
    assert read_volumes(tmp_path / "c")["lesion"] == pytest.approx(8 * 0.002)
    files = {p.name for p in (tmp_path / "c").iterdir()}
    assert files == {
        "prediction.json",
        *(("labels.nii.gz",) if labels else ("liver.nii.gz", "lesion.nii.gz")),
    }
    name = "labels" if labels else "liver"
    assert np.array_equal(nib.load(tmp_path / "c" / f"{name}.nii.gz").affine, affine)
