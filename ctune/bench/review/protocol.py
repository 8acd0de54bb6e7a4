"""The review page under measurement: seconds to the first picture, milliseconds from the brush to the screen, seconds to save.

A headless Chromium that draws on the processor opens cases of two sizes from `ctune review` on loopback.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from ctune.bench.catalogue import Preset
from ctune.bench.result import Gate, Measured
from ctune.bench.review.browser import Sitting, chromium
from ctune.bench.review.project import make_project
from ctune.bench.run import part
from ctune.data.files import sha256_of
from ctune.types import OnProgress, Progress

_PROMISED = "docs/review.md"


@dataclass(frozen=True)
class Scale:
    """small, large: voxels of the CTs (X, Y, Z). cases: how many of each are opened. moves: of the pen in each."""

    small: tuple[int, int, int]
    large: tuple[int, int, int]
    cases: int
    moves: int


SCALES = {
    Preset.SMOKE: Scale((64, 64, 32), (160, 160, 64), 1, 12),
    Preset.CPU: Scale((128, 128, 64), (512, 512, 200), 3, 120),
}


def run(preset: str, seeds: Sequence[int], work: Path, on_progress: OnProgress) -> Measured:
    """See ``catalogue.Bench``. One sitting a seed and size. Raises UsageError where Chromium or its driver are missing."""
    chromium()
    scale, found, data = SCALES[Preset(preset)], dict[str, list[Any]](), dict[str, str]()
    steps = [
        (name, shape, seed)
        for seed in seeds
        for name, shape in (("small", scale.small), ("large", scale.large))
    ]
    for number, (name, shape, seed) in enumerate(steps):
        on_progress(Progress("review", number, len(steps), f"{name}, seed {seed}"))
        root = work / f"{name}-{seed}"
        sitting = part(work / f"{name}-{seed}.json", _sit, root, shape, scale, seed)
        found.setdefault(name, []).append(sitting)
        data[f"{name}-{seed}"] = sitting["ct"]
    on_progress(Progress("review", len(steps), len(steps)))
    measures = summary(found)
    return Measured(
        measures,
        {"shapes": {"small": scale.small, "large": scale.large}, **found},
        (),
        data,
        gates(measures, preset),
    )


def summary(found: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, Any]:
    """The few figures that it is about: of each size the middle of all cases and of all moves, and the slowest picture."""
    out: dict[str, Any] = {}
    for name, sittings in found.items():
        cases = [case for sitting in sittings for case in sitting["cases"]]
        moves = [drawn for case in cases for _, drawn in case["moves"]]
        out |= {
            f"first_picture_seconds_{name}": median(case["open"]["picture"] for case in cases),
            f"first_picture_slowest_seconds_{name}": max(case["open"]["picture"] for case in cases),
            f"ready_to_draw_seconds_{name}": median(case["open"]["ready"] for case in cases),
            f"brush_ms_{name}": median(moves),
            f"brush_p95_ms_{name}": quantiles(moves, n=20, method="inclusive")[-1],
            f"draft_seconds_{name}": median(case["draft"] for case in cases),
            f"accept_seconds_{name}": median(case["accept"] for case in cases),
        }
    every = [case for sittings in found.values() for sitting in sittings for case in sitting["cases"]]
    out["pictures_empty"] = sum(not case["open"]["lit"] for case in every)
    out["page_seconds"] = max(sitting["page_seconds"] for s in found.values() for sitting in s)
    return out


def gates(measures: Mapping[str, Any], preset: str) -> list[Gate]:
    """What the page has promised. A smoke run holds what time and load do not change."""
    bounds = {"pictures_empty": 0.0}
    if preset != Preset.SMOKE:
        bounds |= {
            "first_picture_seconds_large": 3.0, "brush_ms_small": 50.0, "draft_seconds_small": 1.0, "draft_seconds_large": 1.0,
            "accept_seconds_small": 1.0,
        }  # fmt: skip
    return [Gate(figure=f, value=measures[f], bound=b, reference=_PROMISED) for f, b in bounds.items()]


def _sit(root: Path, shape: tuple[int, int, int], scale: Scale, seed: int) -> dict[str, Any]:
    """Open, draw and accept every case of a new project: plain figures."""
    shutil.rmtree(root, ignore_errors=True)
    made = make_project(root, shape, scale.cases, seed)
    ct, cases = sha256_of(made.pool.case("case_1").image), list[dict[str, Any]]()
    with Sitting(root) as sitting:
        opened = sitting.open_case()
        while len(cases) < scale.cases:
            case: dict[str, Any] = {"open": opened, "moves": sitting.stroke(scale.moves)}
            case |= sitting.saving() | {"accept": sitting.accept()}
            cases.append(case)
            if len(cases) < scale.cases:
                opened = sitting.opened()  # By itself, after a case that was accepted.
        page = sitting.page_seconds
    shutil.rmtree(root)
    return {"ct": ct, "page_seconds": page, "cases": cases}
