"""Phantoms: the same seed gives the same bytes, the anatomy is that of a person, and every size shows one patient."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from ctune.classes import NINE_ORGANS
from ctune.data.files import read_json, sha256_of
from ctune.data.layouts import detect, find_cases
from ctune.data.nifti import read_case, read_mask
from ctune.data.phantom import SIZES, Phantom, cohort, make_phantom, paint, write_cohort
from ctune.data.phantom.anatomy import draw_anatomy
from ctune.data.phantom.scan import LabelMasks
from ctune.data.phantom.shapes import Cut, Ellipsoid, Shape, Tube, Union, rotation
from ctune.data.phantom.tissue import HU, PHASES
from ctune.errors import UsageError

SEED = 5


@pytest.fixture(scope="module")
def patients() -> list[Phantom]:
    return [make_phantom(SEED, index) for index in range(14)]


def centre_mm(phantom: Phantom, name: str) -> np.ndarray:
    affine = phantom.case.grid.affine
    return affine[:3, :3] @ np.argwhere(phantom.masks[name]).mean(axis=0) + affine[:3, 3]


def files_of(folder: Path) -> dict[str, str]:
    return {str(p.relative_to(folder)): sha256_of(p) for p in sorted(folder.rglob("*")) if p.is_file()}


# Determinism


def test_a_case_depends_on_seed_and_index_alone() -> None:
    one, again = make_phantom(SEED, 3), make_phantom(SEED, 3)
    assert one.case.volume.tobytes() == again.case.volume.tobytes()
    assert all(one.masks[name].tobytes() == again.masks[name].tobytes() for name in NINE_ORGANS)
    assert one.phase == again.phase
    for other in (make_phantom(SEED, 4), make_phantom(SEED + 1, 3)):
        assert (one.case.volume != other.case.volume).mean() > 0.3


def test_written_files_are_the_same_bytes_whatever_the_number_of_cases(tmp_path: Path) -> None:
    assert write_cohort(tmp_path / "two", 2, SEED) == ["phantom_0000", "phantom_0001"]
    write_cohort(tmp_path / "three", 3, SEED)
    two, three = files_of(tmp_path / "two"), files_of(tmp_path / "three")
    assert len(two) == 2 * (1 + 9 + 1) + 1
    assert two == {path: digest for path, digest in three.items() if "0002" not in path}


def test_threads_do_not_change_a_byte() -> None:
    code = (
        "import hashlib; from ctune.data.phantom import make_phantom; p = make_phantom(5, 1, 'medium');"
        "print(hashlib.sha256(p.case.volume.tobytes() + p.masks.labels.tobytes()).hexdigest())"
    )
    found = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "OMP_NUM_THREADS": threads, "OPENBLAS_NUM_THREADS": threads},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for threads in ("1", "2")
    }
    assert len(found) == 1


def test_other_phantoms_are_another_version() -> None:
    """A cohort on disk grows only with phantoms of its own kind: whoever changes them changes VERSION, and this."""
    phantom = make_phantom(0, 0)
    counts = {
        name: int(phantom.masks[name].sum()) for name in ("liver", "kidney_left", "pancreas", "gall_bladder")
    }
    assert cohort.VERSION == 2
    assert counts == pytest.approx(
        {"liver": 5034, "kidney_left": 286, "pancreas": 223, "gall_bladder": 77}, rel=0.03
    )
    air = phantom.case.volume[:, -2:, :]
    assert air.std() == pytest.approx(21.2, rel=0.03)


# Anatomy


def test_organs_lie_where_they_do_in_a_person(patients: list[Phantom]) -> None:
    """World x grows towards the patient's right, y to the front, z upwards (RAS+)."""
    for phantom in patients:
        at = {name: centre_mm(phantom, name) for name in NINE_ORGANS if phantom.masks[name].any()}
        x = {name: p[0] for name, p in at.items()}
        assert min(x["liver"], x["kidney_right"], x.get("gall_bladder", 50)) > 15
        assert max(x["spleen"], x["stomach"], x["kidney_left"]) < -15
        assert x["aorta"] < 0 < x["postcava"]
        assert at["pancreas"][1] > max(at["aorta"][1], at["kidney_left"][1], at["kidney_right"][1])
        assert at["liver"][2] > at["kidney_right"][2]
        if "gall_bladder" in at:
            assert at["gall_bladder"][1] > at["kidney_right"][1]
        spine = ndimage.label(phantom.case.volume > 250)[0]
        largest = spine == 1 + np.argmax(np.bincount(spine.ravel())[1:])
        bone = (
            phantom.case.grid.affine[:3, :3] @ np.argwhere(largest).mean(axis=0)
            + phantom.case.grid.affine[:3, 3]
        )
        assert min(at["aorta"][1], at["postcava"][1]) > bone[1]


def test_organs_have_the_size_of_an_adults(patients: list[Phantom]) -> None:
    limits = {
        "spleen": (50, 450),
        "kidney_right": (60, 320),
        "kidney_left": (60, 320),
        "pancreas": (30, 170),
        "liver": (700, 2300),
        "stomach": (120, 800),
        "aorta": (50, 200),
        "postcava": (60, 260),
        "gall_bladder": (5, 60),
    }
    for phantom in patients:
        for name, (low, high) in limits.items():
            ml = phantom.masks[name].sum() * phantom.case.grid.voxel_ml
            assert low < ml < high or (name == "gall_bladder" and ml == 0), (phantom.case.id, name, ml)


