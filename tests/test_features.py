"""The features of a frozen base: kept ones are those of the base, bounded, checked, safe against kills and neighbours."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_network import GRID, SIDE, config, network, prepared, volume

from ctune.config import Preprocessing
from ctune.data.prepared import prepare
from ctune.model.feature_files import FeatureFiles, is_whole
from ctune.model.features import (
    FeatureCache,
    KeptFeatures,
    LiveFeatures,
    PassedFeatures,
    View,
    WindowFeatures,
    augmented,
    window_corners,
)
from ctune.model.freeze import fingerprint
from ctune.model.network import Network
from ctune.subpatches import feature_windows
from ctune.tune import tune_heads
from ctune.types import Case

CPU = torch.device("cpu")
WHOLE = (SIDE, SIDE, SIDE)
VIEW = View("k", (0, 0, 0), WHOLE)
NET = network()


def image() -> np.ndarray:
    return prepared(0, ("liver",)).image


def make(folder: Path, net: Network = NET, **bounds: Any) -> FeatureCache:
    return FeatureCache(folder, net.base, fingerprint(net.base), CPU, **bounds)


def kept(folder: Path) -> list[Path]:
    return sorted(folder.glob("*/*.safetensors"))


def whole_names(folder: Path) -> list[Path]:
    return [path for path in kept(folder) if not path.name.startswith(".")]


def map_of(features: WindowFeatures) -> torch.Tensor:
    return features.read((0, 0, 0), (8, 8, 8)).map


# What comes out -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("memory_gb", [0.0, 1.0])
def test_kept_features_are_those_of_the_base_up_to_half_precision(tmp_path: Path, memory_gb: float) -> None:
    view = make(tmp_path, memory_gb=memory_gb).open(VIEW, image)
    with torch.inference_mode():
        whole = NET.base(torch.from_numpy(np.array(image()))[None, None])
    wanted = whole.crop((slice(4, 12), slice(0, 8), slice(8, 16))).tensors()
    got = view.read((4, 0, 8), (8, 8, 8)).tensors()
    assert got.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert torch.equal(got[name], tensor.half().float()), name


def test_live_features_are_those_of_the_base(tmp_path: Path) -> None:
    whole = NET.base(torch.from_numpy(np.array(image()))[None, None]).crop([slice(4, 12)] * 3).tensors()
    got = LiveFeatures(NET.base, CPU).open(VIEW, image).read((4, 4, 4), (8, 8, 8)).tensors()
    assert all(torch.equal(got[name], tensor) for name, tensor in whole.items())


def test_a_head_learns_from_live_features_as_they_are() -> None:
    net = network()
    features = LiveFeatures(net.base, CPU).open(VIEW, image).read((0, 0, 0), WHOLE)
    net.logits(features, ("liver",)).sum().backward()  # type: ignore[no-untyped-call]
    assert all(p.grad is None for p in net.base.parameters())
    assert any(p.grad is not None for p in net.head("liver").parameters())


def losses(folder: Path, epochs: int = 4, **changes: object) -> tuple[float, ...]:
    net = network()
    tuning = config().tune.model_copy(update={"epochs": epochs, **changes})
    cases = [prepared(i, ("liver",)) for i in range(2)]
    result = tune_heads(
        net, ("liver",), cases, tuning, window=WHOLE, overlap=0.25, seed=0, device=CPU, cache=folder
    )
    return result.losses["liver"]


def test_cached_and_uncached_tuning_have_the_same_losses(tmp_path: Path) -> None:
    cached, live = losses(tmp_path / "a"), losses(tmp_path / "b", cache_gb=0)
    assert not (tmp_path / "b").exists()
    # float16 keeps 11 bits of a feature, so a loss of about 1 may differ in the fourth digit.
    assert np.allclose(cached, live, atol=1e-3) and np.ptp(cached) > 0.1
    assert cached != live, "the one is rounded, the other is not"


def test_a_cache_without_room_or_in_memory_gives_the_same_bits(tmp_path: Path) -> None:
    plain = losses(tmp_path / "a")
    assert losses(tmp_path / "b", cache_memory_gb=1.0) == plain
    assert losses(tmp_path / "c", cache_gb=1e-6) == plain
    assert kept(tmp_path / "c") == []


# What an entry depends on ---------------------------------------------------------------------------------------------


def test_another_base_has_entries_of_its_own(tmp_path: Path) -> None:
    maps = [map_of(make(tmp_path, net).open(VIEW, image)) for net in (network(seed=0), network(seed=1))]
    assert not torch.equal(*maps) and len(kept(tmp_path)) == 2


@given(
    st.sampled_from(
        [{"key": "other"}, {"corner": (0, 0, 2)}, {"size": (8, 16, 16)}, {"turns": 2}, {"shift": 0.05}]
    )
)
def test_whatever_changes_of_a_view_changes_its_entry(
    tmp_path_factory: pytest.TempPathFactory, change: dict[str, object]
) -> None:
    cache = make(tmp_path_factory.getbasetemp() / "keys")
    other = replace(VIEW, **change)  # type: ignore[arg-type]
    assert cache.path(VIEW) != cache.path(other)
    assert cache.path(VIEW) == cache.path(replace(other, **{n: getattr(VIEW, n) for n in change}))


def test_another_ct_or_preprocessing_is_another_entry(tmp_path: Path) -> None:
    cache = make(tmp_path)

    def entry(ct_sha256: str, spacing: float) -> Path:
        settings = Preprocessing(spacing_mm=(spacing,) * 3, crop_foreground=False)
        case = prepare(
            "c", lambda: Case("c", volume(0)[0], GRID), ct_sha256, {}, settings, tmp_path / "prepared"
        )
        return cache.path(View(case.key, (0, 0, 0), WHOLE))

    assert len({entry("a" * 64, 2.5), entry("b" * 64, 2.5), entry("a" * 64, 3.0)}) == 3
    assert entry("a" * 64, 2.5) == entry("a" * 64, 2.5)


def test_a_second_run_finds_what_the_first_computed(tmp_path: Path) -> None:
    first = map_of(make(tmp_path).open(VIEW, image))

    def never() -> np.ndarray:
        raise AssertionError("computed again")

    assert torch.equal(map_of(make(tmp_path).open(VIEW, never)), first)


# Damage ---------------------------------------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**9), st.integers(0, 7))
def test_a_bit_that_flipped_anywhere_is_found(
    tmp_path_factory: pytest.TempPathFactory, byte: int, bit: int
) -> None:
    folder = tmp_path_factory.mktemp("flip")
    good = map_of(make(folder).open(VIEW, image))
    (path,) = kept(folder)
    whole = path.read_bytes()
    data = bytearray(whole)
    data[byte % len(data)] ^= 1 << bit
    path.write_bytes(data)
    assert not is_whole(path)
    assert torch.equal(map_of(make(folder).open(VIEW, image)), good)
    assert path.read_bytes() == whole


@pytest.mark.parametrize("left", [b"", b"\x10" * 100, b"\x02\0\0\0\0\0\0\0{}", b"\x02\0\0\0\0\0\0\0[]"])
def test_an_entry_that_is_no_file_of_features_is_computed_again(tmp_path: Path, left: bytes) -> None:
    good = map_of(make(tmp_path).open(VIEW, image))
    (path,) = kept(tmp_path)
    path.write_bytes(left)
    assert torch.equal(map_of(make(tmp_path).open(VIEW, image)), good)


def test_an_entry_that_was_cut_short_is_computed_again(tmp_path: Path) -> None:
    good = map_of(make(tmp_path).open(VIEW, image))
    (path,) = kept(tmp_path)
    path.write_bytes(path.read_bytes()[:-1])
    assert torch.equal(map_of(make(tmp_path).open(VIEW, image)), good)


# The bound ------------------------------------------------------------------------------------------------------------


def put(files: FeatureFiles, name: int, kilobytes: int) -> bool:
    return files.keep(files.folder / f"{name}.safetensors", {"x": torch.zeros(kilobytes * 256)})


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 9), st.integers(1, 6)), max_size=25))
def test_the_bound_is_never_exceeded_and_nothing_in_use_goes(
    tmp_path_factory: pytest.TempPathFactory, steps: Sequence[tuple[int, int, int]]
) -> None:
    root, limit = tmp_path_factory.mktemp("bound"), 14_000
    for run, name, kilobytes in steps:
        # A run of its own each time it is the third: what earlier runs used may go, what this one has may not.
        if run == 0 or "files" not in locals():
            files, held = FeatureFiles(root, f"base{name % 2}", limit), set[Path]()
        if put(files, name, kilobytes):
            held.add(files.folder / f"{name}.safetensors")
        assert sum(p.stat().st_size for p in root.rglob("*.safetensors")) <= limit
        assert all(path.exists() for path in held)


def test_the_least_recently_used_goes_first_whichever_base_it_is_of(tmp_path: Path) -> None:
    one = FeatureFiles(tmp_path, "one", 13_000)
    assert [put(one, name, 3) for name in range(3)] == [True] * 3
    for age, name in ((300, 0), (200, 1), (100, 2)):
        os.utime(one.folder / f"{name}.safetensors", (time.time() - age,) * 2)
    del one
    two = FeatureFiles(tmp_path, "two", 13_000)
    assert two.use(tmp_path / "one" / "0.safetensors")
    assert put(two, 9, 3) and put(two, 8, 3)
    assert [p.relative_to(tmp_path).as_posix() for p in kept(tmp_path)] == [
        "one/0.safetensors", "one/2.safetensors", "two/8.safetensors", "two/9.safetensors"
    ]  # fmt: skip


def test_a_lower_bound_counts_as_soon_as_the_cache_is_opened(tmp_path: Path) -> None:
    one = FeatureFiles(tmp_path, "one", 13_000)
    assert [put(one, name, 3) for name in range(3)] == [True] * 3
    for age, name in ((300, 1), (200, 0), (100, 2)):
        os.utime(one.folder / f"{name}.safetensors", (time.time() - age,) * 2)
    del one
    FeatureFiles(tmp_path, "two", 4_000)
    assert [p.relative_to(tmp_path).as_posix() for p in kept(tmp_path)] == ["one/2.safetensors"]


def test_kinds_of_device_have_features_of_their_own(tmp_path: Path) -> None:
    on_cpu = make(tmp_path)
    on_gpu = FeatureCache(tmp_path, NET.base, fingerprint(NET.base), torch.device("cuda:1"), memory_gb=0)
    name = fingerprint(NET.base)[:16]
    assert on_cpu.path(VIEW).parent == tmp_path / f"{name}-cpu"
    assert on_gpu.path(VIEW) == tmp_path / f"{name}-cuda" / on_cpu.path(VIEW).name


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_the_features_are_held_there_where_they_fit(tmp_path: Path) -> None:
    device, net = torch.device("cuda"), network()
    net.to(device)
    for memory_gb, where in ((None, "cuda"), (0.0, "cpu")):
        cache = FeatureCache(tmp_path, net.base, fingerprint(net.base), device, memory_gb=memory_gb)
        found = cache.open(VIEW, image)
        assert isinstance(found, KeptFeatures) and map_of(found).device.type == where
        live = map_of(LiveFeatures(net.base, device).open(VIEW, image)).cpu()
        assert torch.allclose(map_of(found).cpu(), live, atol=1e-2)


def test_another_cache_of_the_same_run_keeps_what_it_has_open(tmp_path: Path) -> None:
    size = 4000
    first, second = FeatureFiles(tmp_path, "a", size), FeatureFiles(tmp_path, "a", size)
    assert put(first, 1, 3) and not put(second, 2, 3)
    del first
    assert put(second, 2, 3)


def test_what_validation_read_makes_room_for_what_trains(tmp_path: Path) -> None:
    validation = FeatureFiles(tmp_path, "a", 4000, pin=False)
    training = FeatureFiles(tmp_path, "a", 4000)
    assert put(validation, 1, 3) and put(training, 2, 3)
    assert not put(validation, 1, 3)
    assert not validation.use(validation.folder / "1.safetensors")


def test_a_cache_for_validation_holds_nothing_open(tmp_path: Path) -> None:
    cache = make(tmp_path, pin=False)
    first, second = cache.open(VIEW, image), cache.open(VIEW, image)
    assert first is not second and torch.equal(map_of(first), map_of(second))


def test_windows_without_room_are_spoken_of(tmp_path: Path) -> None:
    said: list[str] = []
    source = make(tmp_path, limit_gb=1e-6)
    cases = [prepared(i, ("liver",)) for i in range(2)]
    feature_windows(
        source,
        cases,
        ("liver",),
        WHOLE,
        0.0,
        config().tune,
        0,
        lambda progress: said.append(progress.detail),
    )
    assert said == [f"case_{i}, {i + 1} windows did not fit: raise tune.cache_gb" for i in range(2)]


def test_what_a_killed_process_left_goes_after_an_hour(tmp_path: Path) -> None:
    files = FeatureFiles(tmp_path, "a", 4000)
    left = files.folder / ".0123.tmp-x.safetensors"
    left.write_bytes(b"x" * 3000)
    assert not put(files, 1, 3) and left.exists()
    os.utime(left, (time.time() - 4000,) * 2)
    assert put(files, 1, 3) and not left.exists()


def test_what_finds_no_room_is_computed_at_each_reading(tmp_path: Path) -> None:
    bound = 1.5 * _size_of_one(tmp_path / "probe") / 1e9
    cache = make(tmp_path, limit_gb=bound)
    first, second = (cache.open(replace(VIEW, key=key), image) for key in "ab")
    assert isinstance(first, KeptFeatures) and isinstance(second, PassedFeatures)
    assert torch.equal(map_of(first), map_of(second))


def _size_of_one(folder: Path) -> int:
    make(folder).open(VIEW, image)
    return kept(folder)[0].stat().st_size


# Other processes ------------------------------------------------------------------------------------------------------

FILL = """
import sys, torch
from pathlib import Path
from small_network import SIDE, network, prepared
from ctune.model.features import FeatureCache, View
net = network()
cache = FeatureCache(Path(sys.argv[1]), net.base, "f" * 64, torch.device("cpu"))
print("ready", flush=True)
for key in range(int(sys.argv[2])):
    cache.open(View(str(key), (0, 0, 0), (SIDE,) * 3), lambda: prepared(key, ("liver",)).image)
