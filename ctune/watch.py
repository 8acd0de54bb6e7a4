"""Watch a network while it trains: look at the validation cases every few epochs, keep the best weights, stop in time.

A look runs windows laid as prediction lays them and stitches their logits with the same Gaussian. While only heads train,
the features of a window come from the cache; else the base computes them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from ctune.config import Inference, Optimisation
from ctune.data.files import write_atomically
from ctune.data.prepared import PreparedCase
from ctune.inference.windows import gaussian
from ctune.model.base import Base, Features
from ctune.model.features import Corner, FeatureSource, View, cut, window_corners
from ctune.model.network import Network
from ctune.validate import CaseDice, ClassDice, class_dice, dice_of

AT_ONCE = 2**28
"""Logits that are stitched at once (1 GiB): memory does not grow with the number of classes, rather the base runs again."""

FeaturesOf: TypeAlias = Callable[[PreparedCase, Corner], Features]
"""Features of the window of a case that begins at a corner."""


def cached_features(source: FeatureSource, size: Corner) -> FeaturesOf:
    """From the cache of a frozen base."""

    def of(case: PreparedCase, corner: Corner) -> Features:
        view = source.open(View(case.key, corner, size), partial(cut, case.image, corner, size, 0.0))
        return view.read((0, 0, 0), size)

    return of


def live_features(base: Base, size: Corner, device: torch.device) -> FeaturesOf:
    """From a base that itself trains."""

    def of(case: PreparedCase, corner: Corner) -> Features:
        window = torch.from_numpy(cut(case.image, corner, size, 0.0))[None, None]
        features: Features = base(window.to(device))
        return features

    return of


@dataclass(frozen=True, eq=False)
class Validation:
    """The validation cases, ready to look at; each counts for the classes that its labels name."""

    cases: Sequence[PreparedCase]
    features: FeaturesOf
    inference: Inference
    device: torch.device

    def covers(self, classes: Sequence[str]) -> list[str]:
        """Those of `classes` that a case annotates."""
        return [name for name in classes if any(name in case.labels for case in self.cases)]

    def dice(self, network: Network, classes: Sequence[str]) -> dict[str, ClassDice]:
        """{class: its Dice on the cases that annotate it}, of the network as it is now; modes stay as they are.

        Only the heads of `classes` run, and the base where features are live.
        """
        found: dict[str, list[CaseDice]] = {name: [] for name in self.covers(classes)}
        modules = [network.head(name) for name in found] + [network.base]
        modes = [(module, module.training) for part in modules for module in part.modules()]
        for part in modules:
            part.eval()
        with torch.inference_mode():
            for case in self.cases:
                names = [name for name in found if name in case.labels]
                at_once = max(1, AT_ONCE // case.image.size)
                for chunk in (names[i : i + at_once] for i in range(0, len(names), at_once)):
                    for name, logits in zip(chunk, self._logits(network, case, chunk), strict=True):
                        mask = (torch.sigmoid(logits) > self.inference.threshold).numpy()
                        found[name].append(CaseDice(case.case_id, dice_of(mask, case.labels[name])))
        for module, training in modes:
            module.training = training
        return {name: class_dice(cases) for name, cases in found.items()}

    def _logits(self, network: Network, case: PreparedCase, names: Sequence[str]) -> Tensor:
        """(K, X, Y, Z) float32 on the network's grid, on the CPU."""
        size, shape = self.inference.patch_size, case.image.shape
        total, weights, gauss = torch.zeros((len(names), *shape)), torch.zeros(shape), gaussian(size)
        for corner in window_corners(shape, size, self.inference.overlap):
            features = self.features(case, corner).apply(lambda t: t.to(self.device))
            logits = network.logits(features, names)[0].float().cpu()
            inside = tuple(slice(0, min(s, n - c)) for s, n, c in zip(size, shape, corner, strict=True))
            there = tuple(slice(c, c + part.stop) for c, part in zip(corner, inside, strict=True))
            total[(slice(None), *there)] += logits[(slice(None), *inside)] * gauss[inside]
            weights[there] += gauss[inside]
        return total / weights


