"""Base and chosen heads as one ONNX graph for a window; the sliding window stays outside.

The window's sides are fixed, the batch axis is free (one window with Swin UNETR). A text head's generated weights are matrix products, as in torch. What the
file is (classes, preprocessing, digests, window) stands inside it. A graph whose logits differ from torch's is not kept.
"""

from __future__ import annotations

import copy
import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from ctune import __version__
from ctune.compositions import Model
from ctune.data.files import write_atomically
from ctune.data.preprocess import Triple
from ctune.errors import ModelError, UsageError
from ctune.export.norms import norms_by_axes
from ctune.model.network import Network

Windows = npt.NDArray[np.float32]

OPSET = 18
PARITY_BOUND = 1e-3
"""Largest difference of logits, as a part of the largest logit of torch (of 1 where that is smaller)."""
_KEY = "ctune"


@dataclass(frozen=True)
class Exported:
    """What was written. parity: {windows of: largest difference of logits, as a part as in ``PARITY_BOUND``}."""

    path: Path
    classes: tuple[str, ...]
    window: Triple
    parity: Mapping[str, float]


class _Plain(nn.Module):
    def __init__(self, network: Network, classes: Sequence[str]) -> None:
        super().__init__()
        self.network, self.classes = copy.deepcopy(network), tuple(classes)
        for part in self.network.modules():
            if isinstance(part, nn.InstanceNorm3d) and not part.affine:
                # Multiplying by 1: the exporter does not know the channels of a norm without weights in Swin UNETR.
                part.weight = nn.Parameter(torch.ones(part.num_features))
                part.bias = nn.Parameter(torch.zeros(part.num_features))

    def forward(self, windows: Tensor) -> Tensor:
        logits: Tensor = self.network(windows, self.classes)
        return logits


def plain(network: Network, classes: Sequence[str]) -> nn.Module:
    """A copy of a network that takes windows (N, 1, X, Y, Z) and gives logits (N, K, X, Y, Z), in evaluation mode; to trace."""
    return _Plain(network, classes).eval()


class OnnxNetwork:
    """A file of ``export_onnx`` in onnxruntime: called with windows it gives logits, as ``Network`` does.

    classes: in the order of the file's channels. window: sides of a window in voxels. about: what the file says of itself.
    threads: of onnxruntime on the CPU, torch's number when None. Raises UsageError without onnxruntime, ModelError for
    another file.
    """

    def __init__(self, path: Path, threads: int | None = None) -> None:
        runtime = need("onnxruntime")
        options = runtime.SessionOptions()
        options.intra_op_num_threads = threads or torch.get_num_threads()
        # Threads that wait should sleep: others compute on this machine too.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        wanted = [
            name
            for name in ("CUDAExecutionProvider", "CPUExecutionProvider")
            if name in runtime.get_available_providers()
        ]
        try:
            self._session = runtime.InferenceSession(str(path), options, providers=wanted)
            text = self._session.get_modelmeta().custom_metadata_map[_KEY]
            self.about: dict[str, Any] = json.loads(text)
            self.classes: tuple[str, ...] = tuple(self.about["classes"])
            x, y, z = self.about["window"]
        except Exception as error:  # onnxruntime's own errors share no type of their own
            why = " ".join(str(error).split())[:160]
            raise ModelError(
                f"expected an ONNX file that ctune exported in {path}, got one that cannot be read ({why}); export it again"
            ) from None
        self.window: Triple = (x, y, z)

    def __call__(self, windows: Windows | Tensor, classes: Sequence[str] | None = None) -> Windows:
        """Windows (N, 1, X, Y, Z) float32 in [0, 1] -> (N, K, X, Y, Z) float32 logits, channel k is classes[k].

        Raises ModelError for other sides than the file's window, UsageError for a class that it lacks.
        """
        array = windows.numpy() if isinstance(windows, Tensor) else windows
        if array.ndim != 5 or array.shape[1:] != (1, *self.window):
            raise ModelError(
                f"expected windows (N, 1, {', '.join(map(str, self.window))}), got {array.shape}; set "
                "inference.patch_size to the window of the file or export it again"
            )
        logits = self._run(array.astype(np.float32, copy=False))
        if classes is None or tuple(classes) == self.classes:
            return logits
        lacking = [name for name in classes if name not in self.classes]
        if lacking:
            raise UsageError(
                f"expected classes of the file ({', '.join(self.classes)}), got {', '.join(lacking)}; export it with these"
            )
        return logits[:, [self.classes.index(name) for name in classes]]

    def _run(self, windows: Windows) -> Windows:
        together = len(windows) if isinstance(self._session.get_inputs()[0].shape[0], str) else 1
        parts = [windows[i : i + together] for i in range(0, len(windows), together)]
        return np.concatenate([self._session.run(None, {"windows": part})[0] for part in parts])


