"""The engine: MONAI's sliding window in a slab of memory, air left out, only what was asked for, the same bytes again."""

from __future__ import annotations

import gc
import gzip
import json
import os
import weakref
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.data.utils import compute_importance_map
from monai.inferers import sliding_window_inference
from small_network import config, network

from ctune.config import Inference, Preprocessing
from ctune.data.gzip_blocks import GzipBlocks, pack, packed_zeros
from ctune.data.preprocess import to_network, to_source
from ctune.errors import DataError, ModelError, UnknownClassError
from ctune.inference.behind import Behind, ahead
from ctune.inference.blocks import Inverse
from ctune.inference.clock import Clock
from ctune.inference.engine import Job, make_ready, predict_jobs, predicted_blocks
from ctune.inference.output import Wanted
from ctune.inference.runtime import ArrayRuntime, TorchRuntime
from ctune.inference.slabs import Slabs
from ctune.inference.windows import find_body, gaussian, layout
from ctune.predict import predict_case, read_masks, read_prediction
from ctune.types import Case, Grid

TOLERANCE = 2e-6
"""Largest difference of a probability: the same windows, summed in another order."""
NET = network()


def noise(shape: tuple[int, int, int], codes: str = "RAS", seed: int = 0) -> Case:
    hu = np.random.default_rng(seed).normal(0, 120, shape).astype(np.float32)
    image = nib.Nifti1Image(hu, np.diag([1.3, 0.9, 2.1, 1.0])).as_reoriented(
        nib.orientations.axcodes2ornt(tuple(codes))
    )
    return Case("c", np.asarray(image.dataobj, dtype=np.float32), Grid(image.shape, image.affine))


@settings(max_examples=30, deadline=None)
@given(
    shape=st.tuples(*[st.integers(5, 44)] * 3),
    size=st.tuples(*[st.sampled_from([8, 12, 16])] * 3),
    overlap=st.sampled_from([0.0, 0.25, 0.5, 0.7]),
    batch=st.integers(1, 3),
    codes=st.sampled_from(["RAS", "LPS", "LAI", "SPR", "AIL"]),
    spacing=st.sampled_from(["native", (1.5, 1.5, 1.5)]),
)
def test_it_is_monais_sliding_window_whatever_the_shape(
    shape: tuple[int, int, int],
    size: tuple[int, int, int],
    overlap: float,
    batch: int,
    codes: str,
    spacing: str | tuple[float, float, float],
) -> None:
    case = noise(shape, codes)
    inference = {"patch_size": size, "overlap": overlap, "windows_per_batch": batch}
    made = config(inference=inference, preprocessing={"spacing_mm": spacing})
    image, frame = to_network(case, made.preprocessing)
    with torch.inference_mode():
        logits = sliding_window_inference(
            torch.from_numpy(image)[None, None], size, 2, NET, overlap=overlap, mode="gaussian"
        )
    wanted = to_source(torch.sigmoid(logits[0]).numpy(), frame)
    got = predict_case(NET, case, made, model="m").probabilities
    assert np.abs(got - wanted).max() <= TOLERANCE


@pytest.mark.parametrize("size", [(8, 8, 8), (96, 96, 96), (16, 40, 7)])
def test_the_gaussian_is_monais(size: tuple[int, int, int]) -> None:
    assert torch.equal(gaussian(size), compute_importance_map(size, mode="gaussian", sigma_scale=0.125))


def test_a_window_of_air_does_not_run_and_is_background() -> None:
    """A body of 16 mm cubed at one end of 128 mm of air: one window of four runs."""
    hu = np.full((64, 8, 8), -1000, dtype=np.float32)
    hu[:8] = 50
    case = Case("c", hu, Grid(hu.shape, np.diag([2.0, 2, 2, 1])))
    ran: list[int] = []

    def everywhere(windows: np.ndarray) -> np.ndarray:
        ran.append(len(windows))
        return np.full((len(windows), 1, *windows.shape[2:]), 9, dtype=np.float32)

    for skip, expected in ((True, 2), (False, 4)):
        ran.clear()
        made = config(inference={"patch_size": (16, 8, 8), "overlap": 0, "skip_air": skip})
        ready = make_ready(lambda: case, made, Clock())
        found = predicted_blocks(
            ArrayRuntime(everywhere, ["liver"]), ready, made.inference, above=0.5, clock=Clock()
        )
        (block,) = found
        assert sum(ran) == expected and block.values is not None
        # 20 mm around the body count as body: the second window, from 32 mm on, is within them.
        assert block.values.shape[2] == 16 * expected
    empty = Case("c", np.full_like(hu, -1000), case.grid)
    assert not predict_case(NET, empty, config(), model="m").probabilities.any()


