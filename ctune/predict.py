"""Predict a case: sliding window with a Gaussian over the network grid, then back onto the CT's own grid."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from monai.inferers import sliding_window_inference

from ctune.config import Config
from ctune.data.files import read_json, write_json
from ctune.data.nifti import read_probabilities, write_mask, write_probabilities
from ctune.data.preprocess import Frame, to_network, to_source
from ctune.errors import DataError
from ctune.model.network import Network
from ctune.types import Case, Grid, Mask, Prediction, Probabilities

Axis = Literal["x", "y", "z"]
_AXIS = {"x": 2, "y": 3, "z": 4}


def predict_case(
    network: Network,
    case: Case,
    config: Config,
    *,
    model: str,
    classes: Sequence[str] | None = None,
    flips: Sequence[Axis] = (),
) -> Prediction:
    """Probabilities of `classes` (all of the network's by default) on the CT's own grid.

    `model` is the digest that the prediction carries as its origin. With `flips`, axes of the network grid (R, A, S),
    the network also sees the mirrored volume once an axis, and `inconsistency` is the population standard deviation
    over all these members; `probabilities` always come from the unflipped pass alone, so that a prediction does not
    depend on whether its consistency was asked for. Raises UnknownClassError for a class that the network lacks.
    """
    names = tuple(network.classes if classes is None else classes)
    volume, frame = to_network(case, config.preprocessing)
    plain = _probabilities(network, volume, names, config)
    inconsistency = None
    if flips:
        inconsistency = _to_source_clipped(_spread(network, volume, names, config, plain, flips), frame)
    return Prediction(case.id, names, _to_source_clipped(plain, frame), case.grid, model, inconsistency)


def _spread(
    network: Network,
    volume: npt.NDArray[np.float32],
    names: Sequence[str],
    config: Config,
    plain: Probabilities,
    flips: Sequence[Axis],
) -> Probabilities:
    # Two running sums instead of all members at once: memory does not grow with their number.
    # The sums are of differences to the plain pass, where single precision does not cancel.
    total, squares = np.zeros_like(plain), np.zeros_like(plain)
    for axis in flips:
        flipped = np.flip(volume, _AXIS[axis] - 2)
        difference = np.flip(_probabilities(network, flipped, names, config), _AXIS[axis] - 1) - plain
        total += difference
        squares += difference**2
    members = len(flips) + 1
    variance = squares / members - (total / members) ** 2
    return np.sqrt(np.maximum(variance, 0.0, out=variance), out=variance)


def _probabilities(
    network: Network, volume: npt.NDArray[np.float32], names: Sequence[str], config: Config
) -> Probabilities:
    """(X', Y', Z') float32 in [0, 1] on the network grid -> (K, X', Y', Z') float32."""
    if not names:
        return np.zeros((0, *volume.shape), dtype=np.float32)
    settings, device = config.inference, next(network.parameters()).device
    image = torch.from_numpy(np.ascontiguousarray(volume))[None, None]
    network.eval()
    with torch.inference_mode():
        logits = sliding_window_inference(
            image,
            settings.patch_size,
            settings.windows_per_batch,
            lambda window: network(window, names),
            overlap=settings.overlap,
            mode="gaussian",
            sw_device=device,
            device=torch.device("cpu"),
        )
    probabilities: Probabilities = torch.sigmoid(logits[0].float()).numpy()
    return probabilities


def _to_source_clipped(probabilities: Probabilities, frame: Frame) -> Probabilities:
    source = to_source(probabilities, frame)
    return np.clip(source, 0.0, 1.0, out=source) if source.flags.writeable else np.clip(source, 0.0, 1.0)


def masks_of(prediction: Prediction, threshold: float) -> dict[str, Mask]:
    """{class: (X, Y, Z) uint8}, 1 where the probability exceeds `threshold`."""
    return {
        name: (prediction.probabilities[k] > threshold).astype(np.uint8)
        for k, name in enumerate(prediction.classes)
    }


def write_prediction(folder: Path, prediction: Prediction, threshold: float) -> None:
    """Write a prediction to ``folder``: a mask and a probability per class, and last ``prediction.json``.

    Probabilities are stored in steps of 1/255. A folder without ``prediction.json`` is an unfinished one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name, mask in masks_of(prediction, threshold).items():
        write_mask(folder / f"{name}.nii.gz", mask, prediction.grid)
    write_probabilities(folder / "probabilities.nii.gz", prediction.probabilities, prediction.grid)
    if prediction.inconsistency is not None:
        write_probabilities(folder / "inconsistency.nii.gz", prediction.inconsistency, prediction.grid)
    about = {
        "case": prediction.case_id,
        "classes": list(prediction.classes),
        "model": prediction.model,
        "threshold": threshold,
        "inconsistency": prediction.inconsistency is not None,
        "volumes_ml": {
            name: round(float((p > threshold).sum()) * prediction.grid.voxel_ml, 3)
            for name, p in zip(prediction.classes, prediction.probabilities, strict=True)
        },
    }
    write_json(folder / "prediction.json", about)


def prediction_is_whole(folder: Path, model: str, classes: Sequence[str] | None = None) -> bool:
    """True when ``folder`` holds a finished prediction of this model (and of at least these classes)."""
    path = folder / "prediction.json"
    if not path.exists():
        return False
    about = read_json(path)
    return about["model"] == model and set(classes or ()) <= set(about["classes"])


def read_prediction(folder: Path, grid: Grid) -> Prediction:
    """Read what ``write_prediction`` wrote. Raises DataError when it is unfinished or on another grid."""
    path = folder / "prediction.json"
    if not path.exists():
        raise DataError(
            f"expected a finished prediction in {folder}, found no prediction.json; predict the case again"
        )
    about = read_json(path)
    return Prediction(
        about["case"],
        tuple(about["classes"]),
        read_probabilities(folder / "probabilities.nii.gz", grid),
        grid,
        about["model"],
        read_probabilities(folder / "inconsistency.nii.gz", grid) if about["inconsistency"] else None,
    )
