"""A network and a project small enough to train in a second, for tests of the loop."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ctune.config import BaseConfig, Config, preset
from ctune.data.prepared import PreparedCase
from ctune.model.base import build_base
from ctune.model.heads import build_head
from ctune.model.network import Network
from ctune.project import Project, create_project
from ctune.types import Grid, Source, Split

SIDE = 16
GRID = Grid((SIDE, SIDE, SIDE), np.diag([-2.0, 2.0, 3.0, 1.0]))
SMALL = BaseConfig(architecture="unet_small", channels=(4, 8))


def config(**changes: object) -> Config:
    """Two boxes at 16^3: patches of 16, two epochs, a U-Net of 4 and 8 channels."""
    size = {
        "patch_size": (SIDE, SIDE, SIDE),
        "patches_per_case": 2,
        "batch_size": 2,
        "epochs": 2,
        "warmup_epochs": 0.5,
    }
    settings: dict[str, object] = {
        "classes": ("liver", "spleen", "aorta"),
        "base": {"architecture": "unet_small", "channels": (4, 8)},
        "heads": {"pyramid_width": 4},
        "train": {**size, "learning_rate": 1e-2, "checkpoint_every": 1},
        "tune": {**size, "patch_size": (8, 8, 8), "learning_rate": 1e-2},
        "inference": {"patch_size": (SIDE, SIDE, SIDE), "overlap": 0.25, "windows_per_batch": 2},
        "selection": {"cases": 2},
        "device": "cpu",
        **changes,
    }
    return preset("phantom", **settings)


def network(classes: tuple[str, ...] = ("liver", "spleen"), seed: int = 0) -> Network:
    """An untrained network with text heads."""
    base = build_base(SMALL, seed)
    return Network(base, {name: build_head(name, "text", base, seed) for name in classes})


def volume(index: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """HU (X, Y, Z) float32 and masks: a bright liver box, a dim spleen box, an aorta rod, all moved by `index`."""
    rng = np.random.default_rng(index)
    masks = {name: np.zeros((SIDE, SIDE, SIDE), dtype=np.uint8) for name in ("liver", "spleen", "aorta")}
    shift = index % 3
    masks["liver"][1 + shift : 7 + shift, 2:9, 3:12] = 1
    masks["spleen"][11 : 14 + shift % 2, 4:9, 5 + shift : 11] = 1
    masks["aorta"][8 + shift % 2, 11:13, :] = 1
    hu = rng.normal(-100, 10, (SIDE, SIDE, SIDE))
    for name, value in (("liver", 110), ("spleen", 30), ("aorta", 200)):
        hu[masks[name] == 1] += value
    return hu.astype(np.float32), masks


def prepared(index: int, classes: tuple[str, ...]) -> PreparedCase:
    """The same in the network's space."""
    hu, masks = volume(index)
    image = np.clip((hu + 175) / 425, 0, 1).astype(np.float32)
    return PreparedCase(f"case_{index}", f"key_{index}", image, {name: masks[name] for name in classes})


def project(root: Path, *, pool: int = 4, test: int = 1, **changes: object) -> tuple[Project, Path]:
    """A project whose pool cases know liver and spleen and whose test cases know all, and the folder of the truth."""
    from ctune.data.nifti import write_mask, write_volume

    made, truth = create_project(root / "project", config(**changes)), root / "truth"
    for index in range(pool + test):
        case_id, (hu, masks) = f"case_{index}", volume(index)
        write_volume(truth / case_id / "ct.nii.gz", hu, GRID)
        for name, mask in masks.items():
            write_mask(truth / case_id / "segmentations" / f"{name}.nii.gz", mask, GRID)
        split = Split.POOL if index < pool else Split.TEST
        known = masks if split == Split.TEST else {n: masks[n] for n in ("liver", "spleen")}
        made.pool.add_case(
            case_id, truth / case_id / "ct.nii.gz", split, known, source=Source.ORIGINAL, author="truth"
        )
    return made, truth
