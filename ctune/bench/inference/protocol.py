"""One CT from its file to nine masks on disk: ctune's engine against MONAI's parts joined as its tutorials join them.

The same network, windows and overlap; each pipeline in a process of its own, so that its peak of resident memory is its own.
The clock starts when libraries and weights are loaded. Wall and processor seconds are both kept: on a machine that others use
too, wall seconds measure the neighbours. Stages are compared on one thread, by what that thread computed; the pipelines take
turns, the least of a pipeline's turns on a CT counts, and a ratio is the median over CTs. On an accelerator, where a thread only
waits for the network, stages are compared by the wall with all threads, and its memory is kept too.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from ctune.bench.catalogue import Preset
from ctune.bench.inference.pipelines import load_network, save_network
from ctune.bench.machine import torch_device
from ctune.bench.result import Gate, Measured
from ctune.bench.run import part
from ctune.classes import NINE_ORGANS
from ctune.config import Config
from ctune.config import preset as settings_of
from ctune.data.files import sha256_of, write_json
from ctune.data.nifti import read_case, read_mask, write_volume
from ctune.data.phantom import write_cohort
from ctune.data.prepared import PreparedCase
from ctune.data.preprocess import labels_to_network, to_network
from ctune.model.base import build_base
from ctune.model.heads import build_head
from ctune.model.network import Network
from ctune.train import train
from ctune.types import Grid, OnProgress, Progress

PIPELINES = ("ctune", "onnx", "monai")
ON_GPU = ("ctune", "monai")
TURNS = 4
"""How often each pipeline runs for the stages."""
ONE_THREAD, ALL_THREADS = "one thread", "all threads"
"""How the turns of a processor and those of an accelerator are called."""
STAGES = ("read", "resample", "network", "accumulate", "invert", "write")
TALL = 824
"""Planes of the tall CT."""
MANY = 32
"""Classes of the tall CT's second run."""


@dataclass(frozen=True)
class Scale:
    """size: of the phantoms. epochs: the network only has to find organs, so that masks are of some size. tall: also measure
    the memory that a CT of 824 planes takes."""

    size: str
    epochs: int
    tall: bool


SCALES = {
    Preset.SMOKE: Scale("medium", epochs=2, tall=False),
    Preset.CPU: Scale("ct", epochs=40, tall=True),
    Preset.GPU: Scale("ct", epochs=40, tall=True),
}


def run(preset: str, seeds: Sequence[int], work: Path, on_progress: OnProgress) -> Measured:
    """See ``ctune.bench.catalogue.Bench``."""
    scale, config, device = SCALES[Preset(preset)], config_of(preset), torch_device(preset)
    threads, on_cpu = torch.get_num_threads(), device == "cpu"
    cts = {seed: _phantom(work / f"phantom-{seed}", seed, scale, on_progress) for seed in seeds}
    network, total = work / "network", len(cts) + scale.tall
    part(work / "network.json", make_network, cts[seeds[0]], network, config, scale.epochs, seeds[0])
    found: dict[str, Any] = {}
    for number, (seed, ct) in enumerate(cts.items()):
        place = work / f"seed-{seed}.json"
        found[f"seed {seed}"] = part(place, compare, ct, network, config, threads, work / f"out-{seed}")
        on_progress(Progress("inference", number + 1, total, f"seed {seed}"))
    if on_cpu:
        arguments = (cts[seeds[0]], network, config, work / "windows.onnx")
        found["onnx"] = part(work / "onnx.json", onnx_difference, *arguments)
    if scale.tall:
        found["tall"] = part(work / "tall.json", tall, cts[seeds[0]], network, config, threads, work / "tall")
        on_progress(Progress("inference", total, total, "tall"))
    measures = summary(found)
    missing = [] if on_cpu else ["onnxruntime: measured on a processor alone, with --preset cpu"]
    data = {f"ct {s}": sha256_of(ct) for s, ct in cts.items()}
    return Measured(measures, found, missing, data, gates(measures, preset))


