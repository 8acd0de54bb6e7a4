"""What runs in a window: a network of torch, or any function on arrays, such as a session of onnxruntime."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from ctune.config import Inference
from ctune.errors import HeadBaseMismatchError, ModelError
from ctune.model.base import Features
from ctune.model.fingerprint import fingerprint
from ctune.model.network import Network


class Runtime(Protocol):
    """A network with its weights loaded.

    classes: what it gives logits for, in order. device: where windows must lie and logits come. One that also runs earlier
    heads has ``versions``, how often it gives the classes (``versions_of``).
    """

    @property
    def classes(self) -> tuple[str, ...]: ...

    @property
    def device(self) -> torch.device: ...

    def logits(self, windows: Tensor) -> Iterator[Tensor]:
        """Windows (N, 1, X, Y, Z) float32 in [0, 1] -> (N, X, Y, Z) float32 of one class after the other.

        All classes in order, as often as there are versions. Each is the caller's to change, and gone when the next comes: memory does not
        grow with the number of classes.
        """
        ...


class TorchRuntime:
    """The network of ctune; the base runs once for all `classes` (all of the network's when None).

    earlier: networks of former rounds on the same base, newest first; their heads run on the same features, and a class
    that one of them lacks gets the network's own logits again. Raises UnknownClassError for a class that the network lacks,
    HeadBaseMismatchError for an earlier network on another base.
    """

    def __init__(
        self,
        network: Network,
        classes: Sequence[str] | None,
        settings: Inference,
        earlier: Sequence[Network] = (),
    ) -> None:
        self.network = network.eval()
        self.classes = tuple(dict.fromkeys(network.classes if classes is None else classes))
        for name in self.classes:
            network.head(name)
        for other in earlier:
            _check_base(network, other)
        self._earlier = [other.eval() for other in earlier]
        self.versions = 1 + len(self._earlier)
        self.device = next(network.parameters()).device
        on_gpu = self.device.type == "cuda"
        self._half = on_gpu and settings.mixed_precision
        self._base: nn.Module = network.base
        if on_gpu and settings.compile:
            self._base = cast("nn.Module", torch.compile(network.base))
        elif not on_gpu and network.base.config.architecture != "swin_unetr":
            # Channels last: a fifth less time in the convolutions of unet_small on a CPU. A copy, because whoever else
            # holds the network must go on getting the same bits from it.
            copied = copy.deepcopy(network.base)
            self._base = copied.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]

    def only(self, classes: Sequence[str]) -> TorchRuntime:
        """The same network for some of its classes; weights are shared."""
        found = copy.copy(self)
        found.classes = tuple(classes)
        return found

    def logits(self, windows: Tensor) -> Iterator[Tensor]:
        """See ``Runtime``."""
        if self.classes:
            features = self._features(windows)
            for network in (self.network, *self._earlier):
                for name in self.classes:
                    yield self._logits(network if name in network.classes else self.network, name, features)

    # Modes are entered and left within a call: around a generator's ``yield`` they would leak to whoever asks.
    @torch.inference_mode()
    def _features(self, windows: Tensor) -> Features:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self._half):
            features: Features = self._base(windows)
            return features

    @torch.inference_mode()
    def _logits(self, network: Network, name: str, features: Features) -> Tensor:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self._half):
            logits: Tensor = network.head(name)(features)
            return logits[:, 0].float()


class ArrayRuntime:
    """A function from windows (N, 1, X, Y, Z) float32 to logits (N, K, X, Y, Z) float32, channel k is classes[k]."""

    device = torch.device("cpu")

    def __init__(
        self,
        function: Callable[[npt.NDArray[np.float32]], npt.NDArray[np.float32]],
        classes: Sequence[str],
    ) -> None:
        self._function, self.classes = function, tuple(classes)

    def logits(self, windows: Tensor) -> Iterator[Tensor]:
        """See ``Runtime``. Raises ModelError when the function gives another shape."""
        found = self._function(windows.numpy())
        expected = (len(windows), len(self.classes), *windows.shape[2:])
        if found.shape != expected:
            raise ModelError(
                f"expected logits {expected} for the classes {', '.join(self.classes)}, got {found.shape}; export the "
                "network again with these classes"
            )
        for k in range(len(self.classes)):
            yield torch.from_numpy(np.array(found[:, k], dtype=np.float32))


def as_runtime(
    network: Network | Runtime, settings: Inference, classes: Sequence[str] | None = None
) -> Runtime:
    """A network ready to predict `classes` (all of its own when None); a runtime is what it is, and has its own."""
    return TorchRuntime(network, classes, settings) if isinstance(network, Network) else network


def versions_of(runtime: Runtime) -> int:
    """How many versions of its heads a runtime has: 1 unless it runs earlier ones too."""
    return int(getattr(runtime, "versions", 1))


def _check_base(network: Network, earlier: Network) -> None:
    if earlier.base is network.base:
        return
    here, there = (fingerprint(found.base, modes=False) for found in (network, earlier))
    if here != there:
        raise HeadBaseMismatchError(
            f"expected earlier heads on the base {here[:12]}, got some on {there[:12]}; take rounds that tuned heads alone"
        )