def test_parts_of_the_body_count_and_specks_and_tables_do_not() -> None:
    """At 8 mm: a trunk, an arm beside it, a thin line of table below, noise without a window of HU."""
    image = np.zeros((30, 30, 12), dtype=np.float32)
    image[8:22, 10:22], image[0:3, 14:18], image[5:25, 27], image[28, 2, 3] = 0.5, 0.5, 0.5, 0.9
    body = find_body(image, (8, 8, 8), Preprocessing())
    assert body is not None and body.step == (1, 1, 1)
    assert body.found[15, 15, 6] and body.found[1, 15, 6]
    assert body.found[15, 27, 6] and not body.found[28, 2, 3], "a table of 240 voxels is above 5 % of 2016"
    image[5:25, 27, 2:] = 0
    body = find_body(image, (8, 8, 8), Preprocessing())
    assert body is not None and not body.found[15, 27, 6]
    assert find_body(image, (8, 8, 8), Preprocessing(window={"kind": "percentile"})) is None


def test_the_heads_that_were_not_asked_for_do_not_run() -> None:
    ran: list[str] = []
    net = network()
    for name in net.classes:
        net.head(name).register_forward_hook(lambda *_, name=name: ran.append(name))
    base: list[int] = []
    net.base.register_forward_hook(lambda *_: base.append(1))
    predict_case(net, noise((16, 16, 16)), config(), model="m", classes=["spleen"])
    assert set(ran) == {"spleen"}
    ran.clear(), base.clear()
    predict_case(net, noise((16, 16, 16)), config(), model="m")
    assert ran.count("liver") == ran.count("spleen") == len(base), "one pass of the base for both"


def test_memory_follows_a_slab() -> None:
    """A column of 400 planes through windows of 16: never more than two windows' depth of sums is held."""
    image = np.random.default_rng(0).random((8, 8, 400), dtype=np.float32)
    runtime = TorchRuntime(NET, None, Inference())
    slabs = Slabs(runtime, image, layout(image.shape, (8, 8, 16), 0.5), axis=2, backwards=False, batch=1)
    held = []
    for first in range(0, 400, 10):
        assert slabs.read(first, first + 10).shape == (2, 10, 8, 8)
        held.append(slabs._sums.shape[1])
    assert max(held) <= 32


def test_a_slab_is_gone_when_nobody_reads_it() -> None:
    """At once, not at the next look for garbage: what follows a prediction needs the memory."""
    image = np.zeros((8, 8, 64), np.float32)
    runtime = TorchRuntime(network(), ["liver"], config().inference)
    slabs = Slabs(runtime, image, layout(image.shape, (8, 8, 16), 0.5), axis=2, backwards=False, batch=1)
    slabs.read(0, 10)
    gone, gc_was = weakref.ref(slabs), gc.isenabled()
    gc.disable()
    try:
        del slabs
        assert gone() is None
    finally:
        if gc_was:
            gc.enable()


def test_a_batch_that_does_not_fit_is_halved() -> None:
    tried: list[int] = []

    def small(windows: np.ndarray) -> np.ndarray:
        tried.append(len(windows))
        if len(windows) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        with torch.inference_mode():
            return np.asarray(NET(torch.from_numpy(windows)))

    case = noise((72, 16, 16))
    made = config(inference={"patch_size": (16, 16, 16), "overlap": 0.25, "windows_per_batch": 3})
    ready = make_ready(lambda: case, made, Clock())
    runtimes = (ArrayRuntime(small, NET.classes), TorchRuntime(NET, None, made.inference))
    one, other = (
        [b.values for b in predicted_blocks(r, ready, made.inference, above=0.0, clock=Clock())]
        for r in runtimes
    )
    assert tried == [3, 2, 2, 2], "six windows: three at once do not fit, two do"
    assert all(
        a is not None and b is not None and torch.allclose(a, b, atol=1e-6)
        for a, b in zip(one, other, strict=True)
    )


