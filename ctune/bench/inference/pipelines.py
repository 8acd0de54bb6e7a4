"""One CT through one pipeline, in a process of its own: ctune's engine with torch or onnxruntime, or MONAI's parts joined as its tutorials join them.

    python -c "from ctune.bench.inference.pipelines import work; work('job.json')"

reads the job, loads libraries and weights, and only then starts the clock; its answer is the last line of stdout.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

from ctune.config import Config, HUWindow
from ctune.data.files import read_json
from ctune.inference.clock import Clock
from ctune.model.network import Network

Pipeline: TypeAlias = Callable[[Path], None]
"""From a CT's file to masks on disk; libraries and weights are there."""


def work(job: str) -> None:
    """Do one job and answer on stdout; ctune.bench.inference writes jobs.

    A job: pipeline ("ctune", "onnx" or "monai"), ct, network (folder of weights), classes, out, config, threads.
    """
    import torch

    asked = read_json(Path(job))
    torch.set_num_threads(asked["threads"])
    config = Config.model_validate(asked["config"])
    device = torch.device(config.device if config.device.startswith("cuda") else "cpu")
    network = load_network(Path(asked["network"]), asked["classes"], config).to(device)
    clock = Clock()
    pipeline = PIPELINES[asked["pipeline"]](config, network, Path(asked["out"]), clock)
    if device.type == "cuda":
        _warm(network, config, device)
    before, used, begun = _peak_mb(), time.process_time(), time.perf_counter()
    pipeline(Path(asked["ct"]))
    answer = {
        "seconds": time.perf_counter() - begun,
        "processor_seconds": time.process_time() - used,
        "loaded_mb": before,
        "peak_mb": _peak_mb(),
        "stages": clock.seconds,
        "processor_stages": clock.processor,
    }
    if device.type == "cuda":
        answer["gpu_peak_mb"] = round(torch.cuda.max_memory_allocated() / 2**20, 1)
    sys.stdout.write("\n" + json.dumps(answer) + "\n")
    sys.stdout.flush()


def _warm(network: Network, config: Config, device: Any) -> None:
    """The first window pays for the accelerator's libraries, whichever pipeline it is in; no clock runs yet."""
    import torch

    with torch.inference_mode(), torch.autocast("cuda", torch.bfloat16):
        network(torch.zeros((1, 1, *config.inference.patch_size), device=device))
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()


def load_network(folder: Path, classes: Sequence[str], config: Config) -> Network:
    """The network that ``save_network`` wrote; a class beyond those in the folder gets a copy of one that is there."""
    from ctune.model.heads import Head
    from ctune.model.weights import base_from_bytes, head_from_bytes

    base = base_from_bytes((folder / "base.safetensors").read_bytes(), config.base)
    stored = sorted(folder.glob("head-*.safetensors"))
    heads: dict[str, Head] = {}
    for k, name in enumerate(classes):
        path = folder / f"head-{name}.safetensors"
        head = head_from_bytes((path if path.exists() else stored[k % len(stored)]).read_bytes())
        head.class_name = name
        heads[name] = head
    return Network(base, heads).eval()


def save_network(network: Network, folder: Path) -> None:
    """Weights as files."""
    from ctune.model.weights import base_to_bytes, head_to_bytes

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "base.safetensors").write_bytes(base_to_bytes(network.base))
    for name in network.classes:
        (folder / f"head-{name}.safetensors").write_bytes(head_to_bytes(network.head(name)))


def _ctune(config: Config, network: Network, out: Path, clock: Clock) -> Pipeline:
    from ctune.data.nifti import read_case
    from ctune.inference.engine import Job, predict_jobs
    from ctune.inference.runtime import TorchRuntime

    runtime = TorchRuntime(network, None, config.inference)

    def pipeline(ct: Path) -> None:
        job = Job("ct", partial(read_case, ct, "ct"), out / "ct")
        predict_jobs(runtime, [job], config, model="bench", clock=clock)

    return pipeline


