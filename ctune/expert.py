"""A simulated expert: knows the hidden truth, draws with an unsteady hand, and takes time.

The time model is an assumption, stated so that minutes can be compared between strategies and never taken for measured:
60 s to open a case, 15 s a class that is looked at, 4 s a slice in which something changes and half a second a millilitre changed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from ctune.data.nifti import read_mask
from ctune.errors import PoolError
from ctune.project import Project
from ctune.select import Selected
from ctune.types import Grid, Mask, OnProgress, Progress, Revision, Source, silent

OPEN_SECONDS, CLASS_SECONDS, SLICE_SECONDS, ML_SECONDS = 60.0, 15.0, 4.0, 0.5


def simulate(
    case_id: str,
    truth: Mapping[str, Mask],
    predicted: Mapping[str, Mask],
    grid: Grid,
    rng: np.random.Generator,
    *,
    expert: str = "simulated expert",
    jitter_mm: float = 1.0,
) -> Revision:
    """What an expert would hand in for the classes of `truth`, starting from `predicted` (a class may be missing there).

    truth, predicted: {class: (X, Y, Z) uint8 of 0 and 1} on `grid`. The boundary wanders smoothly by about `jitter_mm`
    (standard deviation); 0 gives the truth exactly, and an absent organ stays absent.
    """
    masks = {name: _unsteady(mask, grid, rng, jitter_mm) for name, mask in truth.items()}
    seconds = OPEN_SECONDS
    for name, mask in masks.items():
        before = predicted.get(name, np.zeros_like(mask))
        changed = mask != before
        seconds += CLASS_SECONDS + SLICE_SECONDS * int(changed.any(axis=(0, 1)).sum())
        seconds += ML_SECONDS * float(changed.sum()) * grid.voxel_ml
    return Revision(case_id, masks, expert, round(seconds, 1))


def _unsteady(mask: Mask, grid: Grid, rng: np.random.Generator, jitter_mm: float) -> Mask:
    if jitter_mm == 0 or not mask.any():
        return mask.copy()
    inside = ndimage.distance_transform_edt(mask, sampling=grid.spacing_mm)
    outside = ndimage.distance_transform_edt(mask == 0, sampling=grid.spacing_mm)
    moved = (inside - outside) + jitter_mm * _wander(mask.shape, grid, rng)
    out = (moved > 0).astype(np.uint8)
    return out if out.any() else mask.copy()


def _wander(shape: tuple[int, ...], grid: Grid, rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """Smooth noise of mean 0 and standard deviation 1 that changes over about 15 mm."""
    noise = ndimage.gaussian_filter(rng.standard_normal(shape), [15.0 / s for s in grid.spacing_mm])
    deviation = float(noise.std())
    return np.asarray(noise / deviation) if deviation > 0 else np.zeros(shape)


def truth_of(folder: Path, case_id: str, classes: Sequence[str], grid: Grid) -> dict[str, Mask]:
    """The hidden truth of a case: ``folder/<case>/segmentations/<class>.nii.gz``. Raises PoolError when one is missing."""
    out = {}
    for name in classes:
        path = folder / case_id / "segmentations" / f"{name}.nii.gz"
        if not path.exists():
            raise PoolError(
                f"case {case_id}: expected the hidden truth of {name} in {path}, found no file; give the cohort's folder"
            )
        out[name] = read_mask(path, grid, f"case {case_id}, {name}")
    return out


def revise_selected(
    project: Project,
    truth: Path,
    selected: Sequence[Selected],
    predicted: Mapping[str, Mapping[str, Mask]],
    *,
    round_number: int,
    expert: str,
    seed: int,
    jitter_mm: float = 1.0,
    on_progress: OnProgress = silent,
) -> None:
    """Let the simulated expert revise each selected case and add the masks to the pool.

    predicted: {case: {class: mask}}. Cases that this round has revised already are left alone, so that a round which was
    killed goes on; each case has random numbers of its own.
    """
    pool = project.pool
    for number, row in enumerate(selected):
        done = {
            a.class_name
            for a in pool.annotations(row.case_id)
            if a.source == Source.REVISED and a.round == round_number
        }
        rng = np.random.default_rng([seed, row.rank])
        grid = pool.grid(row.case_id)
        revision = simulate(
            row.case_id, truth_of(truth, row.case_id, row.classes, grid), predicted.get(row.case_id, {}), grid, rng,
            expert=expert, jitter_mm=jitter_mm,
        )  # fmt: skip
        for name, mask in revision.masks.items():
            if name not in done:
                pool.annotate(
                    row.case_id, name, mask, source=Source.REVISED, author=expert, round=round_number,
                    seconds=revision.seconds / len(revision.masks), note="simulated",
                )  # fmt: skip
        on_progress(Progress("revise", number + 1, len(selected), row.case_id))