def test_organs_are_disjoint_and_inside_the_body(patients: list[Phantom]) -> None:
    for phantom in patients:
        together = np.sum([phantom.masks[name] for name in NINE_ORGANS], axis=0)
        assert together.max() == 1
        assert phantom.case.volume[together == 1].min() > -1024
        # One voxel in from the edge of the image is still body.
        assert together[0].max() == together[-1].max() == together[:, 0].max() == together[:, -1].max() == 0


def test_some_patients_lack_a_gall_bladder_and_some_have_gas_in_the_stomach() -> None:
    drawn = [draw_anatomy(np.random.default_rng([SEED, i])) for i in range(400)]
    missing = np.mean(["gall_bladder" not in a.classes for a in drawn])
    gas = np.mean([s.gas_above_y is not None for a in drawn for s in a.structures if s.tissue == "stomach"])
    assert 0.09 < missing < 0.2
    assert 0.32 < gas < 0.48
    assert all(set(NINE_ORGANS) - {"gall_bladder"} <= set(a.classes) for a in drawn)


def test_every_phase_comes_and_shows_in_the_intensities(patients: list[Phantom]) -> None:
    assert {p.phase for p in patients} == set(PHASES)
    for phantom in patients:
        phase = PHASES.index(phantom.phase)
        for name in ("liver", "spleen", "aorta"):
            core = ndimage.binary_erosion(phantom.masks[name], iterations=1)
            if core.sum() < 20:
                continue
            mean = float(phantom.case.volume[core].mean())
            # Vessels are a few voxels wide: the blur takes from them.
            assert HU[name][phase] * 0.7 - 30 < mean < HU[name][phase] + 30, (phantom.case.id, name, mean)


def test_air_fat_gas_and_bone_have_their_intensities() -> None:
    volume = make_phantom(SEED, 0, "medium").case.volume
    assert abs(volume[0, 0].mean() + 1000) < 5
    values = ndimage.uniform_filter(volume, 3)
    shares = [
        float(((values > low) & (values < high)).mean())
        for low, high in ((-120, -80), (20, 130), (-930, -780), (300, 600))
    ]
    assert shares[0] > 0.05
    assert shares[1] > 0.1
    assert shares[2] > 0.002
    assert shares[3] > 0.002
    assert np.array_equal(volume, np.rint(volume)), "a scanner writes whole Hounsfield units"


def test_every_size_shows_the_same_patient() -> None:
    small, medium = make_phantom(SEED, 2), make_phantom(SEED, 2, "medium")
    assert small.phase == medium.phase
    assert small.case.grid.shape == SIZES["small"][0]
    back = np.linalg.inv(medium.case.grid.affine) @ small.case.grid.affine
    index = np.stack(np.meshgrid(*(np.arange(n) for n in small.case.grid.shape), indexing="ij"))
    where = np.tensordot(back[:3, :3], index, 1) + back[:3, 3][:, None, None, None]
    for name in NINE_ORGANS:
        seen = ndimage.map_coordinates(medium.masks[name], where, order=0)
        dice = 2 * (seen & small.masks[name]).sum() / max(1, seen.sum() + small.masks[name].sum())
        assert dice > 0.85 or not medium.masks[name].any(), (name, dice)


def test_another_orientation_is_the_same_patient_in_the_same_place() -> None:
    ras, lps = make_phantom(SEED, 1), make_phantom(SEED, 1, orientation="LPS")
    assert np.array_equal(lps.case.volume[::-1, ::-1], ras.case.volume)
    for name in NINE_ORGANS:
        assert np.array_equal(lps.masks[name][::-1, ::-1], ras.masks[name])
    assert np.allclose(centre_mm(lps, "liver"), centre_mm(ras, "liver"))
    turned = make_phantom(SEED, 1, orientation="SAL")
    assert turned.case.grid.shape == (40, 40, 48)
    assert np.allclose(centre_mm(turned, "spleen"), centre_mm(ras, "spleen"))


def test_what_cannot_be_made_is_refused() -> None:
    with pytest.raises(UsageError, match="expected a size of small, medium, ct; got 'huge'"):
        make_phantom(0, 0, "huge")
    with pytest.raises(UsageError, match="three axis codes such as RAS or LPS, got 'RLS'"):
        make_phantom(0, 0, orientation="RLS")


def test_masks_are_made_of_one_label_map() -> None:
    labels = np.zeros((2, 2, 2), dtype=np.uint8)
    labels[0, 0, 0] = 1 + NINE_ORGANS.index("aorta")
    masks = LabelMasks(labels)
    assert masks["aorta"].sum() == 1
    assert masks["aorta"].dtype == np.uint8
    masks["aorta"][:] = 1
    assert masks["aorta"].sum() == 1, "what a caller does to a mask stays with the caller"
    assert "brain" not in masks
    assert tuple(masks) == NINE_ORGANS


