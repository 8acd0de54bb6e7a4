"""What stands after a round of the benchmark of forgetting, kept on disk so that the next can begin there.

A stage is Dice of all classes so far by test case, and the masks behind it, so that the next can count the voxels that moved.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import load_file, save_file

from ctune.bench.study import Study
from ctune.config import Config
from ctune.data.files import read_json, write_atomically, write_json
from ctune.model.base import build_base
from ctune.model.heads import Kind, build_head
from ctune.model.network import Network
from ctune.predict import masks_of, predict_case
from ctune.types import Split
from ctune.validate import dice_of

Masks = dict[str, dict[str, npt.NDArray[np.uint8]]]
"""{class: {case: (X, Y, Z) uint8 on the CT's grid}}."""


@dataclass
class Stage:
    """dice: {class: {case: Dice or None}}. voxels_changed: {class from before: voxels of its masks that this round moved}.

    figures: seconds, steps and the like. model: digest in the registry, if it is there. weights: of the network, else.
    state: what a rival keeps for the next round.
    """

    dice: dict[str, dict[str, float | None]]
    voxels_changed: dict[str, int]
    figures: dict[str, Any] = field(default_factory=dict)
    masks: Masks = field(default_factory=dict)
    model: str = ""
    weights: dict[str, torch.Tensor] = field(default_factory=dict)
    state: dict[str, torch.Tensor] = field(default_factory=dict)

    def plain(self) -> dict[str, Any]:
        """As figures of a result."""
        return {"dice": self.dice, "voxels_changed": self.voxels_changed, **self.figures}

    def network(self, config: Config, kinds: Mapping[str, Kind], seed: int) -> Network:
        """The network whose weights this is. kinds: {class: kind of its head}, in the order of the classes."""
        base = build_base(config.base, seed)
        heads = {name: build_head(name, kind, base, seed, config.heads) for name, kind in kinds.items()}
        network = Network(base, heads)
        network.load_state_dict(self.weights)
        return network


def new_stage(network: Network) -> Stage:
    """Before anything: no class is known."""
    return Stage({name: {} for name in network.classes}, {})


def look(study: Study, network: Network, before: Stage, figures: Mapping[str, Any]) -> Stage:
    """Predict every class of `network` on the test cases; count what moved since `before`."""
    config = study.project.config
    after = Stage({n: {} for n in network.classes}, {}, dict(figures), {n: {} for n in network.classes})
    for case in study.project.pool.cases(Split.TEST):
        truth = study.masks(case.id, network.classes)
        found = masks_of(
            predict_case(network, study.project.pool.load(case.id), config, model=""),
            config.inference.threshold,
        )
        for name in network.classes:
            after.dice[name][case.id] = dice_of(found[name], truth[name])
            after.masks[name][case.id] = found[name]
            if (old := before.masks.get(name, {}).get(case.id)) is not None:
                moved = int((old != found[name]).sum())
                after.voxels_changed[name] = after.voxels_changed.get(name, 0) + moved
    return after


def write_stage(
    folder: Path, stage: Stage, network: Network | None, state: Mapping[str, torch.Tensor] | None = None
) -> None:
    """Keep a stage in `folder`; ``stage.json`` comes last."""
    folder.mkdir(parents=True, exist_ok=True)
    packed = {f"{n}/{c}": np.packbits(mask) for n, by in stage.masks.items() for c, mask in by.items()}
    shapes = {f"{n}/{c}": mask.shape for n, by in stage.masks.items() for c, mask in by.items()}
    with write_atomically(folder / "masks.npz") as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **packed)
    for name, tensors in (("weights", network.state_dict() if network else {}), ("state", state or {})):
        with write_atomically(folder / f"{name}.safetensors") as temporary:
            save_file({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, temporary)
    write_json(folder / "stage.json", {**stage.plain(), "model": stage.model, "shapes": shapes})


def read_stage(folder: Path) -> Stage:
    """What ``write_stage`` kept."""
    about, masks = read_json(folder / "stage.json"), Masks()
    with np.load(folder / "masks.npz", allow_pickle=False) as packed:
        for key, shape in about.pop("shapes").items():
            name, case = key.split("/")
            bits = np.unpackbits(packed[key], count=int(np.prod(shape)))
            masks.setdefault(name, {})[case] = bits.reshape(shape)
    dice, moved, model = (about.pop(key) for key in ("dice", "voxels_changed", "model"))
    kept = [load_file(folder / f"{name}.safetensors") for name in ("weights", "state")]
    return Stage(dice, moved, about, masks, model, *kept)
