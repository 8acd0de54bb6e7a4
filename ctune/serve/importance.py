"""One volume scored: where the model is likely wrong in it, as ``ctune score`` tells it of a pool."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import BinaryIO

from ctune.data.files import write_json
from ctune.data.nifti import read_grid, write_volume
from ctune.importance.case import floor_of, score_crops
from ctune.importance.files import read_crops
from ctune.inference.output import Wanted
from ctune.serve.intake import Limits
from ctune.serve.model import ServedModel
from ctune.serve.segment import Answer, Asked, Output, predicted, read_asked


def importance(
    model: ServedModel,
    upload: BinaryIO,
    asked: Asked,
    folder: Path,
    limits: Limits,
    check: Callable[[], None],
) -> Answer:
    """Score the CT in `upload` with mirrored views, as the model's settings say; `asked.output` is json or attention.

    Raises as ``segment`` does.
    """
    classes, config = model.choose(asked.classes), model.about.config
    settings = config.importance
    with predicted(
        model,
        upload,
        classes,
        folder,
        limits,
        check,
        wanted=Wanted(probabilities=True),
        views=settings.views_of_rounds,
    ) as found:
        grid = read_grid(found.folder / f"{classes[0]}.nii.gz", "upload")
        check()
        crops = read_crops([found.folder], grid, classes, *floor_of(settings))
        scored = score_crops("upload", crops, grid, settings, config.inference.threshold)
        seconds = {stage: round(s, 4) for stage, s in found.clock.seconds.items()}
        told = scored.summary()
        about = {
            **found.about,
            "score": told.score,
            "minutes": told.minutes,
            "order": told.order,
            "importance": {name: asdict(one) for name, one in told.classes.items()},
            "seconds": seconds,
        }
        if asked.output is Output.ATTENTION:
            path = folder / "attention.nii.gz"
            write_volume(path, scored.attention, grid)
            return Answer(path, "application/gzip", about)
        path = folder / "importance.json"
        write_json(path, about)
        return Answer(path, "application/json", about)


def importance_of(fields: Mapping[str, str]) -> Asked:
    """What the fields of a query or form ask for. Raises UsageError."""
    return read_asked(fields, Output.JSON, (Output.JSON, Output.ATTENTION))