def _onnx(config: Config, network: Network, out: Path, clock: Clock) -> Pipeline:
    """The engine with the same network in onnxruntime."""
    from ctune.data.nifti import read_case
    from ctune.export.onnx import OnnxNetwork, write_graph
    from ctune.inference.engine import Job, predict_jobs
    from ctune.inference.runtime import ArrayRuntime

    graph, window = out.with_suffix(".onnx"), config.inference.patch_size
    about = {"classes": list(network.classes), "window": list(window)}
    write_graph(network, network.classes, window, graph, about)
    runtime = ArrayRuntime(OnnxNetwork(graph), network.classes)

    def pipeline(ct: Path) -> None:
        job = Job("ct", partial(read_case, ct, "ct"), out / "ct")
        predict_jobs(runtime, [job], config, model="bench", clock=clock)

    return pipeline


def _monai(config: Config, network: Network, out: Path, clock: Clock) -> Pipeline:
    import torch
    from monai.inferers import sliding_window_inference

    load, prepare, invert, save = _transforms(config, out)
    settings, device = config.inference, next(network.parameters()).device
    on_gpu = device.type == "cuda"

    def timed(windows: torch.Tensor) -> torch.Tensor:
        with (
            clock("network"),
            torch.autocast(device.type, torch.bfloat16, enabled=on_gpu and settings.mixed_precision),
        ):
            found: torch.Tensor = network(windows)
            if on_gpu:
                torch.cuda.synchronize()
        return found.float()

    @torch.inference_mode()
    def pipeline(ct: Path) -> None:
        with clock("read"):
            data: dict[str, Any] = load({"image": str(ct)})
        with clock("resample"):
            data = prepare(data)
        with clock("accumulate"):
            data["pred"] = sliding_window_inference(
                data["image"][None].to(device),
                settings.patch_size,
                4,
                timed,
                overlap=settings.overlap,
                mode="gaussian",
            )[0]
        for seconds in (clock.seconds, clock.processor):
            seconds["accumulate"] -= seconds["network"]
        with clock("invert"):
            data = invert(data)
        with clock("write"):
            save(data)

    return pipeline


def _transforms(config: Config, out: Path) -> tuple[Any, Any, Any, Any]:
    """Load; to the network's grid; back, sigmoid and threshold; save. One Compose a stage, so that each can be timed."""
    import numpy as np
    from monai import transforms as t

    window, spacing = config.preprocessing.window, config.preprocessing.spacing_mm
    assert isinstance(window, HUWindow)
    load = t.Compose([t.LoadImaged("image", ensure_channel_first=True)])
    steps = [
        t.Orientationd("image", axcodes="RAS", labels=(("L", "R"), ("P", "A"), ("I", "S"))),
        t.Spacingd("image", pixdim=spacing, mode="bilinear"),
        t.ScaleIntensityRanged("image", a_min=window.low, a_max=window.high, b_min=0.0, b_max=1.0, clip=True),
    ]
    if config.preprocessing.crop_foreground:
        steps.append(t.CropForegroundd("image", source_key="image", allow_smaller=True))
    prepare = t.Compose(steps)
    invert = t.Compose(
        [
            t.Activationsd("pred", sigmoid=True),
            t.Invertd("pred", transform=prepare, orig_keys="image", nearest_interp=False, to_tensor=True),
            t.AsDiscreted("pred", threshold=config.inference.threshold),
        ]
    )
    save = t.Compose(
        [
            t.SaveImaged(
                "pred", output_dir=str(out), output_dtype=np.uint8, separate_folder=False, print_log=False
            )
        ]
    )
    return load, prepare, invert, save


PIPELINES: Mapping[str, Callable[[Config, Network, Path, Clock], Pipeline]] = {
    "ctune": _ctune,
    "onnx": _onnx,
    "monai": _monai,
}
"""{name: what loads libraries, and gives the pipeline that writes to a folder and keeps its stages on a clock}."""


def _peak_mb() -> float:
    """Highest resident memory of this process so far, MiB."""
    status = Path("/proc/self/status")
    if status.exists():
        # Not getrusage: what it says of a new process begins with the memory of the one that started it.
        (line,) = (
            text for text in status.read_text(encoding="utf-8").splitlines() if text.startswith("VmHWM")
        )
        return round(int(line.split()[1]) / 2**10, 1)
    unit = 1 if sys.platform == "darwin" else 1024
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20, 1)
