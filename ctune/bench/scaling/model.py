"""The model behind the benchmark of scaling: straight lines for what was measured, counted operations for what was not."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from statistics import median
from typing import Any

import numpy as np

from ctune.bench.scaling.costs import costs
from ctune.config import BaseConfig, Config, Inference
from ctune.expert import CLASS_SECONDS, ML_SECONDS, OPEN_SECONDS, SLICE_SECONDS
from ctune.model.features import window_corners
from ctune.model.heads import Kind

POOL = 8448
"""CTs of AbdomenAtlas-8K."""
SHARE = 0.05
"""Of the pool that is revised in a round, as AbdomenAtlas-8K did it."""
CLASSES = 9
SHAPE = (280, 220, 300)
"""Voxels of an abdominal CT at 1.5 mm, cropped to the body; assumed."""
H200_FLOPS = 989e12
"""Of bfloat16 without sparsity, NVIDIA's data sheet of the H200 SXM."""
USED = 0.2
"""Of that, what convolutions of 48 channels and window attention reach; assumed where none is there to measure."""
AROUND_S = 2.5
"""Processor seconds of a CT around the network (read, resample, blend, invert, write); assumed: 1.7 were measured with nine organs
at 3 mm (results/inference-cpu-cpu.json), the network here sees 1.5 mm."""
CORES = 16
"""Processor cores beside each accelerator; assumed."""
SLICES, ML = 30, 20.0
"""Slices and millilitres that an expert changes of one organ in one CT; assumed, for ``ctune.expert``'s time model."""


@dataclass(frozen=True, order=True)
class Round:
    """The size of a round: cases of the pool, cases that are revised, classes that are tuned and looked at."""

    pool: int
    revised: int
    classes: int

    def __str__(self) -> str:
        return f"{self.pool} cases, {self.revised} revised, {self.classes} classes"


TERMS: Mapping[str, tuple[str, ...]] = {
    "predict": ("case", "case and class"),
    "score": ("case", "case and class"),
    "tune": ("round", "revised case", "revised case and class"),
    "evaluate": ("round", "class"),
}
"""What the seconds of a stage grow with."""


def terms(size: Round, stage: str) -> list[float]:
    """The numbers that belong to ``TERMS[stage]``.

    >>> terms(Round(10, 4, 2), "tune")
    [1.0, 4.0, 8.0]
    """
    known = {
        "round": 1.0, "case": size.pool, "case and class": size.pool * size.classes, "revised case": size.revised,
        "revised case and class": size.revised * size.classes, "class": size.classes,
    }  # fmt: skip
    return [float(known[name]) for name in TERMS[stage]]


def fit(seeds: Sequence[Any], sizes: Sequence[Round], stage: str, unit: str) -> dict[str, float]:
    """Seconds for each of the stage's terms, none below 0 (Lawson and Hanson 1974), over all seeds.

    Residuals are relative: a second too much in a round of two seconds counts as ten in one of twenty.
    """
    from scipy.optimize import nnls

    rows = np.array([terms(size, stage) for _ in seeds for size in sizes])
    seconds = np.array([seed["sizes"][str(size)]["stages"][stage][unit] for seed in seeds for size in sizes])
    weights = 1 / np.maximum(seconds, 1e-3)
    found, _ = nnls(rows * weights[:, None], seconds * weights)
    return dict(zip(TERMS[stage], (round(float(value), 4) for value in found), strict=True))


def errors(
    seeds: Sequence[Any], sizes: Sequence[Round], fitted: Mapping[str, Mapping[str, float]], unit: str
) -> dict[str, float]:
    """{size: predicted over measured less 1} of whole rounds that the fit did not see; means over seeds."""
    out = {}
    for size in sizes:
        predicted = sum(
            factor * of
            for stage, line in fitted.items()
            for factor, of in zip(terms(size, stage), line.values(), strict=True)
        )
        measured = [sum(s[unit] for s in seed["sizes"][str(size)]["stages"].values()) for seed in seeds]
        out[str(size)] = predicted / (sum(measured) / len(measured)) - 1
    return out


# Operations -----------------------------------------------------------------------------------------------------------