def export_onnx(
    model: Model,
    path: Path,
    *,
    window: Triple,
    classes: Sequence[str] | None = None,
    windows: Mapping[str, Windows] | None = None,
    bound: float = PARITY_BOUND,
) -> Exported:
    """Write base and heads of `classes` (all when None) for windows of `window` voxels; checked against torch.

    windows: {what they are: (N, 1, X, Y, Z) float32}, compared besides two of noise. Raises UnknownClassError for a class
    that the model lacks, ModelError when logits differ by more than `bound`; then there is no file at `path`.
    """
    need("onnx")
    if path.is_dir():
        raise UsageError(f"expected a file to write the graph to, got the folder {path}; give a name in it")
    network = model.network.eval()
    names = tuple(dict.fromkeys(model.network.classes if classes is None else classes))
    if not names:
        raise UsageError("expected a class to export, the model has no heads; tune or compose one first")
    for name in names:
        network.head(name)
    noise = np.random.default_rng(0).random((2, 1, *window), dtype=np.float32)
    with write_atomically(path) as temporary:
        write_graph(network, names, window, temporary, describe(model, names, window))
        session = OnnxNetwork(temporary)
        parity = {}
        for what, batch in {"noise": noise, **(windows or {})}.items():
            parity[what] = _difference(network, session, batch)
            if not parity[what] <= bound:
                raise ModelError(
                    f"expected the logits of ONNX within {bound:g} of torch's on windows of {what}, got {parity[what]:.3g}; "
                    f"nothing was written to {path}"
                )
    return Exported(path, names, window, parity)


def describe(model: Model, classes: Sequence[str], window: Triple) -> dict[str, Any]:
    """What an exported file says of itself."""
    return {
        "ctune": __version__,
        "classes": list(classes),
        "window": list(window),
        "preprocessing": model.preprocessing.model_dump(mode="json"),
        "model": model.digest,
        "base": model.record.base,
        "heads": {name: model.record.heads[name] for name in classes},
    }


def write_graph(
    network: Network, classes: Sequence[str], window: Triple, path: Path, about: Mapping[str, Any]
) -> None:
    """Write the graph of base and heads of `classes` with `about` inside, unchecked: ``export_onnx`` compares it."""
    device = next(network.parameters()).device
    # MONAI's Swin UNETR computes shapes from its batch, which a trace would fix halfway: there the batch is one window.
    free = network.base.config.architecture != "swin_unetr"
    with torch.no_grad(), warnings.catch_warnings():
        # The tracing exporter: it needs nothing beyond onnx. Its warnings are of checks on shapes, which are fixed here.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            # In evaluation mode itself: the exporter would otherwise leave the network in training mode.
            plain(network, classes),
            (torch.zeros(2 if free else 1, 1, *window, device=device),),
            str(path),
            dynamo=False,
            opset_version=OPSET,
            input_names=["windows"],
            output_names=["logits"],
            dynamic_axes={"windows": {0: "batch"}, "logits": {0: "batch"}} if free else None,
        )
    norms_by_axes(path)
    describe_graph(path, about)


def describe_graph(path: Path, about: Mapping[str, Any]) -> None:
    """Put what a file says of itself into it."""
    onnx = need("onnx")
    graph = onnx.load(str(path))
    onnx.helper.set_model_props(graph, {_KEY: json.dumps(about, sort_keys=True)})
    onnx.checker.check_model(graph)
    onnx.save(graph, str(path))


def _difference(network: Network, session: OnnxNetwork, windows: Windows) -> float:
    device = next(network.parameters()).device
    with torch.inference_mode():
        expected = network(torch.from_numpy(windows).to(device), session.classes).cpu().numpy()
    found = session(windows)
    # Not-a-number on either side is a difference, and no bound holds it.
    return float(np.abs(found - expected).max() / max(1.0, float(np.abs(expected).max())))


def need(name: str) -> Any:
    """A module of the extra `onnx`. Raises UsageError when it is not installed."""
    import importlib

    try:
        return importlib.import_module(name)
    except ImportError:
        raise UsageError(
            f"ONNX needs {name.partition('.')[0]}, which is not installed; `pip install 'ctune[onnx]'`"
        ) from None
