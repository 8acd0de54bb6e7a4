"""What scoring one large CT takes: 512 x 512 x 200 voxels, nine classes, in a process of its own.

The probabilities are no network's: the organs of a phantom, blurred, with smooth noise on their logits. Scoring reads files, and
these are as large as a prediction's.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

from ctune.classes import NINE_ORGANS
from ctune.config import ImportanceConfig
from ctune.data.files import read_json, write_json
from ctune.data.nifti import read_grid, write_probabilities, write_volume
from ctune.data.phantom import make_phantom
from ctune.importance.case import floor_of, score_crops
from ctune.importance.files import read_crops
from ctune.types import Mask

_SIZES = {"smoke": "small"}


def measure(folder: Path, preset: str, seed: int, recipes: tuple[str, ...]) -> dict[str, Any]:
    """{recipe: seconds to read, score and write, processor seconds, MiB at the peak and before}."""
    if not (folder / "case" / "prediction.json").exists():
        write_case(folder, _SIZES.get(preset, "ct"), seed)
    code = "import sys; from ctune.bench.selection.large import work; work(*sys.argv[1:])"
    found = {}
    for recipe in recipes:
        command = [sys.executable, "-c", code, str(folder), recipe]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"expected {folder} to be scored, got: {done.stderr.strip()[-2000:]}")
        found[recipe] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def write_case(folder: Path, size: str, seed: int) -> None:
    """A case of nine classes as ``ctune predict --flips`` leaves one; ``prediction.json`` comes last."""
    phantom = make_phantom(seed, 3, size)
    grid, rng = phantom.case.grid, np.random.default_rng(seed)
    probabilities = np.zeros((len(NINE_ORGANS), *grid.shape), dtype=np.float32)
    spread = np.zeros_like(probabilities)
    volumes = dict.fromkeys(NINE_ORGANS, 0.0)
    for k, name in enumerate(NINE_ORGANS):
        mask = phantom.masks[name]
        if mask.any():
            box = _box(mask)
            p = _blurred(mask[box], rng)
            probabilities[k][box], spread[k][box] = p, np.minimum(0.5, 1.2 * p * (1 - p))
            volumes[name] = float((p > 0.5).sum() * grid.voxel_ml)
    place = folder / "case"
    write_volume(folder / "ct.nii.gz", phantom.case.volume.astype(np.int16), grid)
    write_probabilities(place / "probabilities.nii.gz", probabilities, grid)
    write_probabilities(place / "inconsistency.nii.gz", spread, grid)
    about = {"case": "case", "classes": list(NINE_ORGANS), "model": "none", "threshold": 0.5, "inconsistency": True,
             "probabilities": True, "volumes_ml": volumes}  # fmt: skip
    write_json(place / "prediction.json", about)


def _box(mask: Mask) -> tuple[slice, ...]:
    found = ndimage.find_objects(mask)[0]
    return tuple(
        slice(max(0, one.start - 12), min(n, one.stop + 12)) for one, n in zip(found, mask.shape, strict=True)
    )


def _blurred(mask: Mask, rng: np.random.Generator) -> Any:
    soft = ndimage.gaussian_filter(mask.astype(np.float32), (3, 3, 1.5))
    noise = ndimage.gaussian_filter(rng.standard_normal(mask.shape).astype(np.float32), (6, 6, 3))
    logit = 1.2 * np.log((soft + 1e-3) / (1 - soft + 1e-3)) + noise / noise.std()
    return 1 / (1 + np.exp(-logit))


def work(folder: str, recipe: str) -> None:
    """Score the case in `folder` and answer on stdout what it took, as JSON: what a process of its own does."""
    place = Path(folder)
    grid, settings = (
        read_grid(place / "ct.nii.gz", "case"),
        ImportanceConfig.model_validate({"recipe": recipe}),
    )
    names = read_json(place / "case" / "prediction.json")["classes"]
    before, times = _peak_mb(), [time.perf_counter()]
    crops = read_crops([place / "case"], grid, names, *floor_of(settings))
    times.append(time.perf_counter())
    found = score_crops("case", crops, grid, settings)
    times.append(time.perf_counter())
    write_volume(place / f"{recipe}.nii.gz", found.attention, grid)
    times.append(time.perf_counter())
    parts = dict(zip(("read", "score", "write"), np.diff(times).round(3).tolist(), strict=True))
    answer = {
        **parts,
        "seconds": round(times[-1] - times[0], 3),
        "cpu_seconds": round(time.process_time(), 3),
        "peak_mb": round(_peak_mb(), 1),
        "before_mb": round(before, 1),
    }
    sys.stdout.write("\n" + json.dumps(answer) + "\n")


def _peak_mb() -> float:
    # A child of a large process begins with its parent's peak in getrusage; VmHWM is this process's own.
    status = Path("/proc/self/status")
    if status.exists():
        line = next(row for row in status.read_text().splitlines() if row.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
