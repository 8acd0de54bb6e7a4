"""Windows on which an exported network is compared with torch's: of a phantom, and of real CTs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ctune.config import Preprocessing
from ctune.data.nifti import read_case
from ctune.data.phantom import make_phantom
from ctune.data.preprocess import Triple, to_network
from ctune.types import Case


def check_windows(
    settings: Preprocessing, window: Triple, images: Sequence[Path]
) -> dict[str, npt.NDArray[np.float32]]:
    """{"phantom" or the CT's path: (1, 1, *window) float32 from the middle of the image as the network sees it}.

    Raises ImageFileError for a CT that cannot be read.
    """
    found = {"phantom": _middle(make_phantom(0, 0).case, settings, window)}
    for path in images:
        found[str(path)] = _middle(read_case(path, path.name), settings, window)
    return found


def _middle(case: Case, settings: Preprocessing, window: Triple) -> npt.NDArray[np.float32]:
    image, _ = to_network(case, settings)
    out = np.zeros((1, 1, *window), dtype=np.float32)
    have = [min(n, w) for n, w in zip(image.shape, window, strict=True)]
    start = [(n - h) // 2 for n, h in zip(image.shape, have, strict=True)]
    box = tuple(slice(s, s + h) for s, h in zip(start, have, strict=True))
    x, y, z = have
    out[0, 0, :x, :y, :z] = image[box]
    return out
