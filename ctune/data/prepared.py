"""Cases in the network's space, prepared once and read by memory map: memory follows a patch, not the pool.

A prepared image is named after the CT's bytes and the preprocessing, a prepared mask after its own bytes as well. A file
that does not read as what it should be is made again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ctune.config import Preprocessing
from ctune.data.files import write_atomically
from ctune.data.preprocess import labels_to_network, to_network
from ctune.types import Case, Mask, Volume


@dataclass(frozen=True, eq=False)
class PreparedCase:
    """One case on the network's grid; arrays are memory-mapped and read-only.

    key: names the CT's bytes and the preprocessing. image: (X, Y, Z) float32 in [0, 1].
    labels: {class: (X, Y, Z) uint8}, 0, 1 or UNLABELLED. label_keys: {class: names the bytes of its mask}, where known.
    """

    case_id: str
    key: str
    image: Volume
    labels: Mapping[str, Mask]
    label_keys: Mapping[str, str] = field(default_factory=dict)

    def digest(self) -> str:
        """Names everything that training sees of the case."""
        labels = {name: self.label_keys.get(name) or _mask_digest(mask) for name, mask in self.labels.items()}
        return _digest([self.case_id, self.key, labels])


def prepare(
    case_id: str,
    load: Callable[[], Case],
    ct_sha256: str,
    masks: Mapping[str, Mask],
    settings: Preprocessing,
    folder: Path,
) -> PreparedCase:
    """The case and its masks (on the CT's grid) on the network's grid, from `folder` where they are there already.

    `load` reads the CT and is called only when something is missing. Raises what it raises.
    """
    key = _digest([ct_sha256, settings.model_dump(mode="json")])
    paths = {name: folder / f"{_digest([key, _mask_digest(mask)])}.mask.npy" for name, mask in masks.items()}
    image = _read(folder / f"{key}.image.npy", np.float32)
    labels = {name: _read(path, np.uint8) for name, path in paths.items()}
    if image is None or any(mask is None for mask in labels.values()):
        volume, frame = to_network(load(), settings)
        if image is None:
            image = _keep(folder / f"{key}.image.npy", volume)
        for name, found in labels.items():
            if found is None:
                labels[name] = _keep(paths[name], labels_to_network(masks[name], frame))
    ready = {name: mask for name, mask in labels.items() if mask is not None}
    return PreparedCase(case_id, key, image, ready, {name: path.name for name, path in paths.items()})


def _keep(path: Path, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    with write_atomically(path) as temporary, temporary.open("wb") as file:
        np.save(file, np.ascontiguousarray(array), allow_pickle=False)
    kept: npt.NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    return kept


def _read(path: Path, dtype: type[np.generic]) -> npt.NDArray[Any] | None:
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return array if array.dtype == dtype and array.ndim == 3 else None


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:40]


def _mask_digest(mask: Mask) -> str:
    return hashlib.sha256(np.ascontiguousarray(mask).data).hexdigest()
