"""Published checkpoints: same logits as the published network, every key accounted for, nothing executed."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typer.testing import CliRunner

from cli.main import app
from ctune.compositions import load_model
from ctune.config import BaseConfig
from ctune.errors import ModelError
from ctune.model.base import build_base
from ctune.model.checkpoints import UNIVERSAL_CLASSES, read_checkpoint
from registry import Registry

NAMES = ("liver", "spleen", "aorta")
SMALL = BaseConfig(architecture="unet_small", channels=(4, 8))
SWIN = BaseConfig(architecture="swin_unetr", feature_size=12)
STATISTICS = {"running_mean": torch.zeros(4), "running_var": torch.ones(4)}


def published(config: BaseConfig = SMALL, classes: int = 3, prefix: str = "module.") -> dict[str, Tensor]:
    """The weights of a universal model as its authors' file spells them, all random."""
    made = dict(build_base(config, seed=7).state_dict())
    generator = torch.Generator().manual_seed(1)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator) / 8

    made |= {
        "controller.weight": random(153, 512, 1, 1, 1),
        "controller.bias": random(153),
        "organ_embedding": random(classes, 512),
        "text_to_vision.weight": random(256, 512),
        "text_to_vision.bias": random(256),
    }
    return {prefix + name: tensor.clone() for name, tensor in made.items()}


def save(path: Path, net: Any) -> Path:
    torch.save({"net": net, "optimizer": {"state": {}}, "scheduler": {"last_epoch": 3}, "epoch": 4}, path)
    return path


def restated_unet(w: dict[str, Tensor], x: Tensor) -> Tensor:
    """The published forward of two levels, one patch at a time, as functions of its weights; norm over the batch."""

    def conv(name: str, x: Tensor) -> Tensor:
        x = F.conv3d(x, w[f"{name}.conv1.weight"], w[f"{name}.conv1.bias"], padding=1)
        mean, var = None, None
        return F.relu(
            F.batch_norm(x, mean, var, w[f"{name}.bn1.weight"], w[f"{name}.bn1.bias"], training=True)
        )

    def double(name: str, x: Tensor) -> Tensor:
        return conv(f"{name}.ops.1", conv(f"{name}.ops.0", x))

    def reader(name: str, x: Tensor) -> Tensor:
        return F.relu(F.group_norm(x, min(16, x.shape[1]), w[f"{name}.0.weight"], w[f"{name}.0.bias"]))

    skip = double("backbone.down_tr64", x)
    deep = double("backbone.down_tr128", F.max_pool3d(skip, 2))
    up = F.conv_transpose3d(
        deep, w["backbone.up_tr64.up_conv.weight"], w["backbone.up_tr64.up_conv.bias"], stride=2
    )
    out = double("backbone.up_tr64", torch.cat((up, skip), dim=1))
    maps = F.conv3d(reader("precls_conv", out), w["precls_conv.2.weight"], w["precls_conv.2.bias"])
    pooled = F.adaptive_avg_pool3d(reader("GAP", deep), 1)
    pooled = F.conv3d(pooled, w["GAP.3.weight"], w["GAP.3.bias"])
    text = F.relu(F.linear(w["organ_embedding"], w["text_to_vision.weight"], w["text_to_vision.bias"]))
    logits = []
    for row in text:
        seen = torch.cat((pooled, row.view(1, -1, 1, 1, 1)), dim=1)
        numbers = F.conv3d(seen, w["controller.weight"], w["controller.bias"]).flatten()
        w1, w2, w3, b1, b2, b3 = numbers.split((64, 64, 8, 8, 8, 1))
        y = F.relu(F.conv3d(maps, w1.view(8, 8, 1, 1, 1), b1))
        y = F.relu(F.conv3d(y, w2.view(8, 8, 1, 1, 1), b2))
        logits.append(F.conv3d(y, w3.view(1, 8, 1, 1, 1), b3))
    return torch.cat(logits, dim=1)


