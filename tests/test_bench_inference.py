"""The benchmark of inference: its processes answer, its figures are what they say, its promises are gates."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_network import GRID, config, network, volume

from ctune.bench.catalogue import Preset
from ctune.bench.inference.pipelines import load_network, save_network
from ctune.bench.inference.protocol import (
    ALL_THREADS,
    STAGES,
    agreement,
    config_of,
    gates,
    one,
    onnx_difference,
    summary,
)
from ctune.classes import NINE_ORGANS
from ctune.data.nifti import read_mask, write_mask, write_volume
from ctune.errors import GateError
from ctune.types import Grid


def test_a_process_answers_with_stages_and_its_own_peak(tmp_path: Path) -> None:
    write_volume(tmp_path / "ct.nii.gz", volume(0)[0], GRID)
    save_network(network(), tmp_path / "network")
    held = np.ones(2**28, dtype=np.uint8)  # 256 MiB here are no part of the other process's peak
    answer = one(
        "ctune", tmp_path / "ct.nii.gz", tmp_path / "network", ["liver"], config(), 1, tmp_path / "out"
    )
    assert held[-1] and set(STAGES) <= set(answer["stages"]) and answer["peak_mb"] >= answer["loaded_mb"]
    assert (tmp_path / "out" / "ct" / "liver.nii.gz").exists()
    stamp = (tmp_path / "out" / "ct" / "liver.nii.gz").stat().st_mtime_ns
    one("ctune", tmp_path / "ct.nii.gz", tmp_path / "network", ["liver"], config(), 1, tmp_path / "out")
    assert (tmp_path / "out" / "ct" / "liver.nii.gz").stat().st_mtime_ns != stamp, (
        "what is there is not found done"
    )


def test_onnxruntime_is_a_pipeline_too(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="the extra `onnx` is not installed")
    write_volume(tmp_path / "ct.nii.gz", volume(0)[0], GRID)
    save_network(network(), tmp_path / "network")
    # An untrained network's probabilities lie around .48: masks of some size come from a threshold there.
    settings = config(inference={**config().inference.model_dump(), "threshold": 0.48})
    found = [
        one(name, tmp_path / "ct.nii.gz", tmp_path / "network", ["liver"], settings, 1, tmp_path / name)
        for name in ("ctune", "onnx")
    ]
    assert set(found[0]["stages"]) == set(found[1]["stages"])
    masks = [read_mask(tmp_path / name / "ct" / "liver.nii.gz", GRID, name) for name in ("ctune", "onnx")]
    assert (masks[0] != masks[1]).sum() <= 4 and 0 < masks[0].sum() < masks[0].size


def test_classes_beyond_those_trained_get_a_copy_of_a_head(tmp_path: Path) -> None:
    save_network(network(), tmp_path)
    loaded = load_network(tmp_path, ["liver", "spleen", "class_0"], config())
    assert loaded.classes == ("liver", "spleen", "class_0")


def test_logits_of_onnxruntime_are_compared_on_the_cts_own_windows(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="the extra `onnx` is not installed")
    write_volume(tmp_path / "ct.nii.gz", volume(0)[0], GRID)
    save_network(network(), tmp_path / "network")
    found = onnx_difference(tmp_path / "ct.nii.gz", tmp_path / "network", config(), tmp_path / "w.onnx")
    assert 0 < found["max_abs_diff"] < 1e-4 < found["largest_logit"]


def test_agreement_is_dice_by_class(tmp_path: Path) -> None:
    import nibabel as nib

    grid, stack = Grid((4, 4, 4), np.eye(4)), np.zeros((4, 4, 4, 9), dtype=np.uint8)
    stack[:2, :, :, 0] = 1
    (tmp_path / "monai").mkdir()
    nib.save(nib.Nifti1Image(stack, np.eye(4)), tmp_path / "monai" / "ct_trans.nii.gz")
    for k, name in enumerate(NINE_ORGANS):
        mask = np.zeros((4, 4, 4), dtype=np.uint8)
        mask[:1] = k == 0
        write_mask(tmp_path / "ctune" / "ct" / f"{name}.nii.gz", mask, grid)
    found = agreement(tmp_path)
    assert found[NINE_ORGANS[0]] == pytest.approx(2 * 16 / 48, abs=1e-4) and found[NINE_ORGANS[1]] is None


def test_promises_are_gates_on_a_whole_ct() -> None:
    def answer(seconds: float, peak: float) -> dict[str, Any]:
        return {
            "seconds": seconds,
            "processor_seconds": seconds,
            "peak_mb": peak,
            "processor_stages": dict.fromkeys(STAGES, seconds),
        }

    def pair(factor: float) -> dict[str, Any]:
        turn = {"ctune": answer(1, 100), "onnx": answer(0.5, 100), "monai": answer(factor, 400)}
        disturbed = {**turn, "ctune": answer(3, 100), "monai": answer(2 * factor, 400)}
        return {**turn, "one thread": [disturbed, turn]}

    found = {"seed 0": pair(2), "seed 1": pair(4), "seed 2": pair(5)}
    found["onnx"] = {"max_abs_diff": 2e-5, "largest_logit": 9.0}
    found["tall"] = {"9": answer(1, 1000), "32": answer(1, 1050)}
    measures = summary(found)
    assert (measures["speedup_over_monai"], measures["peak_memory_ratio_to_monai"]) == (4, 0.25)
    assert (
        measures["tall_peak_ratio_32_to_9_classes"] == 1.05 and measures["ctune_stage_seconds"]["read"] == 1.0
    )
    assert measures["stage_ratio_to_monai"] == dict.fromkeys(STAGES, 0.25)
    assert (measures["onnx_network_ratio_to_torch"], measures["onnx_max_abs_diff"]) == (0.5, 2e-5)
    assert all(gate.passed for gate in gates(measures, Preset.CPU)) and gates(measures, Preset.SMOKE) == []
    from ctune.bench.result import check_gates

    worse = gates({**measures, "worst_stage_ratio_to_monai": 1.2}, Preset.CPU)
    with pytest.raises(GateError, match=r"worst_stage_ratio_to_monai: expected at most 1\.05, got 1\.2"):
        check_gates(worse)
    slow = gates({**measures, "speedup_over_monai": 2.9}, Preset.CPU)
    with pytest.raises(GateError, match=r"speedup_over_monai: expected at least 3, got 2\.9"):
        check_gates(slow)


def test_an_accelerator_is_compared_by_the_wall_and_with_its_memory() -> None:
    def answer(seconds: float, peak: float) -> dict[str, Any]:
        stages = dict.fromkeys(STAGES, seconds)
        return {
            "seconds": seconds,
            "processor_seconds": 1.0,
            "peak_mb": 9.0,
            "gpu_peak_mb": peak,
            "stages": stages,
        }

    turn = {"ctune": answer(1, 100), "monai": answer(2, 400)}
    measures = summary({"seed 0": {**turn, ALL_THREADS: [turn, turn]}})
    assert (measures["speedup_over_monai"], measures["gpu_peak_memory_ratio_to_monai"]) == (2, 0.25)
    assert measures["stage_ratio_to_monai"] == dict.fromkeys(STAGES, 0.5)
    assert not any("onnx" in name for name in measures)
    assert [gate.figure for gate in gates(measures, Preset.GPU)] == ["speedup_over_monai"]
    assert config_of("gpu").base.architecture == "swin_unetr" and config_of("gpu").device == "cuda"


def test_on_a_processor_no_memory_of_an_accelerator_is_told(tmp_path: Path) -> None:
    write_volume(tmp_path / "ct.nii.gz", volume(0)[0], GRID)
    save_network(network(), tmp_path / "network")
    settings = config(preprocessing={"spacing_mm": (2.0, 2.0, 2.0), "crop_foreground": False})
    answer = one(
        "monai", tmp_path / "ct.nii.gz", tmp_path / "network", ["liver"], settings, 1, tmp_path / "out"
    )
    assert "gpu_peak_mb" not in answer and set(STAGES) <= set(answer["stages"])