@cache
def base_flops(config: BaseConfig, size: tuple[int, int, int]) -> float:
    """Floating-point operations of one pass of a base over one window, counted by torch without computing anything."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from ctune.model.base import Base

    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        Base(config).eval().to("meta")(torch.empty((1, 1, *size), device="meta"))
    return float(counter.get_total_flops())


@cache
def head_flops(
    base_config: BaseConfig, kind: Kind, width: int, size: tuple[int, int, int], backward: bool = False
) -> float:
    """The same of one head over the features of one patch; backward: and of its gradients, of its weights alone, as tuning
    computes them."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from ctune.config import HeadConfig
    from ctune.model.base import Base
    from ctune.model.heads import build_head

    base = Base(base_config).eval()
    head = build_head("liver", kind, base, 0, HeadConfig(pyramid_width=width))
    with torch.no_grad():
        features = base.to("meta")(torch.empty((1, 1, *size), device="meta"))
    if kind == "text":
        # Autocast, which it turns off, knows no meta tensors. A zero of no memory, seen in the shape of each feature.
        features = features.apply(lambda tensor: torch.zeros(()).expand(tensor.shape))
    else:
        head = head.to("meta")
    with torch.set_grad_enabled(backward), FlopCounterMode(display=False) as counter:
        logits = head(features)
        if backward:
            logits.sum().backward()
    return float(counter.get_total_flops())


@cache
def feature_bytes(config: BaseConfig, size: tuple[int, int, int]) -> int:
    """What the cache keeps of one window: every feature of the base as float16."""
    import torch

    from ctune.model.base import Base

    with torch.no_grad():
        features = Base(config).eval().to("meta")(torch.empty((1, 1, *size), device="meta"))
    voxels: int = sum(tensor.numel() for tensor in features.tensors().values())
    return 2 * voxels


ASSUMED: Mapping[str, Any] = {"flops": H200_FLOPS * USED, "measured": False}
"""Operations a second of an H200, where there is none to measure."""


def rate_of(device: str, config: Config) -> dict[str, Any]:
    """Operations a second of a base and a text head as predicting runs them on this device, measured: of wall seconds, on a
    processor of processor seconds."""
    import torch

    from ctune.inference.engine import windows_at_once
    from ctune.inference.runtime import TorchRuntime
    from ctune.model.base import build_base
    from ctune.model.heads import build_head
    from ctune.model.network import Network

    size, on_gpu = config.inference.patch_size, device.startswith("cuda")
    windows, repeats = windows_at_once(config.inference, torch.device(device)), 11
    clock = time.perf_counter if on_gpu else time.process_time
    base = build_base(config.base, 0)
    network = Network(base, {"liver": build_head("liver", "text", base, 0, config.heads)}).to(device)
    runtime = TorchRuntime(network, None, config.inference)
    images = torch.rand((windows, 1, *size), device=device)

    def finish() -> None:
        if on_gpu:
            torch.cuda.synchronize()

    def run() -> None:
        for _ in runtime.logits(images):
            pass

    times = []
    for _ in range(1 + repeats):
        began = clock()
        run()
        finish()
        times.append(clock() - began)
    seconds = median(times[1:])
    counted = base_flops(config.base, size) + head_flops(
        config.base, "text", config.heads.pyramid_width, size
    )
    return {"flops": windows * counted / seconds, "measured": True}


@dataclass(frozen=True)
class Counted:
    """The operations of a round. window: the base in one of the network's windows. heads: one head of each kind there.
    step: one patch of a tuning of one class, forward and backward."""

    window: float
    heads: Mapping[Kind, float]
    step: float

    @classmethod
    def of(cls, config: Config) -> Counted:
        width, window = config.heads.pyramid_width, config.inference.patch_size
        kinds: tuple[Kind, ...] = ("text", "pyramid")
        return cls(
            base_flops(config.base, window),
            {kind: head_flops(config.base, kind, width, window) for kind in kinds},
            head_flops(config.base, "pyramid", width, config.tune.patch_size, backward=True),
        )