"""


def fill(folder: Path, count: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", FILL, str(folder), str(count)], stdout=subprocess.PIPE, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parent)},
    )  # fmt: skip


def test_a_kill_in_the_middle_leaves_whole_entries_alone(tmp_path: Path) -> None:
    with fill(tmp_path, 100_000) as process:
        until = time.monotonic() + 60
        while len(whole_names(tmp_path)) < 5 and time.monotonic() < until:
            time.sleep(0.005)
        process.kill()
    found = whole_names(tmp_path)
    assert len(found) >= 5 and all(is_whole(path) for path in found)
    cache = FeatureCache(tmp_path, NET.base, "f" * 64, CPU)
    for key in range(len(found) + 2):
        cache.open(View(str(key), (0, 0, 0), WHOLE), lambda k=key: prepared(k, ("liver",)).image)  # type: ignore[misc]


def test_two_processes_fill_the_same_cache_at_once(tmp_path: Path) -> None:
    running = [fill(tmp_path, 20) for _ in range(2)]
    assert [process.wait(120) for process in running] == [0, 0]
    for process in running:
        assert process.stdout is not None
        process.stdout.close()
    found = kept(tmp_path)
    assert len(found) == 20 and all(is_whole(path) for path in found)


# Views ----------------------------------------------------------------------------------------------------------------


def test_the_first_view_is_the_window_as_it_is() -> None:
    assert augmented(VIEW, 0, 7, 0.1) == VIEW
    assert np.array_equal(VIEW.of_image(image()), image())


@given(st.integers(1, 4), st.integers(0, 99), st.integers(0, 9))
def test_further_views_turn_image_and_labels_alike_and_never_flip(number: int, seed: int, key: int) -> None:
    plain = View(str(key), (0, 0, 0), (SIDE, SIDE, 8))
    view = augmented(plain, number, seed, 0.1)
    assert view == augmented(plain, number, seed, 0.1)
    case = prepared(0, ("liver",))
    seen = view.of_image(case.image)
    assert (
        np.allclose(seen, np.rot90(case.image[:, :, :8], view.turns) + view.shift) and abs(view.shift) <= 0.1
    )
    assert np.array_equal(
        view.of_labels(case.labels["liver"], 255), np.rot90(case.labels["liver"][:, :, :8], view.turns)
    )


def test_views_differ_by_number_seed_and_case() -> None:
    views = [
        augmented(replace(VIEW, key=key), n, seed, 0.1) for key in "ab" for n in (1, 2) for seed in (0, 1)
    ]
    assert len({(view.turns, view.shift) for view in views}) == 8


def test_a_window_that_is_not_square_is_not_turned() -> None:
    assert {augmented(View("k", (0, 0, 0), (16, 8, 8)), n, 0, 0.1).turns for n in range(20)} == {0}


def test_tuning_learns_from_every_view(tmp_path: Path) -> None:
    assert losses(tmp_path / "a", views=3) != losses(tmp_path / "b", views=1)
    assert len(kept(tmp_path / "a")) == 6 and len(kept(tmp_path / "b")) == 2


# Sub-patches ----------------------------------------------------------------------------------------------------------


@given(
    st.tuples(*[st.integers(-40, 60)] * 3),
    st.tuples(*[st.sampled_from([2, 4, 8, 16])] * 3),
)
def test_an_aligned_sub_patch_is_inside_the_window_and_on_the_stride(
    corner: tuple[int, int, int], size: tuple[int, int, int]
) -> None:
    features = WindowFeatures(WHOLE, (2, 2, 2))
    got = features.aligned(corner, size)
    for c, s, asked in zip(got, size, corner, strict=True):
        assert c % 2 == 0 and 0 <= c <= SIDE - s
        assert abs(c - asked) <= 1 or c in (0, SIDE - s)


@given(st.tuples(*[st.integers(1, 40)] * 3), st.floats(0, 0.9))
def test_windows_cover_the_volume(shape: tuple[int, int, int], overlap: float) -> None:
    seen = np.zeros(shape, bool)
    for x, y, z in window_corners(shape, (8, 8, 8), overlap):
        seen[x : x + 8, y : y + 8, z : z + 8] = True
    assert seen.all()
