"""A project whose round waits for an expert, for measuring the review page: CTs of noise and ellipsoids, every class predicted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from ctune.classes import NINE_ORGANS
from ctune.config import preset
from ctune.data.files import write_json
from ctune.data.nifti import write_mask, write_volume
from ctune.importance import CaseImportance, write_importances
from ctune.project import Project, create_project
from ctune.round import RoundState, folder_of
from ctune.round.state import ArrowDone, now, write_state
from ctune.select import Selected, write_csv
from ctune.types import Grid, Mask, Split

CLASSES = tuple(NINE_ORGANS)
"""The first is new, so that it is drawn from nothing; the others are predicted."""


def make_project(root: Path, shape: tuple[int, int, int], cases: int, seed: int) -> Project:
    """`cases` CTs of `shape` (X, Y, Z) voxels of 0.8 x 0.8 x 2.5 mm in the queue of round 1."""
    made = create_project(root, preset("phantom", classes=CLASSES))
    folder, grid = folder_of(made, 1), Grid(shape, np.diag([-0.8, -0.8, 2.5, 1.0]))
    masks = [ellipsoid(shape, k) for k in range(len(CLASSES))]
    rows, scores = [], []
    for number in range(1, cases + 1):
        case_id = f"case_{number}"
        write_volume(root / "incoming.nii.gz", ct(masks, np.random.default_rng((seed, number))), grid)
        made.pool.add_case(case_id, root / "incoming.nii.gz", Split.POOL)
        for name, mask in list(zip(CLASSES, masks, strict=True))[1:]:
            write_mask(folder / "predictions" / case_id / f"{name}.nii.gz", mask, grid)
        about = {"case": case_id, "classes": list(CLASSES[1:]), "model": "0" * 64, "volumes_ml": {}}
        write_json(folder / "predictions" / case_id / "prediction.json", about)
        write_volume(folder / "attention" / f"{case_id}.nii.gz", 255 * masks[0], grid)
        scores.append(CaseImportance(case_id, 1.0 / number, {}))
        rows.append(Selected(number, case_id, 1.0 / number, CLASSES[:1], f"{CLASSES[0]}: new class"))
    (root / "incoming.nii.gz").unlink()
    write_csv(folder / "selection.csv", rows)
    write_importances(folder / "scores.json", scores)
    done = ArrowDone(finished=now(), seconds=0.0)
    state = RoundState(
        number=1, name="bench", model="0" * 64, classes=CLASSES[:1], cases=cases, strategy="importance", seed=seed,
        expert="bench", started=now(), arrows=dict.fromkeys(("predict", "score", "select"), done),
    )  # fmt: skip
    write_state(made, state)
    return made


def ellipsoid(shape: tuple[int, int, int], k: int) -> Mask:
    """Organ `k` of nine: an ellipsoid of a tenth of the body's width, on a ring around the middle."""
    at = np.array([0.5 + 0.28 * np.cos(k * 0.7), 0.5 + 0.28 * np.sin(k * 0.7), 0.3 + 0.05 * k])
    x, y, z = (((np.arange(n) / n - c) / 0.1) ** 2 for n, c in zip(shape, at, strict=True))
    inside: Mask = (x[:, None, None] + y[None, :, None] + z[None, None, :] <= 1).astype(np.uint8)
    return inside


def ct(masks: list[Mask], rng: np.random.Generator) -> npt.NDArray[np.int16]:
    """Air, a body of fat with noise, and organs of 20 to 180 HU: (X, Y, Z) HU."""
    shape = masks[0].shape
    x, y = (((np.arange(n) / n - 0.5) / 0.45) ** 2 for n in shape[:2])
    body = (x[:, None] + y[None, :] <= 1)[:, :, None]
    hu = np.where(body, np.int16(-90), np.int16(-1000)) * np.ones(shape, np.int16)
    for k, mask in enumerate(masks):
        hu[mask == 1] = 20 + 20 * k
    noise = rng.normal(0, 12, (*shape[:2], 1)).astype(np.int16)
    for z in range(shape[2]):  # Noise of one slice, turned and mirrored: as dear to unpack as a scanner's.
        hu[:, :, z] += np.roll(noise[:, :, 0], 7 * z, axis=z % 2) * body[:, :, 0]
    return hu