@dataclass(frozen=True)
class Look:
    """What one look saw: after `epoch` epochs, the mean over classes of their mean Dice, and the classes themselves."""

    epoch: int
    score: float
    dice: Mapping[str, ClassDice]


def look_of(epoch: int, dice: Mapping[str, ClassDice]) -> Look:
    """What one look saw; the score is 0 where there was nothing to measure."""
    means = [d.mean for d in dice.values() if d.mean is not None]
    return Look(epoch, float(np.mean(means)) if means else 0.0, dice)


@dataclass
class Watch:
    """Looks every few epochs, and remembers the best weights of what it watches.

    module: whose weights are kept. dice: gives {class: Dice} as it is now. Ties go to the earlier look. Patience begins
    once anything was found at all: a small organ stays at 0 for a while, and that is no reason to give up.
    keep: a file for what was seen and the best weights, so that a training that is killed and goes on ends the same.
    """

    module: nn.Module
    dice: Callable[[], Mapping[str, ClassDice]]
    settings: Optimisation
    keep: Path | None = None
    looks: list[Look] = field(default_factory=list)
    _identity: str = ""
    _weights: dict[str, Tensor] = field(default_factory=dict)

    def after(self, epoch: int) -> bool:
        """Look if it is time, `epoch` counted from 1; True when nothing got better for `patience` looks."""
        every = self.settings.validate_every
        if every == 0 or (epoch % every and epoch != self.settings.epochs):
            return False
        if any(look.epoch == epoch for look in self.looks):  # a training that goes on passes here again
            return self._exhausted(epoch)
        look = look_of(epoch, self.dice())
        if self.best is None or look.score > self.best.score:
            self._weights = {k: v.detach().cpu().clone() for k, v in self.module.state_dict().items()}
        self.looks.append(look)
        self._save()
        return self._exhausted(epoch)

    def on_epoch(self, epoch: int, _: Network) -> bool:
        """``after``, as ``train`` calls it."""
        return self.after(epoch)

    @property
    def best(self) -> Look | None:
        """The earliest of the looks with the highest score; None before the first."""
        return max(self.looks, key=lambda look: look.score, default=None)

    def restore(self) -> Look | None:
        """Put the best weights back, and say which look they are of; without a look the last weights stay."""
        if self.best is not None:
            self.module.load_state_dict(self._weights)
        return self.best

    def _exhausted(self, epoch: int) -> bool:
        seen = [look for look in self.looks if look.epoch <= epoch]
        best = max(seen, key=lambda look: look.score)
        since = sum(look.epoch > best.epoch for look in seen)
        return self.settings.patience > 0 and best.score > 0 and since >= self.settings.patience

    def _save(self) -> None:
        if self.keep is None:
            return
        about = {"identity": self._identity, "looks": json.dumps([_plain(look) for look in self.looks])}
        with write_atomically(self.keep) as temporary:
            save_file({k: v.contiguous() for k, v in self._weights.items()}, temporary, metadata=about)

    def resume(self, identity: str) -> None:
        """Go on from what `keep` holds, if it is of the same training (`identity`) and whole; else begin anew."""
        self._identity = identity
        if self.keep is None or not self.keep.exists():
            return
        try:
            with safe_open(self.keep, framework="pt") as file:
                about = file.metadata() or {}
                if about.get("identity") != identity:
                    return
                self._weights = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a mapping
                self.looks = [_look(plain) for plain in json.loads(about["looks"])]
        except (SafetensorError, OSError):
            return


def _plain(look: Look) -> dict[str, Any]:
    dice = {name: [[c.case_id, c.dice] for c in found.cases] for name, found in look.dice.items()}
    return {"epoch": look.epoch, "score": look.score, "dice": dice}


def _look(plain: dict[str, Any]) -> Look:
    dice = {name: class_dice([CaseDice(*case) for case in cases]) for name, cases in plain["dice"].items()}
    return Look(plain["epoch"], plain["score"], dice)
