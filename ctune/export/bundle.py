"""A MONAI Bundle: base and heads as one plain network that runs where ctune is not, by ``python -m monai.bundle run``.

The network is TorchScript, traced on one window: it needs none of ctune's code, and nothing in it is generated at run time but
numbers. What leads to it and away from it are MONAI's own transforms, in ``configs/inference.json``.
"""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import torch

from ctune import __version__
from ctune.compositions import Model
from ctune.config import HUWindow, Inference, PercentileWindow, Preprocessing
from ctune.data.preprocess import Triple
from ctune.errors import ModelError, UsageError
from ctune.export.onnx import PARITY_BOUND, Windows, describe, plain

_AXES = (("L", "R"), ("P", "A"), ("I", "S"))


@dataclass(frozen=True)
class Bundled:
    """What was written. parity: {windows of: largest difference of logits, as a part of the largest logit, at least 1}."""

    folder: Path
    classes: tuple[str, ...]
    window: Triple
    parity: Mapping[str, float]


def export_bundle(
    model: Model,
    folder: Path,
    *,
    inference: Inference,
    name: str,
    classes: Sequence[str] | None = None,
    windows: Mapping[str, Windows] | None = None,
    bound: float = PARITY_BOUND,
) -> Bundled:
    """Write the bundle of base and heads of `classes` (all when None); checked against torch as ``export_onnx`` does it.

    inference: window, overlap and threshold. Raises UsageError when `folder` is there already, UnknownClassError for a class
    that the model lacks, ModelError when logits differ by more than `bound`; then there is no `folder`.
    """
    if folder.exists():
        raise UsageError(f"expected a folder that is not there yet, found {folder}; choose another")
    network = model.network.eval()
    names = tuple(dict.fromkeys(network.classes if classes is None else classes))
    if not names:
        raise UsageError("expected a class to export, the model has no heads; tune or compose one first")
    for one in names:
        network.head(one)
    window = inference.patch_size
    noise = np.random.default_rng(0).random((1, 1, *window), dtype=np.float32)
    folder.parent.mkdir(parents=True, exist_ok=True)
    building = folder.with_name(f".{folder.name}.{uuid4().hex[:8]}.building")
    try:
        for part in ("models", "configs", "docs"):
            (building / part).mkdir(parents=True)
        script = building / "models" / "model.ts"
        _trace(model, names, noise, script)
        parity = {
            what: _compare(model, names, script, batch, what, bound)
            for what, batch in {"noise": noise, **(windows or {})}.items()
        }
        about = describe(model, names, window)
        _write(building / "configs" / "inference.json", _inference(model.preprocessing, inference))
        _write(building / "configs" / "metadata.json", _metadata(name, names, window, about))
        (building / "docs" / "README.md").write_text(_readme(name, names), encoding="utf-8")
        building.rename(folder)
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return Bundled(folder, names, window, parity)


def _trace(model: Model, classes: Sequence[str], window: Windows, path: Path) -> None:
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of checks on shapes, which are fixed here
        trace: Any = torch.jit.trace
        traced = trace(plain(model.network, classes).cpu(), torch.from_numpy(window))
        traced.save(str(path))


def _compare(
    model: Model, classes: Sequence[str], script: Path, windows: Windows, what: str, bound: float
) -> float:
    load: Any = torch.jit.load
    loaded = load(str(script), map_location="cpu")
    device, worst = next(model.network.parameters()).device, 0.0
    with torch.inference_mode():
        for window in torch.from_numpy(windows)[:, None]:
            expected = model.network(window.to(device), classes).cpu()
            worst = max(
                worst, float((loaded(window) - expected).abs().max() / expected.abs().max().clamp(min=1))
            )
    if not worst <= bound:
        raise ModelError(
            f"expected the logits of the bundle within {bound:g} of torch's on windows of {what}, got {worst:.3g}; nothing was "
            "written"
        )
    return worst


