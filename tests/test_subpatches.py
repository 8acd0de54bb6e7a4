"""What heads are tuned on: sub-patches inside their window, around the organ however small, and around mistakes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from small_network import SIDE, config, network

from ctune.config import Tuning
from ctune.continual import add_missing_heads
from ctune.data.prepared import PreparedCase
from ctune.errors import ModelError
from ctune.model.base import Features
from ctune.model.features import Corner, LiveFeatures, WindowFeatures, window_corners
from ctune.subpatches import SubPatches, Window, chosen_windows, covering, feature_windows, neighbours
from ctune.tune import tune_heads
from ctune.types import UNLABELLED

CPU = torch.device("cpu")
WHOLE = (SIDE, SIDE, SIDE)
TINY = (slice(10, 13), slice(10, 12), slice(4, 9))
"""30 voxels."""


class Where(WindowFeatures):
    """A window whose features are where each voxel is: map channels 0 to 2 are its coordinates, 3 is `number`."""

    def __init__(self, number: int, stride: int = 2) -> None:
        super().__init__(WHOLE, (stride,) * 3)
        self.map = torch.zeros((1, 8, *WHOLE))
        self.map[0, :3] = torch.stack(torch.meshgrid(*[torch.arange(SIDE)] * 3, indexing="ij"))
        self.map[0, 3] = number

    def read(self, corner: Corner, size: Corner) -> Features:
        assert all(c >= 0 and c + s <= whole for c, s, whole in zip(corner, size, WHOLE, strict=True))
        x, y, z = (slice(c, c + s) for c, s in zip(corner, size, strict=True))
        part = self.map[:, :, x, y, z]
        return Features(part, (), (), part, torch.zeros((1, 256)))


def window(number: int, mask: np.ndarray, stride: int = 2) -> Window:
    return Window(
        f"case_{number}", Where(number, stride), {"spleen": mask}, {"spleen": np.argwhere(mask == 1)}
    )


def twelve() -> list[Window]:
    """Twelve cases without a spleen but for the tiny one in case 4."""
    masks = [np.zeros(WHOLE, np.uint8) for _ in range(12)]
    masks[4][TINY] = 1
    return [window(i, mask) for i, mask in enumerate(masks)]


def tuning(**changes: object) -> Tuning:
    return config().tune.model_copy(update={"batch_size": 100, **changes})


def numbers(features: Features) -> np.ndarray:
    return features.map[:, 3, 0, 0, 0].numpy()


# Where they lie -------------------------------------------------------------------------------------------------------


@examples(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 1000),
    size=st.tuples(*[st.sampled_from([4, 8, 16])] * 3),
    stride=st.sampled_from([1, 2, 4]),
    share=st.sampled_from([0.0, 0.5, 1.0]),
)
def test_sub_patches_are_inside_their_window_on_the_stride_and_have_its_labels(
    seed: int, size: Corner, stride: int, share: float
) -> None:
    labels = np.random.default_rng(seed).choice(np.array([0, 1, UNLABELLED], np.uint8), WHOLE)
    pool = SubPatches(
        [window(0, labels, stride)], "spleen", tuning(patch_size=size, positive_share=share, batch_size=4)
    )
    features, target = pool.draw(np.random.default_rng(seed))
    assert features.map.shape[2:] == size and target.shape == (4, 1, *size)
    for at, got in zip(features.map[:, :3].numpy().astype(int), target.numpy()[:, 0], strict=True):
        assert all(int(c) % stride == 0 for c in at[:, 0, 0, 0])
        assert np.array_equal(got, labels[tuple(at)])


def test_the_same_seed_draws_the_same() -> None:
    draws = [
        SubPatches(twelve(), "spleen", tuning()).draw(np.random.default_rng(s))[0].map for s in (1, 1, 2)
    ]
    assert torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2])


def test_no_window_is_refused() -> None:
    with pytest.raises(
        ModelError, match="at least one case with an annotation of spleen, got none; revise one first"
    ):
        SubPatches([], "spleen", tuning())


# Balance --------------------------------------------------------------------------------------------------------------


def test_an_organ_of_thirty_voxels_in_one_case_of_twelve_is_in_two_of_three_sub_patches() -> None:
    _, target = SubPatches(twelve(), "spleen", tuning(batch_size=600)).draw(np.random.default_rng(0))
    seen = (target == 1).flatten(1).any(dim=1).float().mean()
    assert 0.6 < float(seen) < 0.8


def test_the_others_come_from_every_case() -> None:
    features, _ = SubPatches(twelve(), "spleen", tuning(positive_share=0.0)).draw(np.random.default_rng(0))
    assert set(numbers(features)) == set(range(12))


def tiny_cases() -> list[PreparedCase]:
    """A large organ of another intensity in every case, the tiny one in case 4."""
    out = []
    for index in range(12):
        image = np.random.default_rng(index).normal(0.3, 0.02, WHOLE).astype(np.float32)
        image[2:9, 2:9, 2:12] = 0.6
        mask = np.zeros(WHOLE, np.uint8)
        if index == 4:
            image[TINY], mask[TINY] = 0.9, 1
        out.append(PreparedCase(f"case_{index}", f"tiny_{index}", image, {"spleen": mask}))
    return out


@pytest.mark.parametrize("hard_share", [0.0, 0.5])
def test_an_organ_of_thirty_voxels_in_one_case_of_twelve_is_found(tmp_path: Path, hard_share: float) -> None:
    net, cases = network(("liver",)), tiny_cases()
    add_missing_heads(net, ["spleen"], config(), seed=0)
    settings = config().tune.model_copy(update={"epochs": 8, "hard_share": hard_share})
    tune_heads(
        net, ("spleen",), cases, settings, window=WHOLE, overlap=0.0, seed=0, device=CPU, cache=tmp_path
    )
    with torch.no_grad():
        found = [
            net(torch.from_numpy(np.array(c.image))[None, None], ["spleen"])[0, 0].numpy() > 0 for c in cases
        ]
    right = int(found[4][TINY].sum())
    assert 2 * right / (found[4].sum() + 30) > 0.7
    assert sum(int(mask.sum()) for i, mask in enumerate(found) if i != 4) < 30


# Mistakes -------------------------------------------------------------------------------------------------------------


def mistaken_at(places: Mapping[int, Sequence[tuple[int, int, int]]], pool: SubPatches) -> int:
    """Let the pool look at a head that finds the class in `places` {window: voxels} and nowhere else."""

    def logits(features: Features) -> torch.Tensor:
        out = torch.full((1, 1, *WHOLE), -5.0)
        for voxel in places.get(int(numbers(features)[0]), ()):
            out[(0, 0, *voxel)] = 5.0
        return out

    return pool.mine(logits)


def test_mistakes_are_what_is_found_where_an_annotation_says_no() -> None:
    windows = twelve()
    windows[7].labels["spleen"][:8] = UNLABELLED
    pool = SubPatches(windows, "spleen", tuning())
    places = {4: [(11, 11, 5), (2, 2, 2)], 7: [(3, 3, 3)], 9: [(14, 1, 1)]}
    assert mistaken_at(places, pool) == 2
    got = {w.case_id: voxels.tolist() for w, voxels in pool.mistaken}
    assert got == {"case_4": [[2, 2, 2]], "case_9": [[14, 1, 1]]}


def test_the_share_of_the_others_is_around_mistakes() -> None:
    pool = SubPatches(twelve(), "spleen", tuning(positive_share=0.0, hard_share=0.5, batch_size=600))
    mistaken_at({9: [(14, 1, 1)]}, pool)
    features, _ = pool.draw(np.random.default_rng(0))
    assert 0.5 < float((numbers(features) == 9).mean()) < 0.6


def test_a_head_that_makes_no_mistake_forgets_the_old_ones() -> None:
    pool = SubPatches(twelve(), "spleen", tuning(hard_share=1.0))
    mistaken_at({9: [(14, 1, 1)]}, pool)
    assert mistaken_at({}, pool) == 0
    assert pool.mistaken == [] and len(set(numbers(pool.draw(np.random.default_rng(0))[0]))) > 1


def test_heads_with_mistakes_of_their_own_are_tuned_alone_or_together_with_the_same_result(
    tmp_path: Path,
) -> None:
    weights = []
    for classes in (("spleen",), ("liver", "spleen")):
        net = network()
        cases = [
            PreparedCase(
                c.case_id, c.key, c.image, {"spleen": c.labels["spleen"], "liver": c.labels["spleen"]}
            )
            for c in tiny_cases()
        ]
        settings = config().tune.model_copy(update={"epochs": 2, "hard_share": 1.0, "mine_every": 1})
        tune_heads(
            net, classes, cases, settings, window=WHOLE, overlap=0.0, seed=0, device=CPU, cache=tmp_path
        )
        weights.append(torch.cat([p.detach().flatten() for p in net.head("spleen").parameters()]))
    assert torch.equal(*weights)


# Neighbours -----------------------------------------------------------------------------------------------------------


def beside(size: int, **labels: np.ndarray) -> list[list[int]]:
    found: list[list[int]] = neighbours(labels, "spleen", (size,) * 3).tolist()
    return found


def test_neighbours_are_voxels_of_other_classes_within_half_a_sub_patch() -> None:
    spleen, liver = np.zeros(WHOLE, np.uint8), np.zeros(WHOLE, np.uint8)
    spleen[6:8, 6:8, 6:8] = 1
    for near_or_far in ((4, 6, 6), (3, 6, 6), (9, 9, 9), (6, 6, 15), (7, 7, 7)):
        liver[near_or_far] = 1
    assert beside(4, spleen=spleen, liver=liver) == [[4, 6, 6], [9, 9, 9]], (
        "far ones, and the spleen's own, are none"
    )
    spleen[4, 6, 6] = UNLABELLED
    assert beside(4, spleen=spleen, liver=liver) == [[9, 9, 9]], (
        "where nobody said that it is no spleen, none is taken"
    )
    assert beside(4, spleen=spleen) == [] and beside(4, spleen=np.zeros_like(spleen), liver=liver) == []


def with_liver() -> list[PreparedCase]:
    """The large organ as a liver beside the tiny spleen of case 4."""
    out = []
    for case in tiny_cases():
        liver = np.zeros(WHOLE, np.uint8)
        liver[2:9, 2:9, 2:12] = 1
        out.append(PreparedCase(case.case_id, case.key, case.image, {**case.labels, "liver": liver}))
    return out


def test_the_share_of_the_others_is_around_neighbours() -> None:
    settings = tuning(positive_share=0.0, neighbour_share=0.5, batch_size=600, patch_size=(8, 8, 8))
    source = LiveFeatures(network().base, CPU)
    found = feature_windows(source, with_liver(), ("spleen",), WHOLE, 0.0, settings, 0, lambda _: None)
    assert [w.case_id for w in found if len(w.neighbours["spleen"])] == ["case_4"]
    assert all(set(w.labels) == {"spleen"} for w in found), "what is taught is the spleen alone"
    windows = [Window(w.case_id, Where(i), w.labels, w.foreground, w.neighbours) for i, w in enumerate(found)]
    features, _ = SubPatches(windows, "spleen", settings).draw(np.random.default_rng(0))
    assert 0.5 < float((numbers(features) == 4).mean()) < 0.6
    plain = SubPatches(windows, "spleen", settings.model_copy(update={"neighbour_share": 0.0}))
    assert plain.beside == []


def test_neighbours_are_the_same_whichever_heads_are_tuned_together(tmp_path: Path) -> None:
    weights = []
    for classes in (("spleen",), ("liver", "spleen")):
        net, settings = network(), config().tune.model_copy(update={"epochs": 2, "neighbour_share": 1.0})
        tune_heads(
            net, classes, with_liver(), settings, window=WHOLE, overlap=0.0, seed=0, device=CPU, cache=tmp_path
        )  # fmt: skip
        weights.append(torch.cat([p.detach().flatten() for p in net.head("spleen").parameters()]))
    assert torch.equal(*weights)


# Windows --------------------------------------------------------------------------------------------------------------


def test_only_cases_of_the_classes_give_windows_each_in_so_many_views() -> None:
    cases = tiny_cases()[:3]
    cases[2] = PreparedCase("case_2", "k", cases[2].image, {"liver": cases[2].labels["spleen"]})
    source = LiveFeatures(network().base, CPU)
    got = feature_windows(source, cases, ["spleen"], WHOLE, 0.0, tuning(views=2), 0, lambda _: None)
    assert [w.case_id for w in got] == ["case_0", "case_0", "case_1", "case_1"]


# Which windows are kept -----------------------------------------------------------------------------------------------


def long_case(key: str = "ct") -> PreparedCase:
    """Sixteen windows in a row; the spleen in the third, the liver in the last two."""
    image = np.zeros((16 * SIDE, SIDE, SIDE), np.float32)
    spleen, liver = np.zeros(image.shape, np.uint8), np.zeros(image.shape, np.uint8)
    spleen[2 * SIDE + 3, 3, 3] = 1
    liver[14 * SIDE + 1 :, 2, 2] = 1
    return PreparedCase(key, key, image, {"spleen": spleen, "liver": liver})


def kept(case: PreparedCase, classes: Sequence[str], count: int, name: str) -> set[int]:
    found = chosen_windows(case, classes, WHOLE, 0.0, tuning(background_windows=count), 0)
    return {corner[0] // SIDE for corner, names in found.items() if name in names}


def test_windows_with_the_class_are_kept_and_a_few_without_it() -> None:
    case = long_case()
    assert kept(case, ["spleen"], 0, "spleen") == {2}
    assert kept(case, ["liver"], 0, "liver") == {14, 15}
    some = kept(case, ["spleen"], 5, "spleen")
    assert len(some) == 6 and 2 in some
    assert some < kept(case, ["spleen"], 9, "spleen"), "more of them keeps those that were there"
    assert kept(case, ["spleen"], 99, "spleen") == set(range(16))
    assert some != kept(long_case("another"), ["spleen"], 5, "spleen")


def test_what_a_class_learns_from_does_not_depend_on_its_company() -> None:
    case = long_case()
    assert kept(case, ["spleen"], 4, "spleen") == kept(case, ["liver", "spleen"], 4, "spleen")


def test_a_class_that_nobody_annotated_keeps_no_window() -> None:
    assert chosen_windows(long_case(), ["aorta"], WHOLE, 0.0, tuning(), 0) == {}


@examples(max_examples=60, deadline=None)
@given(seed=st.integers(0, 999), side=st.sampled_from([4, 8]), overlap=st.sampled_from([0.0, 0.25, 0.5]))
def test_a_cover_holds_every_voxel_with_no_window_to_spare(seed: int, side: int, overlap: float) -> None:
    rng = np.random.default_rng(seed)
    mask = np.zeros((14, 11, 9), np.uint8)
    mask[tuple(rng.integers(0, s, 12) for s in mask.shape)] = 1
    size = (side, side, side)
    corners = window_corners(mask.shape, size, overlap)
    chosen = covering(mask, corners, size)
    assert len(set(chosen)) == len(chosen) and set(chosen) <= set(corners)
    seen = np.zeros_like(mask)
    for x, y, z in chosen:
        seen[x : x + side, y : y + side, z : z + side] = 1
    assert (seen[mask == 1] == 1).all()
    assert len(chosen) <= mask.sum()


def test_a_small_organ_in_the_middle_takes_one_window_that_sees_its_surroundings() -> None:
    mask = np.zeros((32, 32, 32), np.uint8)
    mask[15:18, 15:18, 15:18] = 1
    corners = window_corners(mask.shape, (16, 16, 16), 0.5)
    assert len(corners) == 27
    assert covering(mask, corners, (16, 16, 16)) == [(8, 8, 8)]