def seconds_of(
    size: Round, config: Config, windows: int, flops: float, around_s: float, cores: int | None,
    heads: Kind = "pyramid", runs: float | None = None,
) -> dict[str, float]:  # fmt: skip
    """Seconds of predicting the pool, of caching what was revised, and of tuning one class, on one device of `flops` a second.

    Windows whose features the cache has no room for (``tune.cache_gb``) pass through the base again at each reading.
    windows: of a case; runs: of these, what predicting runs, air left out (None: all). heads: the kind that predicts. around_s: processor seconds of a case and pass around the network. cores: beside an accelerator, they
    work while it does and whichever is slower decides; None: the processor does both, and processor seconds add up.
    """
    counted, members = Counted.of(config), 1 + len(config.importance.views_of_rounds)
    network_s = (runs or windows) * members * (counted.window + size.classes * counted.heads[heads]) / flops
    beside_s = around_s * members / (cores or 1)
    patches = config.tune.epochs * size.revised * config.tune.patches_per_case
    wanted = size.revised * windows * feature_bytes(config.base, config.inference.patch_size)
    missed = 1 - min(1.0, 1e9 * config.tune.cache_gb / wanted)
    return {
        "predict": size.pool * (network_s + beside_s if cores is None else max(network_s, beside_s)),
        "cache": size.revised * windows * counted.window / flops,
        "tune one class": patches * (counted.step + missed * counted.window) / flops,
        "share not cached": missed,
    }


def modelled_errors(
    seeds: Sequence[Any], sizes: Sequence[Round], config: Config, here: Mapping[str, Any], unit: str
) -> dict[str, float]:
    """{size: modelled over measured less 1} of predicting and tuning, by the arithmetic that ``carried_on`` uses for 8,448 CTs.

    here: windows of a case, runs, flops, around_s and cores of this device, as measured; there, heads of full training predict. What
    the model does not count (scoring, evaluation) is on neither side.
    """
    out = {}
    for size in sizes:
        seconds = seconds_of(
            size, config, here["windows"], here["flops"], here["around_s"], here["cores"], config.heads.kind,
            here.get("runs"),
        )  # fmt: skip
        modelled = seconds["predict"] + seconds["cache"] + size.classes * seconds["tune one class"]
        stages = [seed["sizes"][str(size)]["stages"] for seed in seeds]
        measured = sum(each[stage][unit] for each in stages for stage in ("predict", "tune")) / len(stages)
        out[str(size)] = modelled / measured - 1
    return out


def carried_on(rate: Mapping[str, Any]) -> dict[str, Any]:
    """A round over 8,448 CTs with Swin UNETR 48: hours and dollars on 1, 16 and 128 accelerators, minutes of experts.

    Predicting is bound by the accelerator, by the cores around it, by storage or by the driver, whatever is slowest
    (``costs``). Classes tune apart from each other, so that at most nine accelerators help there.
    """
    config = Config()
    settings: Inference = config.inference
    windows = len(window_corners(SHAPE, settings.patch_size, settings.overlap))
    size = Round(POOL, round(POOL * SHARE), CLASSES)
    # A class has its own head in the first place where it is predicted.
    seconds = seconds_of(size, config, windows, rate["flops"], AROUND_S, CORES)
    predict_s, cache_s, class_s = seconds["predict"], seconds["cache"], seconds["tune one class"]
    found = costs(POOL, predict_s, cache_s, class_s, CLASSES)
    organ_s = CLASS_SECONDS + SLICE_SECONDS * SLICES + ML_SECONDS * ML
    return {
        "abdomenatlas_hours_on_h200": {n: on["hours"] for n, on in found["by_accelerators"].items()},
        "abdomenatlas_dollars": {n: on["dollars"] for n, on in found["by_accelerators"].items()},
        "abdomenatlas_accelerators_at_the_limit": found["accelerators_at_the_limit"],
        "abdomenatlas_expert_minutes": size.revised * (OPEN_SECONDS + CLASSES * organ_s) / 60,
        "abdomenatlas": {
            "cts": POOL, "revised": size.revised, "classes": CLASSES, "windows_per_ct": windows,
            "passes_per_window": 1 + len(config.importance.views_of_rounds),
            "teraflops_per_window": Counted.of(config).window / 1e12, "flops_per_second": rate["flops"],
            "rate_is_measured": bool(rate["measured"]), "predict_hours": predict_s / 3600, "cache_hours": cache_s / 3600,
            "share_not_cached": seconds["share not cached"], "tune_hours": CLASSES * class_s / 3600, "by_accelerators": found["by_accelerators"],
        },
    }  # fmt: skip