def _inference(preprocessing: Preprocessing, inference: Inference) -> dict[str, Any]:
    """``configs/inference.json``: images in, one file a CT with a channel a class out, on the CT's own grid."""
    steps: list[dict[str, Any]] = [
        {"_target_": "LoadImaged", "keys": "image", "ensure_channel_first": True},
        {"_target_": "Orientationd", "keys": "image", "axcodes": "RAS", "labels": _AXES},
    ]
    if preprocessing.spacing_mm != "native":
        spacing = {"keys": "image", "pixdim": preprocessing.spacing_mm, "mode": "bilinear"}
        steps.append({"_target_": "Spacingd", **spacing})
    steps.append(_intensity(preprocessing))
    if preprocessing.crop_foreground:
        steps.append(
            {"_target_": "CropForegroundd", "keys": "image", "source_key": "image", "allow_smaller": True}
        )
    return {
        "imports": ["$import glob", "$import os", "$import numpy as np", "$import torch"],
        "bundle_root": ".",
        "dataset_dir": "images",
        "images": "$sorted(glob.glob(os.path.join(@dataset_dir, '*.nii*')))",
        "output_dir": "$os.path.join(@bundle_root, 'eval')",
        "device": "$torch.device('cuda' if torch.cuda.is_available() else 'cpu')",
        "network_def": "$torch.jit.load(os.path.join(@bundle_root, 'models', 'model.ts'), map_location=@device)",
        "network": "$@network_def.eval()",
        "preprocessing": {"_target_": "Compose", "transforms": steps},
        "inferer": {
            "_target_": "SlidingWindowInferer", "roi_size": inference.patch_size, "sw_batch_size": 1,
            "overlap": inference.overlap, "mode": "gaussian",
        },
        "postprocessing": {
            "_target_": "Compose",
            "transforms": [
                {"_target_": "Activationsd", "keys": "pred", "sigmoid": True},
                {
                    "_target_": "Invertd", "keys": "pred", "transform": "@preprocessing", "orig_keys": "image",
                    "nearest_interp": False, "to_tensor": True,
                },
                {"_target_": "AsDiscreted", "keys": "pred", "threshold": inference.threshold},
                {
                    "_target_": "SaveImaged", "keys": "pred", "output_dir": "@output_dir", "output_dtype": "$np.uint8",
                    "output_postfix": "seg", "separate_folder": False, "resample": False,
                },
            ],
        },
        "one": (
            "$lambda data: @postprocessing({**data, 'pred': @inferer(data['image'][None].as_tensor().to(@device), @network)[0]})"
        ),
        "initialize": ["$torch.set_grad_enabled(False)"],
        "run": ["$[bool(@one(@preprocessing({'image': image}))) for image in @images]"],
    }  # fmt: skip


def _intensity(preprocessing: Preprocessing) -> dict[str, Any]:
    window = preprocessing.window
    common = {"keys": "image", "b_min": 0.0, "b_max": 1.0, "clip": True}
    if isinstance(window, HUWindow):
        return {"_target_": "ScaleIntensityRanged", "a_min": window.low, "a_max": window.high, **common}
    assert isinstance(window, PercentileWindow)
    return {
        "_target_": "ScaleIntensityRangePercentilesd", "lower": window.low, "upper": window.high, **common
    }  # fmt: skip


def _metadata(name: str, classes: Sequence[str], window: Triple, about: Mapping[str, Any]) -> dict[str, Any]:
    shape = {"type": "image", "spatial_shape": list(window), "dtype": "float32", "is_patch_data": True}
    return {
        "schema": "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/meta_schema_20240725.json",
        "version": "1.0.0",
        "changelog": {"1.0.0": f"exported by ctune {__version__}"},
        "monai_version": version("monai"),
        "pytorch_version": version("torch").partition("+")[0],
        "numpy_version": version("numpy"),
        "required_packages_version": {"nibabel": version("nibabel")},
        "task": f"Segmentation of {', '.join(classes)} in CT",
        "description": f"{name}: a shared base and a head a class, merged into one network",
        "authors": "the group that trained it",
        "copyright": "of the group that trained it",
        "name": name,
        "intended_use": "research; not a medical device",
        "network_data_format": {
            "inputs": {
                "image": {
                    **shape, "format": "hounsfield", "modality": "CT", "num_channels": 1, "value_range": [0, 1],
                    "channel_def": {"0": "image"},
                }
            },
            "outputs": {
                "pred": {
                    **shape, "format": "segmentation", "num_channels": len(classes), "value_range": [],
                    "channel_def": {str(k): one for k, one in enumerate(classes)},
                }
            },
        },
        "ctune": dict(about),
    }  # fmt: skip


def _readme(name: str, classes: Sequence[str]) -> str:
    rows = "\n".join(f"| {k} | {one} |" for k, one in enumerate(classes))
    return f"""# {name}

A segmentation network exported by ctune {__version__}. It runs with MONAI alone:

    python -m monai.bundle run --config_file configs/inference.json --bundle_root . --dataset_dir FOLDER_OF_NIFTI

Each CT gets `eval/CT_seg.nii.gz` on its own grid, one channel a class, 0 or 1; classes may overlap.

| channel | class |
|---|---|
{rows}
"""


def _write(path: Path, document: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