# Shapes

BALL = Ellipsoid(
    np.array([10.0, -5.0, 0.0]), np.array([30.0, 12.0, 20.0]), rotation(np.array([0.3, -0.5, 0.8]))
)
PIPE = Tube(np.array([[-40.0, 0, 0], [0, 20, 10], [30, 0, -20]]), np.array([8.0, 12, 5]))


@pytest.mark.parametrize(
    "shape", [BALL, PIPE, Union([BALL, PIPE]), Cut(BALL, np.array([0.0, 0, 1]), 5.0)], ids=str
)
def test_a_box_holds_its_shape(shape: Shape) -> None:
    axis = np.arange(-70, 71, 2.0, dtype=np.float32)
    x, y, z = np.meshgrid(axis, axis, axis, indexing="ij")
    inside = shape((x, y, z)) < 1
    assert inside.any()
    low, high = shape.box
    for i, at in enumerate((x, y, z)):
        assert low[i] <= at[inside].min() <= at[inside].max() <= high[i]


def test_looking_only_near_a_shape_misses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    quick = make_phantom(SEED, 6)
    monkeypatch.setattr(paint.Slab, "near", lambda slab, shape: (slice(None), slice(None), slice(None)))
    assert np.array_equal(make_phantom(SEED, 6).case.volume, quick.case.volume)


# Cohorts


def test_a_cohort_is_a_data_set_that_ctune_finds(tmp_path: Path) -> None:
    absent = next(
        i for i in range(99) if "gall_bladder" not in draw_anatomy(np.random.default_rng([SEED, i])).classes
    )
    write_cohort(tmp_path, absent + 1, SEED)
    assert detect(tmp_path) == "totalsegmentator"
    found = find_cases(tmp_path)
    assert [case.id for case in found] == [f"phantom_{i:04d}" for i in range(absent + 1)]
    folder, truth = tmp_path / f"phantom_{absent:04d}", make_phantom(SEED, absent)
    case = read_case(folder / "ct.nii.gz", "phantom")
    assert np.array_equal(case.volume, truth.case.volume)
    assert case.grid.matches(truth.case.grid)
    for name in NINE_ORGANS:
        mask = read_mask(folder / "segmentations" / f"{name}.nii.gz", case.grid, name)
        assert np.array_equal(mask, truth.masks[name])
        assert mask.any() == (name != "gall_bladder")
    assert read_json(folder / "phantom.json") == {"phase": truth.phase, "absent": ["gall_bladder"]}


def test_a_cohort_grows_and_what_is_there_stays(tmp_path: Path) -> None:
    write_cohort(tmp_path, 1, SEED)
    before = (tmp_path / "phantom_0000" / "ct.nii.gz").stat()
    seen = []
    write_cohort(tmp_path, 2, SEED, on_progress=seen.append)
    after = (tmp_path / "phantom_0000" / "ct.nii.gz").stat()
    assert (after.st_mtime_ns, after.st_ino) == (before.st_mtime_ns, before.st_ino)
    assert [(step.stage, step.done, step.total) for step in seen] == [("phantom", 1, 2), ("phantom", 2, 2)]


def test_another_cohort_in_the_same_folder_is_refused(tmp_path: Path) -> None:
    write_cohort(tmp_path, 1, SEED)
    before = files_of(tmp_path)
    for seed, size in ((SEED + 1, "small"), (SEED, "medium")):
        with pytest.raises(
            UsageError, match=r"expected an empty folder or the cohort .*'seed': \d.*choose another folder"
        ):
            write_cohort(tmp_path, 1, seed, size)
    assert files_of(tmp_path) == before


@pytest.mark.parametrize(("cases", "seed"), [(0, 0), (1, -1)])
def test_no_cases_and_negative_seeds_are_refused(tmp_path: Path, cases: int, seed: int) -> None:
    with pytest.raises(UsageError, match="expected at least one case and a seed of 0 or more"):
        write_cohort(tmp_path / "new", cases, seed)
    assert not (tmp_path / "new").exists()


def test_a_case_is_there_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_mask, written = cohort.write_mask, []

    def full_disk(path: Path, *rest: object) -> None:
        if len(written) == 12:
            raise OSError(28, "No space left on device")
        written.append(path)
        write_mask(path, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(cohort, "write_mask", full_disk)
    with pytest.raises(OSError, match="No space left"):
        write_cohort(tmp_path, 2, SEED)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["phantom.json", "phantom_0000"]
    assert len(list((tmp_path / "phantom_0000" / "segmentations").iterdir())) == 9


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read where Linux says it")
def test_a_ct_sized_phantom_takes_the_memory_of_a_volume_not_of_nine_masks() -> None:
    # Not getrusage: what it says of a new process begins with the memory of the one that started it.
    code = (
        "from ctune.data.phantom import make_phantom; p = make_phantom(5, 0, 'ct');"
        "assert p.case.volume.shape == (512, 512, 200); status = open('/proc/self/status').read();"
        "print(status.split('VmHWM:')[1].split()[0])"
    )
    peak_kb = int(
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    )
    assert peak_kb < 1_300_000
