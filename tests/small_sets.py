"""Small data sets on disk for tests: one CT of 12x10x8 voxels, a few boxes as organs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import nibabel as nib
import numpy as np

from ctune.types import Grid

SHAPE = (12, 10, 8)
# Left-handed, anisotropic, with an origin: a grid on which nothing works by accident. NIfTI holds float32.
AFFINE = np.array(
    [[-0.75, 0, 0, 80.0], [0, 0.8, 0, -40.0], [0, 0, 2.5, 300.5], [0, 0, 0, 1]], np.float32
).astype(np.float64)
GRID = Grid(SHAPE, AFFINE)
SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


def save(path: Path, data: np.ndarray, affine: np.ndarray = AFFINE) -> Path:
    """Write an image as another program would."""
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(data, affine), path)
    return path


def ct(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(-1000, 1000, SHAPE).astype(np.int16)


def box(x: int, width: int = 3, value: int = 1) -> np.ndarray:
    mask = np.zeros(SHAPE, np.uint8)
    mask[x : x + width, 2:6, 2:6] = value
    return mask


def case_folder(
    root: Path,
    case: str,
    organs: Sequence[str] = ("liver", "spleen"),
    seed: int = 0,
    folder: str = "segmentations",
) -> Path:
    """CASE/ct.nii.gz and CASE/segmentations/<organ>.nii.gz; organ i is a box at x = 3 i."""
    save(root / case / "ct.nii.gz", ct(seed))
    for i, organ in enumerate(organs):
        save(root / case / folder / f"{organ}.nii.gz", box(3 * i))
    return root / case


def decathlon(
    root: Path,
    cases: Sequence[str],
    labels: Mapping[str, str] = {"0": "background", "1": "Liver", "2": "Spleen"},
    dtype: type = np.uint8,
) -> Path:
    """dataset.json, imagesTr and labelsTr: box 1 at x = 0, box 2 at x = 3."""
    training = []
    for seed, case in enumerate(cases):
        save(root / "imagesTr" / f"{case}.nii.gz", ct(seed))
        save(root / "labelsTr" / f"{case}.nii.gz", (box(0) + box(3, value=2)).astype(dtype))
        training.append({"image": f"./imagesTr/{case}.nii.gz", "label": f"./labelsTr/{case}.nii.gz"})
    (root / "dataset.json").write_text(json.dumps({"name": "Toy", "labels": labels, "training": training}))
    return root


def files(root: Path) -> dict[str, bytes]:
    """{path: bytes} of every image under a pool: what an import brought, whenever it was."""
    return {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*.nii*"))}
