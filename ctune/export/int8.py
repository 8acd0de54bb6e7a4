"""int8 for CPUs: an exported graph whose wide convolutions compute in 8 bits, calibrated on windows of cases.

It is another network than the one it was made of: its Dice and its speed are measured beside it, on cases with truth.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import numpy as np

from ctune.cohort import cases_of, evaluate_case
from ctune.config import Config
from ctune.data.files import write_atomically
from ctune.data.preprocess import to_network
from ctune.errors import PoolError
from ctune.evaluate import CaseScore, summarise
from ctune.export.onnx import OnnxNetwork, Windows, describe_graph, need
from ctune.inference.runtime import ArrayRuntime
from ctune.inference.windows import find_body, layout
from ctune.project import Project
from ctune.types import OnProgress, Progress, Split, silent

LEAST_CHANNELS = 32
"""Convolutions that read fewer channels stay as they are: onnxruntime is slower with them in 8 bits (docs/inference.md)."""
WINDOWS_PER_CASE = 6
_ROUNDS = 5


@dataclass(frozen=True)
class Int8:
    """What was written and what it costs.

    layers: convolutions in 8 bits. dice: {class: {"float32", "int8": mean Dice over `cases` cases, None without a number}}.
    window_seconds: {"float32", "int8": median of a window on this machine}.
    """

    path: Path
    layers: int
    calibrated_on: tuple[str, ...]
    cases: int
    dice: Mapping[str, Mapping[str, float | None]]
    window_seconds: Mapping[str, float]


def export_int8(
    project: Project,
    config: Config,
    source: Path,
    path: Path,
    *,
    calibrate: Sequence[str] = (),
    split: Split = Split.TEST,
    on_progress: OnProgress = silent,
) -> Int8:
    """Write the graph `source` of ``export_onnx`` in 8 bits to `path`, and measure both on the annotated cases of `split`.

    config: the project's settings as the file needs them. calibrate: ids of cases, the first four of the pool by default.
    Raises PoolError when there are no cases to calibrate on or none with truth; then nothing is written.
    """
    ids = tuple(calibrate) or tuple(case.id for case in project.pool.cases(Split.POOL))[:4]
    if not ids:
        raise PoolError(
            "expected cases to calibrate int8 on, got none in the pool; import some, or name them with --calibrate"
        )
    network = OnnxNetwork(source)
    judged = _judged(project, cases_of(project, split), network.classes, split)
    windows = [window for case_id in ids for window in case_windows(project, config, case_id)]
    with write_atomically(path) as temporary:
        layers = quantise(source, temporary, windows)
        about = {**network.about, "int8": {"calibrated_on": list(ids), "layers": layers}}
        describe_graph(temporary, about)
        networks = {"float32": network, "int8": OnnxNetwork(temporary)}
        seconds = _seconds(networks, windows[0])
        found: dict[str, list[CaseScore]] = {kind: [] for kind in networks}
        for number, case_id in enumerate(judged):
            for kind, one in networks.items():
                found[kind] += evaluate_case(project, ArrayRuntime(one, one.classes), config, case_id)
            on_progress(Progress("int8", number + 1, len(judged), case_id))
    summaries = {kind: summarise(scores) for kind, scores in found.items()}
    dice = {
        name: {kind: summary[name].dice for kind, summary in summaries.items()}
        for name in network.classes
        if name in summaries["float32"]
    }
    return Int8(path, layers, ids, len(judged), dice, seconds)


def case_windows(project: Project, config: Config, case_id: str) -> list[Windows]:
    """(1, 1, X, Y, Z) float32 windows of a case that hold body, at most six, spread over them all."""
    image, frame = to_network(project.pool.load(case_id), config.preprocessing)
    size = config.inference.patch_size
    body = find_body(image, frame.network.spacing_mm, config.preprocessing)
    around = layout(image.shape, size, config.inference.overlap, body)
    padded = np.pad(image, list(zip(around.before, around.after, strict=True)))
    corners = around.held or around.corners
    chosen = np.unique(np.linspace(0, len(corners) - 1, WINDOWS_PER_CASE).astype(int))
    boxes = [tuple(slice(c, c + s) for c, s in zip(corners[k], size, strict=True)) for k in chosen]
    return [np.ascontiguousarray(padded[box])[None, None] for box in boxes]


def quantise(source: Path, path: Path, windows: Sequence[Windows]) -> int:
    """Write `source` with its wide convolutions in 8 bits, ranges from `windows`; returns how many these are.

    Weights by channel, symmetric; activations by layer, with their smallest and largest value (onnxruntime's MinMax).
    """
    quantization, shapes = need("onnxruntime.quantization"), need("onnxruntime.quantization.shape_inference")
    with TemporaryDirectory(prefix="ctune-int8-") as folder:
        ready = Path(folder) / "ready.onnx"
        # Symbolic shapes would need sympy: here only the batch has none.
        shapes.quant_pre_process(str(source), str(ready), skip_symbolic_shape=True)
        nodes = _wide(need("onnx").load(str(ready)))
        quantization.quantize_static(
            str(ready),
            str(path),
            _reader(quantization, windows),
            quant_format=quantization.QuantFormat.QDQ,
            op_types_to_quantize=["Conv"],
            # An empty list would mean all of them.
            nodes_to_quantize=nodes or ["none"],
            per_channel=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
        )
    return len(nodes)


def _wide(graph: Any) -> list[str]:
    shapes = {one.name: list(one.dims) for one in graph.graph.initializer}
    return [
        node.name
        for node in graph.graph.node
        if node.op_type == "Conv" and shapes.get(node.input[1], [0, 0])[1] >= LEAST_CHANNELS
    ]


def _reader(quantization: Any, windows: Sequence[Windows]) -> Any:
    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._left = iter(windows)

        def get_next(self) -> dict[str, Windows] | None:
            window = next(self._left, None)
            return None if window is None else {"windows": window}

    return Reader()


def _judged(project: Project, case_ids: Sequence[str], classes: Sequence[str], split: Split) -> list[str]:
    """The cases whose annotations say something about these classes."""
    found = [
        case_id
        for case_id in case_ids
        if {project.class_of(record) for record in project.pool.annotations(case_id)} & set(classes)
    ]
    if not found:
        raise PoolError(
            f"expected annotations of {', '.join(classes)} in cases of the split '{split}' to measure what int8 costs, got "
            "none; import some with --split test"
        )
    return found


def _seconds(networks: Mapping[str, OnnxNetwork], window: Windows) -> dict[str, float]:
    """Median seconds of a window, the networks in turn."""
    taken: dict[str, list[float]] = {kind: [] for kind in networks}
    for _ in range(_ROUNDS):
        for kind, network in networks.items():
            begun = perf_counter()
            network(window)
            taken[kind].append(perf_counter() - begun)
    return {kind: median(seconds) for kind, seconds in taken.items()}
