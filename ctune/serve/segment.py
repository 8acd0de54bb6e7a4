"""One volume: a CT on disk in, a file and volumes out. Everything lies in one folder, which the caller removes."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from ctune.data.files import read_json
from ctune.data.nifti import read_case
from ctune.errors import DataError
from ctune.inference.clock import Clock, Stage
from ctune.inference.engine import Job, predict_jobs
from ctune.inference.output import Wanted
from ctune.serve.intake import Limits, check_reach, take_nifti
from ctune.serve.model import ServedModel, ServedRuntime
from ctune.types import Case


class Output(StrEnum):
    """multilabel: one label map, 1 + the place of the class. masks: a zip with a mask a class."""

    MULTILABEL = "multilabel"
    MASKS = "masks"


@dataclass(frozen=True)
class Asked:
    """What a client wants. classes: none means all of the model's."""

    classes: tuple[str, ...] = ()
    output: Output = Output.MULTILABEL


@dataclass(frozen=True, eq=False)
class Answer:
    """path: the file. about: classes, volumes in mL, digests of the model that made it, seconds by stage."""

    path: Path
    media_type: str
    about: dict[str, Any]


class WatchedClock(Clock):
    """A clock that asks before each stage whether to go on."""

    def __init__(self, check: Callable[[], None]) -> None:
        super().__init__()
        self._check = check

    @contextmanager
    def __call__(self, stage: Stage) -> Iterator[None]:
        self._check()
        with super().__call__(stage):
            yield


def segment(
    model: ServedModel,
    upload: BinaryIO,
    asked: Asked,
    folder: Path,
    limits: Limits,
    check: Callable[[], None],
) -> Answer:
    """Segment the CT in `upload`, on its own grid; everything is written below `folder`.

    check: called between windows, blocks and stages; it raises to stop the work. Raises UnknownClassError, DataError for what
    is no CT, Refused for more than the limits.
    """
    classes = model.choose(asked.classes)
    clock = WatchedClock(check)
    with clock("read"):
        path = take_nifti(upload, folder, limits, check)
    load = partial(_load, path, model, limits)
    job = Job("upload", load, folder / "out")
    refused = predict_jobs(
        ServedRuntime(model, classes, check),
        [job],
        model.about.config,
        model=model.about.digest,
        wanted=Wanted(labels=asked.output is Output.MULTILABEL),
        clock=clock,
    )
    if refused:
        raise DataError(refused[0][1].replace(str(path), "the upload"))
    found = read_json(job.folder / "prediction.json")
    about = {
        "classes": list(classes),
        "labels": found["labels"],
        "volumes_ml": found["volumes_ml"],
        **model.digests(classes),
        "seconds": {stage: round(s, 4) for stage, s in clock.seconds.items()},
    }
    return _packed(job.folder, asked.output, classes, about)


def _load(path: Path, model: ServedModel, limits: Limits) -> Case:
    case = read_case(path, "upload")
    check_reach(case, model.about.config.preprocessing, limits)
    return case


def _packed(folder: Path, output: Output, classes: Sequence[str], about: dict[str, Any]) -> Answer:
    if output is Output.MULTILABEL:
        return Answer(folder / "labels.nii.gz", "application/gzip", about)
    path = folder / "masks.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as packed:
        for name in classes:
            # A fixed time: the same masks give the same bytes.
            entry = zipfile.ZipInfo(f"{name}.nii.gz", (1980, 1, 1, 0, 0, 0))
            packed.writestr(entry, (folder / f"{name}.nii.gz").read_bytes())
    return Answer(path, "application/zip", about)
