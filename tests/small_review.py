"""A project whose round waits for an expert: one slanted CT with three boxes, predictions that are slightly wrong."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np

from ctune.config import preset
from ctune.data.files import write_json
from ctune.data.nifti import write_mask, write_volume
from ctune.importance import CaseImportance, ClassImportance, write_importances
from ctune.project import Project, create_project
from ctune.round import RoundState, folder_of
from ctune.round.state import ArrowDone, now, write_state
from ctune.select import Selected, read_csv, write_csv
from ctune.types import Grid, Split

SHAPE = (40, 36, 20)
_TURN = np.deg2rad(12)
# Left and posterior increase (LPS), turned by 12 degrees about the body's axis, slices thicker than pixels.
AFFINE = np.array(
    [
        [-1.5 * np.cos(_TURN), 1.5 * np.sin(_TURN), 0, 40.0],
        [-1.5 * np.sin(_TURN), -1.5 * np.cos(_TURN), 0, 60.0],
        [0, 0, 3.0, -120.0],
        [0, 0, 0, 1],
    ],
    np.float32,
).astype(np.float64)
GRID = Grid(SHAPE, AFFINE)
BOXES = {
    "liver": (slice(4, 18), slice(6, 24), slice(4, 16)),
    "spleen": (slice(27, 35), slice(14, 24), slice(6, 13)),
    "aorta": (slice(20, 24), slice(22, 26), slice(0, 20)),
}


def box(name: str) -> np.ndarray:
    mask = np.zeros(SHAPE, np.uint8)
    mask[BOXES[name]] = 1
    return mask


def ct(seed: int) -> np.ndarray:
    hu = np.random.default_rng(seed).normal(-80, 12, SHAPE)
    for name, value in (("liver", 120), ("spleen", 60), ("aorta", 230)):
        hu[BOXES[name]] = value
    return np.rint(hu).astype(np.int16)


def image_project(root: Path, image: Path, voxel: tuple[int, int, int]) -> Project:
    """One case, an image from elsewhere, with one new class and a hot spot at `voxel`."""
    made, folder = create_project(root, preset("phantom", classes=("spleen",))), root / "rounds" / "001"
    grid = made.pool.add_case("case_1", image, Split.POOL).grid
    heat = np.zeros(grid.shape, np.uint8)
    heat[voxel] = 255
    write_volume(folder / "attention" / "case_1.nii.gz", heat, grid)
    write_csv(folder / "selection.csv", [Selected(1, "case_1", 1.0, ("spleen",), "spleen: new class")])
    write_importances(folder / "scores.json", [CaseImportance("case_1", 1.0, {})])
    _wait_for_the_expert(made, 1)
    return made


def review_project(root: Path, cases: int = 2, pool: str = "pool") -> Project:
    """`cases` cases in the queue; liver and aorta are predicted (the liver lacks its first slice), spleen is a new class."""
    made = create_project(root, preset("phantom", classes=("liver", "spleen", "aorta"), pool=pool))
    rows, scores = [], []
    for number in range(1, cases + 1):
        case_id, folder = f"case_{number}", folder_of(made, 1)
        write_volume(root / "incoming.nii.gz", ct(number), GRID)
        made.pool.add_case(case_id, root / "incoming.nii.gz", Split.POOL)
        masks = {"liver": box("liver"), "aorta": box("aorta")}
        masks["liver"][:, :, 4] = 0
        for name, mask in masks.items():
            write_mask(folder / "predictions" / case_id / f"{name}.nii.gz", mask, GRID)
        about = {"case": case_id, "classes": list(masks), "model": "0" * 64, "volumes_ml": {}}
        write_json(folder / "predictions" / case_id / "prediction.json", about)
        heat = np.zeros(SHAPE, np.uint8)
        heat[6:14, 8:20, 4], heat[28:31, 15:18, 8] = 200, 255
        write_volume(folder / "attention" / f"{case_id}.nii.gz", heat, GRID)
        why = {
            n: ClassImportance(1.0, 0.6, 0.1, 0.0, 1, 9.0, f"{n}: 0.6 mL uncertain")
            for n in ("liver", "aorta")
        }
        scores.append(CaseImportance(case_id, 3.0 - number, why))
        words = "spleen: new class; liver: 0.6 mL uncertain in 1 region"
        rows.append(Selected(number, case_id, 3.0 - number, ("spleen", "liver"), words))
    write_csv(folder_of(made, 1) / "selection.csv", rows)
    write_importances(folder_of(made, 1) / "scores.json", scores)
    _wait_for_the_expert(made, cases)
    return made


def next_round(made: Project) -> None:
    """Round 2 comes: the first case is in its queue again, with a liver that is predicted elsewhere; the others are not."""
    first, folder = folder_of(made, 1), folder_of(made, 2)
    shutil.copytree(first, folder)
    write_mask(folder / "predictions" / "case_1" / "liver.nii.gz", np.roll(box("liver"), 2, axis=2), GRID)
    rows = read_csv(first / "selection.csv")
    write_csv(folder / "selection.csv", rows[:1])
    _wait_for_the_expert(made, 1, number=2)


def _wait_for_the_expert(made: Project, cases: int, number: int = 1) -> None:
    done = ArrowDone(finished=now(), seconds=0.0)
    state = RoundState(
        number=number, name="small", model="0" * 64, classes=("spleen", "liver"), cases=cases, strategy="importance",
        seed=0, expert="expert", started=now(), arrows=dict.fromkeys(("predict", "score", "select"), done),
    )  # fmt: skip
    write_state(made, state)


def learning_project(root: Path, epochs: int = 1) -> tuple[Project, Callable[[str, str], np.ndarray]]:
    """A trained base and a round for one new class, the stomach, that waits for an expert; and the hidden truth."""
    from ctune.classes import NINE_ORGANS
    from ctune.data.importing import import_cases
    from ctune.data.layouts import find_cases
    from ctune.data.nifti import read_mask
    from ctune.data.phantom import write_cohort
    from ctune.data.splits import Splits
    from ctune.foundation import train_model
    from ctune.optimise import resolve_device
    from ctune.round import start

    config = preset("phantom", name="small", classes=("liver", "stomach"))
    quick = config.model_copy(
        update={
            "train": config.train.model_copy(update={"epochs": 1}),
            "tune": config.tune.model_copy(update={"epochs": epochs}),
        }
    )
    made, truth = create_project(root, quick), root / "truth"
    write_cohort(truth, 4, 0, "small")
    found = find_cases(truth, "totalsegmentator")
    for cases, classes, split in ((found[:3], ("liver",), Split.POOL), (found[3:], NINE_ORGANS, Split.TEST)):
        import_cases(made.pool, cases, classes=classes, splits=Splits(rest=split), author="phantom")
    model, _ = train_model(made, "small", ("liver",), device=resolve_device(quick.device))
    start(made, name="small", model=model, classes=("stomach",), cases=2, expert="dr. a")

    def mask(case_id: str, name: str) -> np.ndarray:
        return read_mask(truth / case_id / "segmentations" / f"{name}.nii.gz", made.pool.grid(case_id), name)

    return made, mask
