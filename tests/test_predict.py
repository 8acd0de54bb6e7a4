"""Prediction: on the CT's own grid, the same in every orientation, whole on disk or not there."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.inferers import sliding_window_inference
from small_network import GRID, SIDE, config, network, volume

from ctune.cohort import predict_inputs
from ctune.data.files import read_json, write_json
from ctune.data.nifti import read_case, read_mask, read_probabilities, write_volume
from ctune.data.preprocess import to_network
from ctune.errors import DataError, UnknownClassError, UsageError
from ctune.inference.inputs import find_inputs
from ctune.inference.output import Wanted
from ctune.inference.windows import layout
from ctune.predict import (
    masks_of,
    predict_case,
    read_masks,
    read_prediction,
)
from ctune.types import Case, Grid, View

CONFIG = config(inference={"patch_size": (SIDE, SIDE, SIDE), "overlap": 0.5, "windows_per_batch": 3})


def case(shape: tuple[int, int, int] = (24, SIDE, 20)) -> Case:
    hu = np.random.default_rng(0).normal(0, 120, shape).astype(np.float32)
    return Case("c", hu, Grid(shape, np.diag([1.0, 1.0, 1.0, 1.0])))


def test_it_is_monais_sliding_window_with_a_gaussian() -> None:
    net, settings = network(), CONFIG.inference
    got = predict_case(net, case(), CONFIG, model="m")
    image, _ = to_network(case(), CONFIG.preprocessing)
    with torch.inference_mode():
        wanted = sliding_window_inference(
            torch.from_numpy(image)[None, None], settings.patch_size, 3, net, overlap=0.5, mode="gaussian"
        )
    assert np.allclose(got.probabilities, torch.sigmoid(wanted[0]).numpy(), atol=1e-6)
    assert got.classes == ("liver", "spleen") and got.probabilities.shape == (2, 24, SIDE, 20)


def test_only_the_classes_asked_for_and_each_as_in_any_company() -> None:
    net = network()
    both, one = (
        predict_case(net, case(), CONFIG, model="m"),
        predict_case(net, case(), CONFIG, model="m", classes=["spleen"]),
    )
    assert one.classes == ("spleen",) and np.array_equal(one.probabilities[0], both.probabilities[1])
    with pytest.raises(UnknownClassError, match="expected one of the classes liver, spleen; got 'aorta'"):
        predict_case(net, case(), CONFIG, model="m", classes=["aorta"])


@pytest.mark.parametrize("codes", ["LPS", "SPR", "AIL"])
def test_the_same_anatomy_in_another_orientation_gets_the_same_masks_in_the_world(codes: str) -> None:
    net, plain = network(), case()
    image = nib.Nifti1Image(plain.volume, plain.grid.affine)
    turned = image.as_reoriented(nib.orientations.axcodes2ornt(tuple(codes)))
    other = Case("c", np.asarray(turned.dataobj, dtype=np.float32), Grid(turned.shape, turned.affine))
    a, b = (predict_case(net, c, CONFIG, model="m") for c in (plain, other))
    back = nib.as_closest_canonical(nib.Nifti1Image(b.probabilities[0], b.grid.affine))
    assert np.allclose(back.affine, plain.grid.affine)
    found = np.asarray(back.dataobj, dtype=np.float32)
    # Windows are summed in the order of the file's planes: the last bit may differ.
    assert np.allclose(found, a.probabilities[0], rtol=0, atol=1e-6)
    assert np.array_equal(found > 0.48, a.probabilities[0] > 0.48)


def test_consistency_is_the_deviation_over_flips_and_does_not_change_the_prediction() -> None:
    net, small = network(), case((SIDE, SIDE, SIDE))
    plain = predict_case(net, small, CONFIG, model="m")
    flipped = predict_case(net, small, CONFIG, model="m", views=("y", "z"))
    assert plain.inconsistency is None and np.array_equal(plain.probabilities, flipped.probabilities)
    members = [plain.probabilities]
    for axis in (1, 2):
        mirrored = Case("c", np.flip(small.volume, axis).copy(), small.grid)
        members.append(np.flip(predict_case(net, mirrored, CONFIG, model="m").probabilities, axis + 1))
    assert flipped.inconsistency is not None
    assert np.allclose(flipped.inconsistency, np.std(np.stack(members), axis=0), atol=1e-6)


@pytest.mark.parametrize("shift", [(3, 0, 0), (0, -5, 2)])
@pytest.mark.parametrize("side", [SIDE, SIDE + 9, SIDE - 6])
def test_a_shift_is_a_member_whose_image_lies_elsewhere_in_its_windows(
    shift: tuple[int, int, int], side: int
) -> None:
    net, plain = network(), case((side, side, side))
    found = predict_case(net, plain, CONFIG, model="m", views=(shift,))
    # The same by hand: a volume with zeros in front, as many as it moves, or as bring the windows' grid the other way; one
    # that a window holds whole moves to the window's edge at most.
    missing = max(0, SIDE - side)
    zeros = [min(max(3 + d, 0), 6) if missing else d % SIDE for d in shift]
    behind = [max(0, SIDE - side - z) for z in zeros]
    air = CONFIG.preprocessing.window.low  # type: ignore[union-attr]
    pads = list(zip(zeros, behind, strict=True))
    moved = Case(
        "c",
        np.pad(plain.volume, pads, constant_values=air),
        Grid(tuple(side + a + b for a, b in pads), plain.grid.affine),
    )  # type: ignore[arg-type]
    other = predict_case(net, moved, CONFIG, model="m").probabilities
    inside = other[(slice(None), *(slice(z, z + side) for z in zeros))]
    alone = predict_case(net, plain, CONFIG, model="m").probabilities
    assert np.array_equal(found.probabilities, alone), "the prediction itself is of the image where it is"
    assert found.inconsistency is not None and found.inconsistency.max() > 0
    assert np.allclose(found.inconsistency, np.std([alone, inside], axis=0), atol=1e-5)


@pytest.mark.parametrize(("side", "shift", "zeros", "windows"), [
    (35, 4, 5, 1), (35, -4, 0, 1), (35, 1, 3, 1), (39, -4, 36, 3), (39, 4, 1, 1), (40, 4, 4, 2), (40, -4, 36, 3),
])  # fmt: skip
def test_a_shift_costs_no_second_window_where_the_first_has_room(
    side: int, shift: int, zeros: int, windows: int
) -> None:
    found = layout((side, 40, 40), (40, 40, 40), 0.25, shift=(shift, 0, 0))
    assert (found.before[0], len(found.corners)) == (zeros, windows)


def test_a_prediction_whose_views_were_others_is_made_again(tmp_path: Path) -> None:
    hu, _ = volume(0)
    write_volume(tmp_path / "c.nii.gz", hu, GRID)
    files, out = find_inputs([tmp_path / "c.nii.gz"]), tmp_path / "out"
    stamp = partial(os.stat, out / "c" / "inconsistency.nii.gz")

    def predicted(*views: View) -> float:
        predict_inputs(
            CONFIG, network(), "d" * 64, files, out, views=views, wanted=Wanted(probabilities=True)
        )
        return stamp().st_mtime_ns

    first = predicted("z", (2, 0, 0))
    assert predicted("z", (2, 0, 0)) == first and predicted() == first, "asked for less, or the same"
    second = predicted("z", (4, 0, 0))
    assert second > first
    # One of before views were noted had mirror images alone.
    about = out / "c" / "prediction.json"
    write_json(about, {key: value for key, value in read_json(about).items() if key != "views"})
    assert predicted("z") == second and predicted("z", (4, 0, 0)) > second


def test_on_disk(tmp_path: Path) -> None:
    hu, _ = volume(0)
    write_volume(tmp_path / "c.nii.gz", hu, GRID)
    files, out = [tmp_path / "c.nii.gz"], tmp_path / "out"
    wanted = Wanted(probabilities=True)
    predict_inputs(CONFIG, network(), "d" * 64, find_inputs(files), out, views=("z",), wanted=wanted)
    prediction = predict_case(network(), read_case(files[0], "c"), CONFIG, model="d" * 64, views=("z",))
    again = read_prediction(out / "c", GRID)
    assert np.abs(again.probabilities - prediction.probabilities).max() <= 0.5 / 255 + 1e-6
    assert again.inconsistency is not None and prediction.inconsistency is not None
    assert np.abs(again.inconsistency - prediction.inconsistency).max() <= 0.5 / 255 + 1e-6
    assert again.classes == prediction.classes and again.model == "d" * 64
    assert again.network_spacing_mm == prediction.network_spacing_mm == pytest.approx(GRID.spacing_mm)
    masks, read = masks_of(prediction, 0.5), read_masks(out / "c", GRID)
    for name in ("liver", "spleen"):
        assert np.array_equal(read[name], masks[name])
        assert np.array_equal(read_mask(out / "c" / f"{name}.nii.gz", GRID, name), masks[name])
    assert (
        read_probabilities(out / "c" / "probabilities.nii.gz", GRID).shape == prediction.probabilities.shape
    )
    assert not [path for path in (out / "c").iterdir() if path.name.startswith(".")], (
        "nothing temporary stays"
    )
    (out / "c" / "prediction.json").unlink()
    with pytest.raises(DataError, match="expected a finished prediction"):
        read_prediction(out / "c", GRID)


def test_files_that_cannot_be_read_are_named_and_the_rest_goes_on(tmp_path: Path) -> None:
    write_volume(tmp_path / "good.nii.gz", volume(0)[0], GRID)
    (tmp_path / "bad.nii.gz").write_bytes(b"no image")
    images = [tmp_path / "bad.nii.gz", tmp_path / "good.nii.gz"]
    done, refused = predict_inputs(CONFIG, network(), "m", find_inputs(images), tmp_path / "out")
    assert done == ["good"] and refused[0][0] == "bad" and "expected a NIfTI image" in refused[0][1]
    written = (tmp_path / "out" / "good" / "liver.nii.gz").stat().st_mtime_ns
    predict_inputs(CONFIG, network(), "m", find_inputs(images[1:]), tmp_path / "out")
    assert (tmp_path / "out" / "good" / "liver.nii.gz").stat().st_mtime_ns == written, "done is done"
    with pytest.raises(UsageError, match="CT files of different names, got 'good' more than once"):
        find_inputs([images[1], tmp_path / "x" / "good.nii"])
