"""A model in a few lines of Python: loaded once, then masks for one CT, for several, or as files."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from ctune.cohort import predict_inputs
from ctune.compositions import preprocessing_of
from ctune.config import Config
from ctune.errors import DataError, UsageError
from ctune.inference.behind import ahead
from ctune.inference.clock import Clock
from ctune.inference.engine import Ready, make_ready, predicted_blocks
from ctune.inference.inputs import find_inputs
from ctune.inference.output import Wanted
from ctune.inference.runtime import Runtime
from ctune.pool_work import open_onnx, open_torch, settings_of_onnx
from ctune.postprocess import clean_all
from ctune.predict import read_volumes
from ctune.project import find_project
from ctune.types import Case, Grid, Mask

Image: TypeAlias = str | Path | tuple[npt.NDArray[Any], npt.NDArray[Any]]
"""A CT: a file, DICOM series or folder of them; or HU (X, Y, Z) and the affine (4, 4) from voxels to RAS mm."""


@dataclass(frozen=True, eq=False)
class Segmented:
    """What was found in one CT. masks: {class: (X, Y, Z) uint8 0 or 1} on `grid`, the CT's own; classes may overlap."""

    case_id: str
    masks: Mapping[str, Mask]
    grid: Grid

    @property
    def volumes_ml(self) -> dict[str, float]:
        """{class: mL}."""
        return {name: int(mask.sum()) * self.grid.voxel_ml for name, mask in self.masks.items()}


class Segmenter:
    """A model with its weights loaded; windows, threshold and cleaning of masks are those of ``ctune predict``.

    model: NAME, NAME:VERSION, NAME@ALIAS or sha256:... of a project's registry, or a file of ``ctune export onnx``.
    project: its folder; the one around the working directory when None, which a file may do without. classes: all when
    None. device: as in ``ctune.toml``, the project's when None. digest: of the model. Raises UsageError without a project
    for a name, UnknownClassError for a class that the model lacks, the registry's errors for an unknown model.
    """

    def __init__(
        self,
        model: str | Path,
        *,
        project: str | Path | None = None,
        classes: Sequence[str] | None = None,
        device: str | None = None,
    ) -> None:
        of_onnx = str(model).endswith(".onnx")
        folder = None if project is None else Path(project)
        found = None if of_onnx and folder is None else find_project(folder)
        config = Config() if found is None else found.config
        self.digest: str
        self._runtime: Runtime
        if of_onnx or found is None:
            self.digest, self._config = settings_of_onnx(Path(model), config)
            self._runtime = open_onnx(Path(model), classes)
            return
        registry = found.open_registry()
        self.digest = registry.resolve(str(model))
        preprocessing = preprocessing_of(registry, self.digest)
        self._config = config.model_copy(update={"preprocessing": preprocessing})
        self._runtime = open_torch(found, self.digest, device or config.device, classes, config.inference)

    @property
    def classes(self) -> tuple[str, ...]:
        """What it finds, in order."""
        return self._runtime.classes

    def __call__(
        self, image: str | Path | npt.NDArray[Any], affine: npt.NDArray[Any] | None = None
    ) -> Segmented:
        """Segment one CT: a path, or HU (X, Y, Z) with its affine (4, 4). Raises DataError when it cannot be read."""
        if isinstance(image, np.ndarray) != (affine is not None):
            raise UsageError("expected a path, or an array with its affine (4, 4), got one without the other")
        one: Image = image if isinstance(image, str | Path) else (image, np.asarray(affine))
        loads = _loads(one)
        if len(loads) != 1:
            raise UsageError(f"expected one CT in {image}, found {len(loads)}; use `each` for several")
        return self._masks(make_ready(loads[0], self._config, Clock()))

    def each(self, images: Iterable[Image]) -> Iterator[Segmented]:
        """Segment several, one after the other; the next is read meanwhile. Raises DataError for one that cannot be read."""
        loads = (load for image in images for load in _loads(image))
        for _, ready in ahead(lambda load: make_ready(load, self._config, Clock()), loads):
            yield self._masks(ready.result())

    def write(
        self, images: Sequence[str | Path], out: str | Path, wanted: Wanted = Wanted()
    ) -> dict[str, dict[str, float]]:
        """Write what ``ctune predict`` writes to ``out/<id>``; returns {id: {class: mL}}. Run again, it does what is missing.

        Raises DataError, after the others are written, when CTs cannot be read.
        """
        ids, refused = predict_inputs(
            self._config, self._runtime, self.digest, find_inputs([Path(i) for i in images]), Path(out), wanted=wanted
        )  # fmt: skip
        if refused:
            raise DataError("; ".join(why for _, why in refused))
        return {case_id: read_volumes(Path(out) / case_id) for case_id in ids}

    def _masks(self, ready: Ready) -> Segmented:
        threshold, grid = self._config.inference.threshold, ready.frame.source
        masks = {name: np.zeros(grid.shape, dtype=np.uint8) for name in self.classes}
        blocks = predicted_blocks(
            self._runtime, ready, self._config.inference, above=threshold, clock=Clock()
        )
        for block in blocks:
            if block.values is not None:
                found = (block.values > threshold).permute(2, 1, 0).cpu().numpy()
                at = zip((block.x, block.y, block.z), found.shape, strict=True)
                masks[self.classes[block.channel]][tuple(slice(a, a + n) for a, n in at)] = found
        return Segmented(ready.case_id, clean_all(masks, self._config.postprocess, grid), grid)


def _loads(image: Image) -> list[Callable[[], Case]]:
    """What reads the CTs of one image."""
    if isinstance(image, str | Path):
        return [one.load for one in find_inputs([Path(image)])]
    return [partial(_case, *image)]


def _case(volume: npt.NDArray[Any], affine: npt.NDArray[Any]) -> Case:
    if volume.ndim != 3 or affine.shape != (4, 4):
        raise DataError(
            f"expected HU (X, Y, Z) with an affine (4, 4), got shapes {volume.shape} and {affine.shape}; give one CT alone"
        )
    x, y, z = volume.shape
    return Case("array", np.asarray(volume, dtype=np.float32), Grid((x, y, z), affine))