def test_another_runtime_is_one_function_of_windows() -> None:
    case, made = noise((20, 16, 16)), config()

    def function(windows: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return np.asarray(NET(torch.from_numpy(windows)))

    ready = make_ready(lambda: case, made, Clock())
    runtimes = (ArrayRuntime(function, NET.classes), TorchRuntime(NET, None, made.inference))
    one, other = (
        [b.values for b in predicted_blocks(r, ready, made.inference, above=0.0, clock=Clock())]
        for r in runtimes
    )
    assert len(one) == len(other) == 2
    assert all(
        a is not None and b is not None and torch.allclose(a, b) for a, b in zip(one, other, strict=True)
    )
    wrong = ArrayRuntime(function, ["liver"])
    with pytest.raises(ModelError, match="for the classes liver, got"):
        list(predicted_blocks(wrong, ready, made.inference, above=0.0, clock=Clock()))


# Files ----------------------------------------------------------------------------------------------------------------


def job(tmp_path: Path, case: Case, name: str = "c") -> Job:
    return Job(name, lambda: case, tmp_path / name)


@pytest.mark.parametrize("codes", ["RAS", "LPI", "SLA"])
def test_files_hold_what_is_predicted_in_memory(
    tmp_path: Path, codes: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ctune.inference.blocks.BLOCK_VOXELS", 2000)
    case = noise((23, 19, 21), codes)
    # Near the mean of what an untrained network says, so that masks are ragged.
    made = config(inference={"patch_size": (16, 16, 16), "threshold": 0.48})
    runtime = TorchRuntime(NET, None, made.inference)
    whole = predict_case(NET, case, made, model="m")
    predict_jobs(runtime, [job(tmp_path, case)], made, model="m", wanted=Wanted(probabilities=True))
    masks = read_masks(tmp_path / "c", case.grid)
    for k, name in enumerate(NET.classes):
        assert np.array_equal(masks[name], whole.probabilities[k] > 0.48) and masks[name].any()
    stored = read_prediction(tmp_path / "c", case.grid)
    assert np.abs(stored.probabilities - whole.probabilities).max() <= 0.5 / 255 + 1e-6
    predict_jobs(runtime, [job(tmp_path, case)], made, model="m", wanted=Wanted(labels=True))
    labels = np.asarray(nib.load(tmp_path / "c" / "labels.nii.gz").dataobj)
    best = np.where(whole.probabilities.max(axis=0) > 0.48, whole.probabilities.argmax(axis=0) + 1, 0)
    assert np.array_equal(labels, best)
    assert not (tmp_path / "c" / "liver.nii.gz").exists(), "what the label map replaces is gone"
    with pytest.raises(DataError, match="expected a prediction with probabilities"):
        read_prediction(tmp_path / "c", case.grid)


def test_the_same_case_gives_the_same_bytes_and_a_finished_one_is_left_alone(tmp_path: Path) -> None:
    case, made = noise((20, 18, 22)), config()
    runtime = TorchRuntime(NET, None, made.inference)
    for folder in ("a", "b"):
        predict_jobs(
            runtime, [job(tmp_path / folder, case)], made, model="m", wanted=Wanted(probabilities=True)
        )
    files = sorted(path.name for path in (tmp_path / "a" / "c").iterdir())
    assert files == ["liver.nii.gz", "prediction.json", "probabilities.nii.gz", "spleen.nii.gz"]
    for name in files:
        assert (tmp_path / "a" / "c" / name).read_bytes() == (tmp_path / "b" / "c" / name).read_bytes()
    stamp = (tmp_path / "a" / "c" / "liver.nii.gz").stat().st_mtime_ns
    predict_jobs(runtime, [job(tmp_path / "a", case)], made, model="m")
    assert (tmp_path / "a" / "c" / "liver.nii.gz").stat().st_mtime_ns == stamp, "more than asked for is there"
    (tmp_path / "c").mkdir()
    predict_jobs(runtime, [job(tmp_path, case)], made, model="m")
    predict_jobs(runtime, [job(tmp_path, case)], made, model="m", wanted=Wanted(probabilities=True))
    assert (tmp_path / "c" / "probabilities.nii.gz").exists(), "less than asked for is done again"
    predict_jobs(runtime, [job(tmp_path / "a", case)], made, model="another")
    assert (tmp_path / "a" / "c" / "liver.nii.gz").stat().st_mtime_ns != stamp


@pytest.mark.parametrize("wanted", [Wanted(), Wanted(labels=True)])
@pytest.mark.parametrize("name", ["../victim/liver", "a/liver", ""])
def test_no_class_is_written_outside_its_folder(tmp_path: Path, name: str, wanted: Wanted) -> None:
    (tmp_path / "victim").mkdir()
    runtime = ArrayRuntime(lambda windows: np.ones((len(windows), 1, *windows.shape[2:]), np.float32), [name])
    with pytest.raises(UnknownClassError, match="expected classes that can be names of files, got "):
        predict_jobs(runtime, [job(tmp_path, noise((16, 16, 16)))], config(), model="m", wanted=wanted)
    assert [path.name for path in tmp_path.iterdir()] == ["victim"] and not list(tmp_path.glob("victim/*"))


def test_an_earlier_prediction_that_somebody_wrote_removes_nothing_outside(tmp_path: Path) -> None:
    made, jobs = config(), [job(tmp_path, noise((16, 16, 16)))]
    runtime, about = TorchRuntime(NET, None, made.inference), tmp_path / "c" / "prediction.json"
    predict_jobs(runtime, jobs, made, model="m")
    (tmp_path / "ct.nii.gz").write_bytes(b"of somebody else")
    about.write_text(json.dumps({**json.loads(about.read_text()), "classes": ["../ct", ""]}))
    predict_jobs(runtime, jobs, made, model="another")
    assert json.loads(about.read_text())["model"] == "another"
    assert (tmp_path / "ct.nii.gz").read_bytes() == b"of somebody else"


def test_what_cannot_be_read_is_named_and_what_breaks_leaves_nothing_half_written(tmp_path: Path) -> None:
    made = config()

    def broken() -> Case:
        raise DataError("case bad: expected an image, got none; copy it again")

    def dies(windows: np.ndarray) -> np.ndarray:
        raise RuntimeError("out of luck")

    runtime = TorchRuntime(NET, None, made.inference)
    jobs = [Job("bad", broken, tmp_path / "bad"), job(tmp_path, noise((16, 16, 16)))]
    refused = predict_jobs(runtime, jobs, made, model="m")
    assert refused == [("bad", "case bad: expected an image, got none; copy it again")]
    assert (tmp_path / "c" / "prediction.json").exists() and not (tmp_path / "bad").exists()
    with pytest.raises(RuntimeError, match="out of luck"):
        predict_jobs(
            ArrayRuntime(dies, ["liver"]), [job(tmp_path, noise((16, 16, 16)), "d")], made, model="m"
        )
    assert list((tmp_path / "d").iterdir()) == []


@pytest.mark.parametrize("broken", ["add", "finish"])
def test_a_full_disk_leaves_no_file_behind(
    tmp_path: Path, broken: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = config()
    runtime = TorchRuntime(NET, None, made.inference)
    monkeypatch.setattr(f"ctune.inference.files.PlaneFile.{broken}", lambda *_: _full())
    jobs = [job(tmp_path, noise((16, 16, 16)), name) for name in ("c", "d")]
    with pytest.raises(OSError, match="disk is full"):
        predict_jobs(runtime, jobs, made, model="m", wanted=Wanted(probabilities=True))
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


# Parts ----------------------------------------------------------------------------------------------------------------


@given(st.lists(st.one_of(st.binary(max_size=300), st.integers(0, 5000)), max_size=6))
def test_blocks_make_one_gzip_file(parts: list[bytes | int]) -> None:
    import io

    file = io.BytesIO()
    blocks = GzipBlocks(file)
    for part in parts:
        blocks.add(packed_zeros(part) if isinstance(part, int) else pack(part))
    blocks.finish()
    plain = b"".join(bytes(part) if isinstance(part, int) else part for part in parts)
    assert gzip.decompress(file.getvalue()) == plain


def test_interpolating_a_box_alone_changes_nothing_that_is_above_the_level() -> None:
    case = noise((30, 28, 26), "LPS")
    image, frame = to_network(case, Preprocessing(spacing_mm=(2, 2, 2)))
    channel = np.zeros(image.shape, dtype=np.float32)
    channel[3:6, 4:9, 2:7] = np.random.default_rng(1).random((3, 5, 5))
    inverse, whole = Inverse(frame, torch.device("cpu")), to_source(channel[None], frame)[0]
    planes = torch.from_numpy(np.moveaxis(channel, inverse.axis, 0).copy())
    if inverse.backwards:
        planes = planes.flip(0)
    first, stop = inverse.needed(0, 26)
    found = inverse.block(planes[first:stop], first, 0, 26, 0.4)
    assert found is not None
    values, y, x = found
    mask = np.zeros(case.grid.shape, dtype=bool)
    mask[x : x + values.shape[2], y : y + values.shape[1]] = values.permute(2, 1, 0).numpy() > 0.4
    assert np.array_equal(mask, whole > 0.4) and values.numel() < whole.size / 4


def test_one_is_read_ahead_and_errors_come_with_their_item() -> None:
    def half(number: int) -> int:
        return 4 // number

    found = []
    for number, result in ahead(half, [2, 0, 1]):
        try:
            found.append((number, result.result()))
        except ZeroDivisionError:
            found.append((number, -1))
    assert found == [(2, 2), (0, -1), (1, 4)]
    assert list(ahead(half, [])) == []


def test_behind_keeps_the_order_and_tells_of_an_error() -> None:
    done: list[int] = []
    with Behind(limit=2) as behind:
        for number in range(20):
            behind(done.append, number)
    assert done == list(range(20))
    with pytest.raises(OSError, match="disk is full"), Behind() as behind:
        behind(_full)
        behind(done.append, -1)
    assert -1 not in done


def _full() -> None:
    raise OSError(os.strerror(28) + ": disk is full")