@torch.no_grad()
def test_the_logits_are_those_of_the_published_network(tmp_path: Path) -> None:
    weights = published()
    found = read_checkpoint(save(tmp_path / "unet.pth", weights), "universal-model", NAMES)
    assert (found.unused, found.missing) == ((), ())
    assert found.network.classes == NAMES and found.network.base.config == SMALL
    plain = {name.removeprefix("module."): tensor for name, tensor in weights.items()}
    patch = torch.rand(1, 1, 8, 8, 8, generator=torch.Generator().manual_seed(3))
    expected = restated_unet(plain, patch)
    assert expected.std() > 1e-3
    torch.testing.assert_close(found.network(patch), expected, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_swin_unetr_by_names_and_in_any_order(tmp_path: Path) -> None:
    weights = published(SWIN, prefix="module.module.")
    backwards = dict(reversed(weights.items()))
    found = read_checkpoint(save(tmp_path / "swinunetr.pth", backwards), "universal-model", NAMES)
    assert found.network.base.config == SWIN
    expected = build_base(SWIN, seed=7).state_dict()
    assert all(torch.equal(leaf, expected[name]) for name, leaf in found.network.base.state_dict().items())


def test_the_32_classes_are_the_default(tmp_path: Path) -> None:
    found = read_checkpoint(save(tmp_path / "u.pth", published(classes=32)), "universal-model")
    assert len(UNIVERSAL_CLASSES) == 32 and found.network.classes[:3] == (
        "spleen",
        "kidney_right",
        "kidney_left",
    )
    with pytest.raises(
        ModelError, match=r"expected 32 different classes .* got 3; pass --classes in the order"
    ):
        read_checkpoint(tmp_path / "u.pth", "universal-model", NAMES)


def test_statistics_of_batch_norm_and_other_keys_are_reported(tmp_path: Path) -> None:
    weights = published() | {f"module.backbone.down_tr64.ops.0.bn1.{k}": v for k, v in STATISTICS.items()}
    found = read_checkpoint(save(tmp_path / "u.pth", weights), "universal-model", NAMES)
    assert found.unused == tuple(f"module.backbone.down_tr64.ops.0.bn1.{k}" for k in sorted(STATISTICS))


@pytest.mark.parametrize("gone", ["backbone.up_tr64.ops.1.conv1.weight", "GAP.3.bias", "organ_embedding"])
def test_a_missing_key_is_named(tmp_path: Path, gone: str) -> None:
    weights = published()
    del weights[f"module.{gone}"]
    with pytest.raises(ModelError, match=f"1 are missing: {gone}; pass the format"):
        read_checkpoint(save(tmp_path / "u.pth", weights), "universal-model", NAMES)


def test_another_shape_and_a_weight_that_is_there_twice(tmp_path: Path) -> None:
    weights = published() | {"module.GAP.3.bias": torch.zeros(7)}
    with pytest.raises(ModelError, match=r"expected GAP.3.bias to be \(256,\) in .*, got \(7,\)"):
        read_checkpoint(save(tmp_path / "u.pth", weights), "universal-model", NAMES)
    twice = published() | {"GAP.3.bias": torch.zeros(256)}
    with pytest.raises(ModelError, match="expected every weight once"):
        read_checkpoint(save(tmp_path / "t.pth", twice), "universal-model", NAMES)


@pytest.mark.parametrize("config", [SMALL, SWIN])
@pytest.mark.parametrize("prefix", ["module.backbone.", "module.", ""])
def test_suprem_is_a_base_without_heads(tmp_path: Path, config: BaseConfig, prefix: str) -> None:
    backbone = build_base(config, seed=7).backbone.state_dict()
    last = {f"{prefix}out_tr.final_conv.weight": torch.zeros(2, 4, 1, 1, 1)}
    weights = {prefix + name: leaf for name, leaf in backbone.items()} | last
    found = read_checkpoint(save(tmp_path / "suprem.pth", weights), "suprem")
    assert found.network.classes == () and found.unused == tuple(last)
    assert {name.split(".")[0] for name in found.missing} == {"GAP", "precls_conv"}
    loaded = found.network.base.backbone.state_dict()
    assert all(torch.equal(loaded[name], leaf) for name, leaf in backbone.items())


class Marker:
    """Pickles to a call that makes a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def test_a_malicious_pickle_is_refused_in_one_line_and_not_executed(tmp_path: Path) -> None:
    marker, file = (
        tmp_path / "executed",
        save(tmp_path / "bad.pth", published() | {"x": Marker(tmp_path / "executed")}),
    )
    (tmp_path / "registry").mkdir()
    words = [
        "registry",
        "import-checkpoint",
        file,
        "--format",
        "universal-model",
        "--registry",
        tmp_path / "registry",
    ]
    answer = CliRunner().invoke(app, [str(word) for word in words])
    assert answer.exit_code == 1 and not marker.exists()
    assert "which ctune never executes" in answer.stderr and len(answer.stderr.strip().splitlines()) == 1
    assert b"mkdir" in file.read_bytes(), "the file must be one that a careless reader would execute"


@pytest.mark.parametrize("content", [b"", b"no checkpoint", b"PK\x03\x04 half a zip"])
def test_a_damaged_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "u.pth").write_bytes(content)
    with pytest.raises(ModelError, match="expected a torch checkpoint of plain weights in"):
        read_checkpoint(tmp_path / "u.pth", "universal-model")


def test_other_content_is_refused(tmp_path: Path) -> None:
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(ModelError, match=r"expected a dict of weights .* got list"):
        read_checkpoint(tmp_path / "list.pth", "suprem")
    other = nn.Conv3d(1, 2, 3).state_dict()
    with pytest.raises(ModelError, match="got bias, weight; other networks cannot be imported"):
        read_checkpoint(save(tmp_path / "conv.pth", other), "suprem")


@torch.no_grad()
def test_the_command_registers_a_model_that_loads_with_the_same_logits(tmp_path: Path) -> None:
    file = save(tmp_path / "unet.pth", published())
    (tmp_path / "registry").mkdir()
    words = ["--format", "universal-model", "--classes", ",".join(NAMES), "--name", "atlas"]
    answer = CliRunner().invoke(
        app,
        [
            "registry",
            "import-checkpoint",
            str(file),
            *words,
            "--registry",
            str(tmp_path / "registry"),
            "--json",
        ],
    )
    assert answer.exit_code == 0, answer.output
    model = load_model(Registry.open(tmp_path / "registry"), "atlas", torch.device("cpu"))
    assert model.preprocessing.spacing_mm == (1.5, 1.5, 1.5)
    patch = torch.rand(1, 1, 8, 8, 8, generator=torch.Generator().manual_seed(3))
    expected = read_checkpoint(file, "universal-model", NAMES).network(patch)
    assert torch.equal(model.network(patch, NAMES), expected)