def config_of(preset: str) -> Config:
    """unet_small at 3 mm on a processor, Swin UNETR 48 at 1.5 mm on an accelerator; windows of 96 voxels that overlap by half."""
    if torch_device(preset) == "cuda":
        return settings_of("ct", name="inference", device="cuda")
    return settings_of(
        "ct",
        name="inference",
        device="cpu",
        base={"architecture": "unet_small"},
        preprocessing={"spacing_mm": (3.0, 3.0, 3.0)},
    )


def make_network(ct: Path, folder: Path, config: Config, epochs: int, seed: int) -> dict[str, Any]:
    """Train a network on the one phantom, for a minute or two: its masks are organs, not good ones."""
    case = read_case(ct, "phantom")
    image, frame = to_network(case, config.preprocessing)
    labels = {
        name: labels_to_network(
            read_mask(ct.parent / "segmentations" / f"{name}.nii.gz", case.grid, name), frame
        )
        for name in NINE_ORGANS
    }
    base = build_base(config.base, seed)
    network = Network(base, {name: build_head(name, "text", base, seed) for name in NINE_ORGANS})
    settings = config.train.model_copy(
        update={
            # Swin UNETR takes multiples of 32.
            "patch_size": (48, 48, 48) if config.device == "cpu" else (64, 64, 64), "patches_per_case": 8,
            "batch_size": 2, "learning_rate": 3e-3 if config.device == "cpu" else 1e-3, "epochs": epochs,
            "warmup_epochs": 1.0,
        }
    )  # fmt: skip
    prepared = [PreparedCase("phantom", "phantom", image, labels)]
    done = train(network, prepared, settings, seed=seed, device=torch.device(config.device))
    save_network(network.cpu(), folder)
    return {"seconds": done.seconds, "losses": done.losses}


def compare(ct: Path, network: Path, config: Config, threads: int, out: Path) -> dict[str, Any]:
    """All pipelines on one CT, once with all threads, and some turns for the stages: with one thread on a processor."""
    on_cpu = config.device == "cpu"
    names, turns = (PIPELINES, ONE_THREAD) if on_cpu else (ON_GPU, ALL_THREADS)
    found: dict[str, Any] = {}
    for name in names:
        found[name] = one(name, ct, network, NINE_ORGANS, config, threads, out / name)
    found["dice_of_both"] = agreement(out)
    found[turns] = [
        {
            name: one(name, ct, network, NINE_ORGANS, config, 1 if on_cpu else threads, out / f"{name}-again")
            for name in names
        }
        for _ in range(TURNS)
    ]
    return found


