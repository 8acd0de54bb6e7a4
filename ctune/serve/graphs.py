"""Parts as ONNX graphs, one of the base and one a head, so that a new head is a small new graph beside the others.

``export.onnx`` writes all of a model as one graph, which would have to be made anew with every head. A graph is compared with
torch when it is made, and kept by the digest of its part: a later start only opens it.
"""

from __future__ import annotations

import copy
import importlib
import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from ctune import __version__
from ctune.data.files import write_atomically
from ctune.errors import UsageError
from ctune.model.base import Features
from ctune.serve.faults import Wrong
from ctune.serve.parts import Part, Weights, Window, checked

Arrays = dict[str, npt.NDArray[np.float32]]
_KEY = "ctune-part"
_OPSET = 18
PARITY_BOUND = 1e-3
"""As ``export.onnx`` has it: largest difference, as a part of the largest value of torch (of 1 where that is smaller)."""


class OnnxLoader:
    """Parts in onnxruntime on the CPU. folder: of the graphs; those that are not there are made from `weights`, if given."""

    device = torch.device("cpu")

    def __init__(self, folder: Path, weights: Weights | None = None) -> None:
        self._folder, self._weights = folder, weights

    def base(self, digest: str, window: Window) -> Part:
        """See ``parts.Loader``."""
        path = self._folder / f"{digest}-{'x'.join(map(str, window))}.onnx"
        return _base_part(digest, _open(path, digest, partial(self._make_base, digest, window)))

    def head(self, digest: str, base: Part, window: Window) -> Part:
        """See ``parts.Loader``."""
        # Of any size: a head of a class is one graph, whatever windows the base is made for.
        session = _open(self._folder / f"{digest}.onnx", digest, partial(self._make_head, digest, base))
        needs = frozenset(node.name for node in session.get_inputs())

        def run(features: Arrays) -> Tensor:
            (logits,) = session.run(None, {name: features[name] for name in needs})
            return torch.from_numpy(logits)

        return Part(digest, run, needs)

    def _make_base(self, digest: str, window: Window, path: Path) -> None:
        module = checked(*self._given(digest).base(digest), digest)
        # MONAI's Swin UNETR computes shapes from its batch: there it is one window.
        batch = module.config.architecture != "swin_unetr"
        windows = _noise(window, batch)
        with torch.inference_mode():
            expected = {name: t.numpy() for name, t in module(windows).tensors().items()}
        with write_atomically(path) as temporary:
            _trace(_BaseGraph(module), (windows,), ["windows"], list(expected), temporary, batch)
            _describe(temporary, digest)
            found = _base_part(digest, _session(temporary)).run(windows)
            for name, tensor in expected.items():
                _check_parity(found[name], tensor, f"the base sha256:{digest[:12]}, {name}")

    def _make_head(self, digest: str, base: Part, path: Path) -> None:
        module = checked(*self._given(digest).head(digest), digest)
        # A new head must not keep a service waiting: it is traced on the smallest features, and the sides are left free.
        tensors = _smallest(base.shapes)
        with torch.inference_mode():
            expected = module(Features.of(tensors))[:, 0].float().numpy()
        with write_atomically(path) as temporary:
            graph = _HeadGraph(module, list(tensors))
            _trace(graph, tuple(tensors.values()), list(tensors), ["logits"], temporary, True)
            _describe(temporary, digest)
            session = _session(temporary)
            given = {node.name: tensors[node.name].numpy() for node in session.get_inputs()}
            (found,) = session.run(None, given)
            _check_parity(found, expected, f"the head of {module.class_name} (sha256:{digest[:12]})")

    def _given(self, digest: str) -> Weights:
        if self._weights is None:
            raise UsageError(
                f"expected the graph of sha256:{digest[:12]} in the exported model, found none; export the model again"
            )
        return self._weights


class _BaseGraph(nn.Module):
    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.base = copy.deepcopy(base)
        for part in self.base.modules():
            if isinstance(part, nn.InstanceNorm3d) and not part.affine:
                # Multiplying by 1: the exporter does not know the channels of a norm without weights in Swin UNETR.
                part.weight = nn.Parameter(torch.ones(part.num_features))
                part.bias = nn.Parameter(torch.zeros(part.num_features))

    def forward(self, windows: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.base(windows).tensors().values())


