"""Predictions as values: of one case in memory, and of a folder that ``inference.engine`` wrote."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ctune.config import Config
from ctune.data.exchange import Format, read_segmentation
from ctune.data.files import read_json
from ctune.data.nifti import read_labels, read_mask, read_probabilities
from ctune.errors import DataError
from ctune.inference.clock import Clock
from ctune.inference.engine import make_ready, predicted_blocks
from ctune.inference.runtime import TorchRuntime
from ctune.model.network import Network
from ctune.types import Case, Grid, Mask, Prediction, View

__all__ = ["masks_of", "predict_case", "read_masks", "read_prediction", "read_volumes"]


def predict_case(
    network: Network,
    case: Case,
    config: Config,
    *,
    model: str,
    classes: Sequence[str] | None = None,
    views: Sequence[View] = (),
    earlier: Sequence[Network] = (),
) -> Prediction:
    """Probabilities of `classes` (all of the network's by default) on the CT's own grid, all in memory.

    `model` is the digest that the prediction carries as its origin. With `views` the network also sees the volume
    mirrored along axes of its grid (R, A, S), or moved by voxels of it, and `inconsistency` is the population standard
    deviation over all these members; `probabilities` always come from the plain pass alone, so that a prediction does
    not depend on whether its consistency was asked for. `earlier`: networks of former rounds on the same base, whose heads are
    members too at the cost of the heads alone. Raises UnknownClassError for a class that the network lacks.
    """
    runtime, clock = TorchRuntime(network, classes, config.inference, earlier), Clock()
    ready = make_ready(lambda: case, config, clock)
    shape = (len(runtime.classes), *case.grid.shape)
    found = {"probability": np.zeros(shape, dtype=np.float32)}
    if views or earlier:
        found["inconsistency"] = np.zeros(shape, dtype=np.float32)
    for block in predicted_blocks(runtime, ready, config.inference, views=views, above=0.0, clock=clock):
        if block.values is not None:
            values = block.values.permute(2, 1, 0).cpu().numpy()
            x, y, z = (
                slice(a, a + n) for a, n in zip((block.x, block.y, block.z), values.shape, strict=True)
            )
            found[block.kind][block.channel, x, y, z] = values
    return Prediction(
        case.id,
        runtime.classes,
        found["probability"],
        case.grid,
        model,
        found.get("inconsistency"),
        ready.frame.network.spacing_mm,
    )


def masks_of(prediction: Prediction, threshold: float) -> dict[str, Mask]:
    """{class: (X, Y, Z) uint8}, 1 where the probability exceeds `threshold`."""
    return {
        name: (prediction.probabilities[k] > threshold).astype(np.uint8)
        for k, name in enumerate(prediction.classes)
    }


def read_masks(folder: Path, grid: Grid, names: Collection[str] | None = None) -> dict[str, Mask]:
    """{class: (X, Y, Z) uint8} as they were written, from masks or from a label map; all classes, or those of `names`.

    Raises DataError when the prediction is unfinished or on another grid.
    """
    about = _about(folder)
    if about.get("format") in (Format.SEG_NRRD, Format.DICOM_SEG):
        found = read_segmentation(
            folder / Format(about["format"]).file_name, grid, what=f"case {about['case']}"
        )
        return {name: found[name] for name in about["classes"] if names is None or name in names}
    if about.get("labels"):
        labels = read_labels(folder / "labels.nii.gz", grid, about["case"])
        return {
            name: (labels == number).astype(np.uint8)
            for name, number in about["labels"].items()
            if names is None or name in names
        }
    return {
        name: read_mask(folder / f"{name}.nii.gz", grid, f"case {about['case']}, {name}")
        for name in about["classes"]
        if names is None or name in names
    }


def read_volumes(folder: Path) -> dict[str, float]:
    """{class: mL} of a written prediction, of its masks as they are. Raises DataError when it is unfinished."""
    volumes: dict[str, float] = _about(folder)["volumes_ml"]
    return volumes


def read_prediction(folder: Path, grid: Grid) -> Prediction:
    """A prediction that was written with its probabilities (in steps of 1/255).

    Raises DataError when it is unfinished, without probabilities, or on another grid.
    """
    about = _about(folder)
    if not about.get("probabilities", True):
        raise DataError(
            f"expected a prediction with probabilities in {folder}, got masks alone; predict the case again with "
            "--probabilities or --flips"
        )
    return Prediction(
        about["case"],
        tuple(about["classes"]),
        read_probabilities(folder / "probabilities.nii.gz", grid),
        grid,
        about["model"],
        read_probabilities(folder / "inconsistency.nii.gz", grid) if about["inconsistency"] else None,
        tuple(about["network_spacing_mm"]) if "network_spacing_mm" in about else None,
    )


def _about(folder: Path) -> dict[str, Any]:
    path = folder / "prediction.json"
    if not path.exists():
        raise DataError(
            f"expected a finished prediction in {folder}, found no prediction.json; predict the case again"
        )
    found: dict[str, Any] = read_json(path)
    return found