def one(
    pipeline: str, ct: Path, network: Path, classes: Sequence[str], config: Config, threads: int, out: Path
) -> dict[str, Any]:
    """Run one pipeline in a process of its own; the answer of ``pipelines.work``."""
    # What an interrupted run left would be found finished, in no time.
    shutil.rmtree(out, ignore_errors=True)
    job = out.with_suffix(".json")
    write_json(
        job,
        {
            "pipeline": pipeline, "ct": str(ct), "network": str(network), "classes": list(classes), "out": str(out),
            "config": config.model_dump(mode="json"), "threads": threads,
        },
    )  # fmt: skip
    code = "import sys; from ctune.bench.inference.pipelines import work; work(sys.argv[1])"
    done = subprocess.run([sys.executable, "-c", code, str(job)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"expected {pipeline} to predict {ct}, got: {done.stderr.strip()[-2000:]}")
    answer: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return answer


def agreement(out: Path) -> dict[str, float | None]:
    """Dice of both pipelines' masks by class; None where neither found any. MONAI keeps the first voxel where it is when it
    resamples, ctune the centre: half a voxel of the network's grid may differ."""
    import nibabel as nib

    (theirs,) = (out / "monai").glob("*.nii.gz")
    stored = np.asarray(nib.load(theirs).dataobj, dtype=np.uint8)
    found: dict[str, float | None] = {}
    for k, name in enumerate(NINE_ORGANS):
        ours = np.asarray(nib.load(out / "ctune" / "ct" / f"{name}.nii.gz").dataobj) > 0
        other = stored[..., k] > 0
        total = int(ours.sum()) + int(other.sum())
        found[name] = round(2 * int((ours & other).sum()) / total, 4) if total else None
    return found


def onnx_difference(ct: Path, network: Path, config: Config, graph: Path) -> dict[str, float]:
    """onnxruntime less torch on a CT's own windows, one after the other along its diagonal: the largest difference of a
    probability and of a logit, and the largest logit beside them."""
    from ctune.export.onnx import OnnxNetwork, write_graph

    image, _ = to_network(read_case(ct, "phantom"), config.preprocessing)
    sides = config.inference.patch_size
    image = np.pad(image, [(0, max(0, side - n)) for n, side in zip(image.shape, sides, strict=True)])
    loaded = load_network(network, NINE_ORGANS, config)
    write_graph(loaded, NINE_ORGANS, sides, graph, {"classes": list(NINE_ORGANS), "window": list(sides)})
    session = OnnxNetwork(graph)
    found = {"max_abs_diff": 0.0, "max_abs_diff_of_logits": 0.0, "largest_logit": 0.0}
    for share in (0.25, 0.5, 0.75):
        starts = [round(share * (n - side)) for n, side in zip(image.shape, sides, strict=True)]
        box = tuple(slice(start, start + side) for start, side in zip(starts, sides, strict=True))
        window = np.ascontiguousarray(image[box], np.float32)[None, None]
        with torch.inference_mode():
            theirs, ours = loaded(torch.from_numpy(window), NINE_ORGANS), torch.from_numpy(session(window))
        for name, values in (
            ("max_abs_diff", ours.sigmoid() - theirs.sigmoid()),
            ("max_abs_diff_of_logits", ours - theirs),
            ("largest_logit", theirs),
        ):
            found[name] = max(found[name], float(values.abs().max()))
    return found


def tall(ct: Path, network: Path, config: Config, threads: int, out: Path) -> dict[str, Any]:
    """The memory that a CT of 824 planes takes, with nine classes and with 32."""
    case = read_case(ct, "phantom")
    planes = case.volume.astype(np.int16)
    repeats = -(-TALL // planes.shape[2])
    turned = [planes if n % 2 == 0 else planes[:, :, ::-1] for n in range(repeats)]
    volume = np.concatenate(turned, axis=2)[:, :, :TALL]
    path = out / "tall.nii.gz"
    write_volume(path, volume, Grid(volume.shape, np.diag([-0.75, -0.75, 1.0, 1.0])))
    del case, planes, turned, volume
    many = [*NINE_ORGANS, *(f"class_{n}" for n in range(MANY - len(NINE_ORGANS)))]
    return {
        str(len(classes)): one("ctune", path, network, classes, config, threads, out / str(len(classes)))
        for classes in (NINE_ORGANS, many)
    }


def summary(found: Mapping[str, Any]) -> dict[str, Any]:
    """The few figures that it is about."""
    pairs = [each for name, each in found.items() if name.startswith("seed")]
    measures: dict[str, Any] = {
        "speedup_over_monai": median(p["monai"]["seconds"] / p["ctune"]["seconds"] for p in pairs),
        "processor_speedup_over_monai": median(
            p["monai"]["processor_seconds"] / p["ctune"]["processor_seconds"] for p in pairs
        ),
        "peak_memory_ratio_to_monai": max(p["ctune"]["peak_mb"] / p["monai"]["peak_mb"] for p in pairs),
        "ctune_seconds": median(p["ctune"]["seconds"] for p in pairs),
        "monai_seconds": median(p["monai"]["seconds"] for p in pairs),
        "ctune_peak_mb": max(p["ctune"]["peak_mb"] for p in pairs),
        "monai_peak_mb": max(p["monai"]["peak_mb"] for p in pairs),
        **({"onnx_max_abs_diff": found["onnx"]["max_abs_diff"]} if "onnx" in found else {}),
        **_stages(pairs),
        **_on_gpu(pairs),
    }
    if "tall" in found:
        nine, many = (found["tall"][str(n)]["peak_mb"] for n in (len(NINE_ORGANS), MANY))
        measures |= {"tall_peak_mb": nine, "tall_peak_ratio_32_to_9_classes": many / nine}
    return measures


def _stages(pairs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Seconds by stage (of a processor on one thread, of the wall on an accelerator), and how they stand to each other CT by
    CT."""
    on_cpu = ONE_THREAD in pairs[0]
    turns, seconds = (ONE_THREAD, "processor_stages") if on_cpu else (ALL_THREADS, "stages")
    names = PIPELINES if on_cpu else ON_GPU

    def least(pair: Mapping[str, Any], pipeline: str, stage: str) -> float:
        # Neighbours, and memory in small pages, only ever add: the least of the turns is the nearest to the work itself.
        return min(float(turn[pipeline][seconds].get(stage, 0.0)) for turn in pair[turns])

    ratios = {
        stage: round(median(least(p, "ctune", stage) / least(p, "monai", stage) for p in pairs), 3)
        for stage in STAGES
    }
    return {
        **{
            f"{name}_stage_seconds": {s: round(median(least(p, name, s) for p in pairs), 3) for s in STAGES}
            for name in names
        },
        "stage_ratio_to_monai": ratios,
        "worst_stage_ratio_to_monai": max(ratios.values()),
        **({"onnx_network_ratio_to_torch": median(
            least(p, "onnx", "network") / least(p, "ctune", "network") for p in pairs
        )} if on_cpu else {}),
    }  # fmt: skip


def _on_gpu(pairs: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """The accelerator's memory, where it was one."""
    if "gpu_peak_mb" not in pairs[0]["ctune"]:
        return {}
    return {
        "ctune_gpu_peak_mb": max(p["ctune"]["gpu_peak_mb"] for p in pairs),
        "monai_gpu_peak_mb": max(p["monai"]["gpu_peak_mb"] for p in pairs),
        "gpu_peak_memory_ratio_to_monai": max(
            p["ctune"]["gpu_peak_mb"] / p["monai"]["gpu_peak_mb"] for p in pairs
        ),
    }


def gates(measures: Mapping[str, Any], preset: str) -> list[Gate]:
    """What the engine has promised for a whole CT; on a small one the network is nearly all there is."""
    if preset == Preset.SMOKE:
        return []
    if preset == Preset.GPU:
        return [
            Gate(
                figure="speedup_over_monai", value=measures["speedup_over_monai"], bound=1.0, at_most=False,
                reference="not slower than a plain pipeline on the same accelerator",
            )
        ]  # fmt: skip
    promised = "docs/benchmarks.md"
    out = [
        Gate(
            figure="speedup_over_monai", value=measures["speedup_over_monai"], bound=3.0, reference=promised,
            at_most=False,
        ),
        Gate(
            figure="peak_memory_ratio_to_monai", value=measures["peak_memory_ratio_to_monai"], bound=1 / 3,
            reference=promised,
        ),
        Gate(
            figure="worst_stage_ratio_to_monai", value=measures["worst_stage_ratio_to_monai"], bound=1.05,
            reference="never slower at any stage; the same stage differs by 5 % between two runs",
        ),
        Gate(
            figure="onnx_network_ratio_to_torch", value=measures["onnx_network_ratio_to_torch"], bound=1.0,
            reference="onnxruntime on a CPU at least as fast as torch",
        ),
    ]  # fmt: skip
    out.append(
        Gate(
            figure="onnx_max_abs_diff", value=measures["onnx_max_abs_diff"], bound=1 / 255,
            reference="probabilities of the same network; they are stored in steps of 1/255",
        )
    )  # fmt: skip
    if "tall_peak_mb" in measures:
        ratio = "tall_peak_ratio_32_to_9_classes"
        out.append(
            Gate(figure="tall_peak_mb", value=measures["tall_peak_mb"], bound=4096.0, reference=promised)
        )
        out.append(Gate(figure=ratio, value=measures[ratio], bound=1.1, reference=promised))
    return out


def _phantom(folder: Path, seed: int, scale: Scale, on_progress: OnProgress) -> Path:
    (case_id,) = write_cohort(folder, 1, seed, scale.size, on_progress)
    return folder / case_id / "ct.nii.gz"
