"""One volume: a CT on disk in, a file and volumes out. Everything lies in one folder, which the caller removes."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from ctune.data.exchange import Format, write_segmentation
from ctune.data.files import read_json
from ctune.data.nifti import read_grid, read_mask
from ctune.errors import CtuneError, DataError, ImageFileError, UsageError
from ctune.inference.clock import Clock, Stage
from ctune.inference.engine import Job, predict_jobs
from ctune.inference.output import Wanted
from ctune.serve.intake import Limits, Taken, check_reach, check_shape, taken
from ctune.serve.model import ServedModel, ServedRuntime
from ctune.types import Case, Mask, View


class Output(StrEnum):
    """multilabel: one label map, 1 + the place of the class. masks: a zip with a mask a class. The others as
    ``data.exchange`` writes them; dicom-seg only for a DICOM series. json and attention are those of
    ``importance``."""

    MULTILABEL = "multilabel"
    MASKS = "masks"
    SEG_NRRD = "seg.nrrd"
    DICOM_SEG = "dicom-seg"
    JSON = "json"
    ATTENTION = "attention"


_OF_IMPORTANCE = (Output.JSON, Output.ATTENTION)
MEDIA_TYPES = {
    Output.MULTILABEL: "application/gzip",
    Output.MASKS: "application/zip",
    Output.SEG_NRRD: "application/octet-stream",
    Output.DICOM_SEG: "application/dicom",
}


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


@dataclass(frozen=True, eq=False)
class Predicted:
    """A finished prediction on disk. folder: as ``inference.output`` leaves it. about: what every answer tells."""

    folder: Path
    ct: Taken
    about: dict[str, Any]
    clock: WatchedClock


@contextmanager
def predicted(
    model: ServedModel,
    upload: BinaryIO,
    classes: Sequence[str],
    folder: Path,
    limits: Limits,
    check: Callable[[], None],
    *,
    wanted: Wanted,
    views: Sequence[View] = (),
) -> Iterator[Predicted]:
    """Predict the CT in `upload`, on its own grid; everything is written below `folder`.

    check: called between windows, blocks and stages; it raises to stop the work. Raises DataError for what is no CT, Refused
    for more than the limits.
    """
    clock = WatchedClock(check)
    with ExitStack() as open_:
        with clock("read"):
            ct = open_.enter_context(taken(upload, folder, limits, check))
        job = Job("upload", partial(_load, ct.load, model, limits), folder / "out")
        runtime = ServedRuntime(model, classes, check)
        refused = predict_jobs(
            runtime,
            [job],
            model.about.config,
            model=model.about.digest,
            wanted=wanted,
            views=views,
            clock=clock,
        )
        if refused:
            raise DataError(refused[0][1])
        found = read_json(job.folder / "prediction.json")
        about = {"classes": list(classes), "labels": found["labels"], "volumes_ml": found["volumes_ml"]}
        yield Predicted(job.folder, ct, {**about, **model.digests(classes)}, clock)


def segment(
    model: ServedModel,
    upload: BinaryIO,
    asked: Asked,
    folder: Path,
    limits: Limits,
    check: Callable[[], None],
) -> Answer:
    """Segment the CT in `upload`; everything is written below `folder`.

    Raises UnknownClassError, UsageError for dicom-seg of what is no DICOM series, and as ``predicted`` does.
    """
    classes, wanted = model.choose(asked.classes), Wanted(labels=asked.output is Output.MULTILABEL)
    with predicted(model, upload, classes, folder, limits, check, wanted=wanted) as found:
        if asked.output is Output.DICOM_SEG and found.ct.series is None:
            raise UsageError(
                "expected a zipped DICOM series for the output dicom-seg, got another CT; choose another output"
            )
        with found.clock("write"):
            path = _packed(found.folder, asked.output, classes, found.ct)
    seconds = {stage: round(s, 4) for stage, s in found.clock.seconds.items()}
    return Answer(path, MEDIA_TYPES[asked.output], {**found.about, "seconds": seconds})


def _load(read: Callable[[], Case], model: ServedModel, limits: Limits) -> Case:
    try:
        case = read()
    except (CtuneError, MemoryError):
        raise
    except Exception as error:
        # A stranger's file may break a reader in ways that nobody has seen yet; it is the file's fault.
        raise ImageFileError(
            f"expected a CT that can be read, got one on which reading fails ({type(error).__name__}); send it again"
        ) from None
    check_shape(case.grid.shape, limits)
    check_reach(case, model.about.config.preprocessing, limits)
    return case


def _packed(folder: Path, output: Output, classes: Sequence[str], ct: Taken) -> Path:
    """One file of what was predicted."""
    if output is Output.MULTILABEL:
        return folder / "labels.nii.gz"
    if output is Output.MASKS:
        path = folder / "masks.zip"
        with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as packed:
            for name in classes:
                # A fixed time: the same masks give the same bytes.
                entry = zipfile.ZipInfo(f"{name}.nii.gz", (1980, 1, 1, 0, 0, 0))
                packed.writestr(entry, (folder / f"{name}.nii.gz").read_bytes())
        return path
    path = folder / Format(output).file_name
    masks = _Written(folder, classes)
    try:
        write_segmentation(path, masks, masks.grid, Format(output), source=ct.series)
    except (CtuneError, MemoryError):
        raise
    except Exception as error:
        # A DICOM segmentation repeats what the series says of itself: what cannot be repeated is the series' fault.
        raise ImageFileError(
            f"expected a CT that can be told of in {output}, got one on which writing fails ({type(error).__name__}); "
            "choose another output"
        ) from None
    return path


class _Written(Mapping[str, Mask]):
    """Masks as they lie in a folder, read one at a time."""

    def __init__(self, folder: Path, classes: Sequence[str]) -> None:
        self._folder, self._classes = folder, classes
        self.grid = read_grid(folder / f"{classes[0]}.nii.gz", "upload")

    def __getitem__(self, name: str) -> Mask:
        return read_mask(self._folder / f"{name}.nii.gz", self.grid, name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._classes)

    def __len__(self) -> int:
        return len(self._classes)


def asked_of(fields: Mapping[str, str]) -> Asked:
    """What the fields of a query or form ask for. Raises UsageError."""
    known = [output for output in Output if output not in _OF_IMPORTANCE]
    return read_asked(fields, Output.MULTILABEL, known)


def read_asked(fields: Mapping[str, str], usual: Output, known: Sequence[Output]) -> Asked:
    """The same where other outputs are known, and `usual` is meant when none is named."""
    output = fields.get("output", usual)
    if output not in known:
        raise UsageError(f"expected an output of {', '.join(known)}, got {output[:40]!r}")
    classes = [name.strip() for name in fields.get("classes", "").split(",")]
    return Asked(tuple(name for name in classes if name), Output(output))
