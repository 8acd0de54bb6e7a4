"""Predict one case, or many: the next case is read while one is computed, and files are written behind.

read -> to the network's grid -> windows -> slabs -> blocks on the CT's grid -> files
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ctune.config import Config, Inference
from ctune.data.exchange import Series
from ctune.data.files import read_json
from ctune.data.preprocess import Frame, Triple, to_network
from ctune.errors import DataError
from ctune.inference.behind import Behind, ahead
from ctune.inference.blocks import Block, Inverse, blocks
from ctune.inference.claims import Claims
from ctune.inference.clock import Clock
from ctune.inference.output import CaseFiles, Outline, Wanted
from ctune.inference.runtime import Runtime, versions_of
from ctune.inference.slabs import Slabs
from ctune.inference.windows import Body, find_body, layout
from ctune.types import Case, OnProgress, Progress, View, Volume, silent

_AXES = {"x": 0, "y": 1, "z": 2}
_PLAIN: tuple[int | None, Triple] = (None, (0, 0, 0))
_AT_ONCE = 96**3
"""Voxels of the windows that run together on a CPU."""


@dataclass(frozen=True, eq=False)
class Ready:
    """A case as the network sees it; the CT itself is let go.

    image: (X', Y', Z') float32 in [0, 1]. body: where there is any, or None where every window runs.
    """

    case_id: str
    image: Volume
    frame: Frame
    body: Body | None


@dataclass(frozen=True, eq=False)
class Job:
    """A case to predict: `load` reads it, `folder` is where its files come, `series` its DICOM files where it has some."""

    case_id: str
    load: Callable[[], Case]
    folder: Path
    series: Series | None = None


def make_ready(load: Callable[[], Case], config: Config, clock: Clock) -> Ready:
    """Read a case and bring it to the network's grid. Raises what `load` raises."""
    with clock("read"):
        case = load()
    with clock("resample"):
        image, frame = to_network(case, config.preprocessing)
        spacing = frame.network.spacing_mm
        body = find_body(image, spacing, config.preprocessing) if config.inference.skip_air else None
    return Ready(case.id, image, frame, body)


def predicted_blocks(
    runtime: Runtime,
    ready: Ready,
    settings: Inference,
    *,
    views: Sequence[View] = (),
    above: float,
    clock: Clock,
) -> Iterator[Block]:
    """Blocks of every class on the CT's grid (``blocks.blocks``); with `views`, on the network's grid, also the
    inconsistency over the image and these. Probabilities come from the plain image alone."""
    inverse = Inverse(ready.frame, runtime.device)
    members = [
        Slabs(
            runtime,
            ready.image,
            layout(
                ready.image.shape,
                settings.patch_size,
                settings.overlap,
                ready.body,
                mirrored=flip,
                shift=shift,
            ),
            axis=inverse.axis,
            backwards=inverse.backwards,
            batch=windows_at_once(settings, runtime.device),
            flip=flip,
            clock=clock,
        )
        for flip, shift in (_PLAIN, *(_flip_and_shift(view) for view in views))
    ]
    return blocks(inverse, members[0], members[1:], len(runtime.classes), above, clock)


def predict_jobs(
    runtime: Runtime,
    jobs: Sequence[Job],
    config: Config,
    *,
    model: str,
    wanted: Wanted = Wanted(),
    views: Sequence[View] = (),
    clock: Clock | None = None,
    on_progress: OnProgress = silent,
) -> list[tuple[str, str]]:
    """Predict every job to its folder; returns (id, reason) of those that could not be read.

    A job whose folder holds its finished prediction is not done again. One that another run is at comes last, and is
    only done here if that run leaves it unfinished.
    """
    clock, refused = clock or Clock(), list[tuple[str, str]]()
    about, claims = _about(runtime, config, model, wanted, views), Claims()
    done = 0

    def over(job: Job) -> None:
        nonlocal done
        done += 1
        on_progress(Progress("predict", done, len(jobs), job.case_id))

    def do(job: Job, ready: Callable[[], Ready]) -> None:
        try:
            _predict(runtime, ready(), config, job, wanted, views, about, behind, clock)
            behind(claims.give_back, job.folder)
        except DataError as error:
            refused.append((job.case_id, str(error)))
            claims.give_back(job.folder)
        over(job)

    with Behind() as behind:
        behind.at_end(claims.give_all_back)
        taken = list[Job]()
        mine = _mine(jobs, about, claims, over, taken)
        for job, ready in ahead(lambda job: make_ready(job.load, config, clock), mine):
            do(job, ready.result)
        for job in _left(taken, about, claims, over, refused):
            do(job, partial(make_ready, job.load, config, clock))
    return refused


def _mine(
    jobs: Sequence[Job], about: dict[str, Any], claims: Claims, over: Callable[[Job], None], taken: list[Job]
) -> Iterator[Job]:
    """The jobs to do, each claimed when it is asked for; finished ones are `over`, other runs' come into `taken`."""
    for job in jobs:
        if is_finished(job.folder, about):
            over(job)
        elif not claims.take(job.folder):
            taken.append(job)
        elif is_finished(job.folder, about):  # by another run, between the two lines above
            claims.give_back(job.folder)
            over(job)
        else:
            yield job


def _left(
    jobs: Sequence[Job],
    about: dict[str, Any],
    claims: Claims,
    over: Callable[[Job], None],
    refused: list[tuple[str, str]],
) -> Iterator[Job]:
    """Of jobs that other runs are at, those that they leave unfinished, each claimed.

    One at a time: who waits for a case while holding another could wait for ever.
    """
    for job in jobs:
        try:
            claims.take(job.folder, wait=True)
        except DataError as error:
            refused.append((job.case_id, str(error)))
            over(job)
            continue
        if is_finished(job.folder, about):
            claims.give_back(job.folder)
            over(job)
        else:
            yield job


def _predict(
    runtime: Runtime,
    ready: Ready,
    config: Config,
    job: Job,
    wanted: Wanted,
    views: Sequence[View],
    about: dict[str, Any],
    behind: Behind,
    clock: Clock,
) -> None:
    threshold = config.inference.threshold
    outline = Outline(
        ready.frame.source,
        runtime.classes,
        threshold,
        config.postprocess,
        {**about, "case": job.case_id, "network_spacing_mm": list(ready.frame.network.spacing_mm)},
        job.series,
    )
    files = CaseFiles(job.folder, outline, wanted, behind, clock)
    try:
        for block in predicted_blocks(
            runtime, ready, config.inference, views=views, above=wanted.level(threshold), clock=clock
        ):
            files.take(block)
        files.finish()
    except BaseException:
        behind.at_end(files.abandon)
        raise


def is_finished(folder: Path, about: dict[str, Any]) -> bool:
    """True when `folder` holds a finished prediction with the settings of `about`, and at least its classes and files."""
    path = folder / "prediction.json"
    if not path.exists():
        return False
    found = read_json(path)
    enough = set(about["classes"]) <= set(found["classes"])
    enough &= all(found.get(key, True) or not about[key] for key in ("probabilities", "inconsistency"))
    same = all(found[key] == about[key] for key in ("model", "threshold"))
    # Who asks for no consistency takes any. Before views were noted there were mirror images alone, which are taken as they are.
    mirrored = [view for view in about["views"] if isinstance(view, str)]
    same &= not about["views"] or found.get("views", mirrored) == about["views"]
    return bool(enough and same) and all(
        found.get(key, empty) == about[key]
        for key, empty in (("labels", {}), ("postprocess", {}), ("format", ""))
    )


def _about(
    runtime: Runtime, config: Config, model: str, wanted: Wanted, views: Sequence[View]
) -> dict[str, Any]:
    return {
        "classes": list(runtime.classes),
        "model": model,
        "threshold": config.inference.threshold,
        "inconsistency": bool(views) or versions_of(runtime) > 1,
        "views": [view if isinstance(view, str) else list(view) for view in views],
        "probabilities": wanted.probabilities,
        "labels": {name: k + 1 for k, name in enumerate(runtime.classes)} if wanted.label_map else {},
        "format": str(wanted.foreign or ""),
        "postprocess": {
            name: rules.model_dump(mode="json")
            for name, rules in config.postprocess.items()
            if name in runtime.classes
        },
    }


def _flip_and_shift(view: View) -> tuple[int | None, Triple]:
    return (_AXES[view], _PLAIN[1]) if isinstance(view, str) else (None, view)


def windows_at_once(settings: Inference, device: torch.device) -> int:
    """How many windows run together. One alone is up to four times as slow on a CPU: of few channels and voxels and a batch of one,
    torch computes convolutions without oneDNN."""
    if settings.windows_per_batch != "auto":
        return settings.windows_per_batch
    # Measured on two cores with unet_small: one window of 96^3 alone takes 1.0 s, of two 1.3 s each, of four 1.5 s; one of
    # 48^3 alone 0.24 s, of two or four 0.1 s each.
    return 4 if device.type == "cuda" else max(1, min(4, _AT_ONCE // math.prod(settings.patch_size)))
