"""What a case looks like to the base, in few numbers: for choosing cases that differ from each other.

The base's global features (256 numbers, pooled from a window's bottleneck) are averaged over windows that hold body. A pass over
few windows, kept by base and CT: no case is looked at twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from ctune.config import Config
from ctune.data.files import write_atomically
from ctune.data.preprocess import to_network
from ctune.inference.windows import find_body, layout
from ctune.model.base import Base
from ctune.model.features import cut, run_base
from ctune.model.freeze import fingerprint
from ctune.project import Project
from ctune.types import Case, OnProgress, Progress, silent

WINDOWS = 8
"""Windows of a case that are looked at, spread evenly over those with body."""


def global_features(base: Base, case: Case, config: Config, device: torch.device) -> npt.NDArray[np.float32]:
    """(256,) float32: the mean of the base's global features over up to ``WINDOWS`` windows of a CT."""
    image, frame = to_network(case, config.preprocessing)
    settings = config.inference
    body = find_body(image, frame.network.spacing_mm, config.preprocessing)
    found_windows = layout(image.shape, settings.patch_size, settings.overlap, body)
    corners = found_windows.held or found_windows.corners
    at = np.unique(np.linspace(0, len(corners) - 1, min(WINDOWS, len(corners))).astype(int))
    total = np.zeros(0)
    for i in at:
        features = run_base(base, cut(image, corners[i], settings.patch_size, 0.0), device)
        total = np.add(total if total.size else 0.0, features.global_[0].double().cpu().numpy())
    mean: npt.NDArray[np.float32] = (total / len(at)).astype(np.float32)
    return mean


def features_of_cases(
    project: Project,
    base: Base,
    case_ids: Sequence[str],
    device: torch.device,
    on_progress: OnProgress = silent,
) -> dict[str, npt.NDArray[np.float32]]:
    """{case: (256,) float32} of cases of the pool, from the project's cache where they are there."""
    folder = project.cache / "global" / fingerprint(base, modes=False)[:16]
    base = base.to(device).eval()
    out = {}
    for number, case_id in enumerate(case_ids):
        path = folder / f"{project.pool.case(case_id).sha256[:32]}.npy"
        found = _read(path)
        if found is None:
            found = global_features(base, project.pool.load(case_id), project.config, device)
            with write_atomically(path) as temporary, temporary.open("wb") as file:
                np.save(file, found, allow_pickle=False)
        out[case_id] = found
        on_progress(Progress("global features", number + 1, len(case_ids), case_id))
    return out


def _read(path: Path) -> npt.NDArray[np.float32] | None:
    try:
        found = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return found if found.dtype == np.float32 and found.ndim == 1 else None