class _HeadGraph(nn.Module):
    def __init__(self, head: nn.Module, names: Sequence[str]) -> None:
        super().__init__()
        self.head, self.names = copy.deepcopy(head), tuple(names)

    def forward(self, *tensors: Tensor) -> Tensor:
        logits: Tensor = self.head(Features.of(dict(zip(self.names, tensors, strict=True))))
        return logits[:, 0].float()


def _base_part(digest: str, session: Any) -> Part:
    names = [node.name for node in session.get_outputs()]
    batch = isinstance(session.get_inputs()[0].shape[0], str)

    def run(windows: Tensor, needs: frozenset[str] = frozenset(names)) -> Arrays:
        array, wanted = windows.numpy(), [name for name in names if name in needs]
        parts = [array] if batch else [array[i : i + 1] for i in range(len(array))]
        found = [session.run(wanted, {"windows": part}) for part in parts]
        joined = (
            found[0] if len(found) == 1 else [np.concatenate(arrays) for arrays in zip(*found, strict=True)]
        )
        return dict(zip(wanted, joined, strict=True))

    shapes = {node.name: tuple(node.shape[1:]) for node in session.get_outputs()}
    return Part(digest, run, shapes=shapes)


def _smallest(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Features of noise, of two windows whose bottleneck has two voxels a side; shapes: those of a whole window."""
    sides, generator = shapes["bottleneck"][1:], torch.Generator().manual_seed(0)

    def smaller(shape: tuple[int, ...]) -> tuple[int, ...]:
        return (2, shape[0], *(2 * n // side for n, side in zip(shape[1:], sides, strict=False)))

    return {name: torch.randn(smaller(shape), generator=generator) for name, shape in shapes.items()}


def _noise(window: Window, batch: bool) -> Tensor:
    return torch.rand(2 if batch else 1, 1, *window, generator=torch.Generator().manual_seed(0))


def _trace(
    module: nn.Module,
    given: tuple[Tensor, ...],
    inputs: list[str],
    outputs: list[str],
    path: Path,
    free: bool,
) -> None:
    """free: the batch axis; and of a head, which has several inputs, all sides too."""
    # Imported here: a Bento only opens graphs, and holds nothing that makes them.
    from ctune.export.norms import norms_by_axes

    axes = {0: "batch"} if len(inputs) == 1 else {0: "batch", 2: "x", 3: "y", 4: "z"}
    free_axes = {
        name: {axis: f"{word}_{name}" if axis else word for axis, word in axes.items() if axis < tensor.dim()}
        for name, tensor in zip(inputs, given, strict=True)
    }
    free_axes |= {
        name: {0: "batch"} if len(inputs) == 1 else {0: "batch", 1: "x", 2: "y", 3: "z"} for name in outputs
    }
    with torch.no_grad(), warnings.catch_warnings():
        # The tracing exporter warns of checks on shapes, which are fixed here.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module.eval(), given, str(path), dynamo=False, opset_version=_OPSET, input_names=inputs,
            output_names=outputs, dynamic_axes=free_axes if free else None,
        )  # fmt: skip
    norms_by_axes(path)


def _describe(path: Path, digest: str) -> None:
    import onnx

    graph = onnx.load(str(path))
    onnx.helper.set_model_props(graph, {_KEY: json.dumps({"digest": digest, "ctune": __version__})})
    onnx.save(graph, str(path))


def _check_parity(found: npt.NDArray[np.float32], expected: npt.NDArray[np.float32], what: str) -> None:
    difference = float(np.abs(found - expected).max() / max(1.0, float(np.abs(expected).max())))
    # Not-a-number on either side is a difference, and no bound holds it.
    if not difference <= PARITY_BOUND:
        raise Wrong(
            f"expected ONNX within {PARITY_BOUND:g} of torch for {what}, got {difference:.3g}; serve it with --runtime torch"
        )


def _open(path: Path, digest: str, make: Callable[[Path], None]) -> Any:
    """The graph of a digest, made when it is not there, not whole, or of another version of ctune."""
    try:
        session = _session(path)
        about = json.loads(session.get_modelmeta().custom_metadata_map[_KEY])
        if about == {"digest": digest, "ctune": __version__}:
            return session
    except Exception:  # onnxruntime's own errors share no type of their own
        pass
    make(path)
    return _session(path)


def _session(path: Path) -> Any:
    onnxruntime = importlib.import_module("onnxruntime")

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    # Threads that wait should sleep: others compute on this machine too.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # Its arena keeps the most that any batch has taken, a session at a time; without it memory goes back after each volume.
    options.enable_cpu_mem_arena = False
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
