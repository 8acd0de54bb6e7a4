"""The base: the network that all classes share, and the features that it hands to the heads.

Base = backbone (U-Net or Swin UNETR) + two small readers, with the published names and shapes:
``precls_conv`` (output -> 8 channels, the map on which text heads run) and ``GAP`` (bottleneck -> 256
numbers).

No layer of a base depends on batch mates: every norm works within one sample. ``assert_no_batch_coupling``
holds it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ctune.config import BaseConfig
from ctune.errors import ModelError
from ctune.model.unet import UNetBackbone

MAP_CHANNELS = 8
GLOBAL_CHANNELS = 256
PUBLISHED_CHANNELS = (64, 128, 256, 512)


@dataclass(frozen=True)
class Channels:
    """Channels of the features of a base: bottleneck, skips (finest first), levels (coarsest first)."""

    bottleneck: int
    skips: tuple[int, ...]
    levels: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Features:
    """What a base makes of N patches.

    bottleneck: (N, B, X/s, Y/s, Z/s), s the coarsest stride.
    skips: encoder maps, finest first; skips[i] is (N, C, X/2^i, Y/2^i, Z/2^i).
    levels: decoder maps, coarsest first; levels[-1] is at full resolution.
    map: (N, 8, X, Y, Z), what text heads run on. global_: (N, 256), pooled from the whole patch.
    """

    bottleneck: Tensor
    skips: tuple[Tensor, ...]
    levels: tuple[Tensor, ...]
    map: Tensor
    global_: Tensor

    @property
    def shape(self) -> tuple[int, int, int]:
        """(X, Y, Z) of the patch in voxels."""
        x, y, z = self.map.shape[2:]
        return x, y, z

    @property
    def stride(self) -> int:
        """Voxels of the patch along one edge of a voxel of the bottleneck."""
        return 1 << len(self.skips)

    def apply(self, function: Callable[[Tensor], Tensor]) -> Features:
        """The same features with `function` applied to each tensor, e.g. ``lambda t: t.half()``."""
        return Features(
            bottleneck=function(self.bottleneck),
            skips=tuple(function(t) for t in self.skips),
            levels=tuple(function(t) for t in self.levels),
            map=function(self.map),
            global_=function(self.global_),
        )

    def crop(self, slices: Sequence[slice]) -> Features:
        """The features of a box of the patch; `global_` stays that of the whole patch.

        slices: three slices in voxels at full resolution, without step; start and stop are multiples of
        `stride`.
        Raises ModelError otherwise, or when the box leaves the patch.
        """
        box = _aligned_box(slices, self.shape, self.stride)

        def cut(tensor: Tensor) -> Tensor:
            step = self.shape[0] // tensor.shape[2]
            x, y, z = (slice(start // step, stop // step) for start, stop in box)
            return tensor[:, :, x, y, z]

        return Features(
            bottleneck=cut(self.bottleneck),
            skips=tuple(cut(t) for t in self.skips),
            levels=tuple(cut(t) for t in self.levels),
            map=cut(self.map),
            global_=self.global_,
        )

    def tensors(self) -> dict[str, Tensor]:
        """{name: tensor}, for keeping features on disk; ``Features.of`` is the way back."""
        named = {"bottleneck": self.bottleneck, "map": self.map, "global": self.global_}
        named |= {f"skip{i}": t for i, t in enumerate(self.skips)}
        named |= {f"level{i}": t for i, t in enumerate(self.levels)}
        return named

    @staticmethod
    def of(named: dict[str, Tensor]) -> Features:
        """Features from what ``tensors`` gave."""
        count = sum(name.startswith("skip") for name in named)
        return Features(
            bottleneck=named["bottleneck"],
            skips=tuple(named[f"skip{i}"] for i in range(count)),
            levels=tuple(named[f"level{i}"] for i in range(count)),
            map=named["map"],
            global_=named["global"],
        )


def _aligned_box(slices: Sequence[slice], shape: Sequence[int], stride: int) -> list[tuple[int, int]]:
    box = []
    for axis, part, side in zip("XYZ", slices, shape, strict=True):
        start, stop = part.start or 0, side if part.stop is None else part.stop
        inside = 0 <= start < stop <= side and part.step in (None, 1)
        if not inside or start % stride or stop % stride:
            raise ModelError(
                f"expected a crop of features along {axis} within 0..{side}, from and to "
                f"multiples of {stride}, got {start}..{stop}; align the sub-patch to the coarsest stride"
            )
        box.append((start, stop))
    return box


class Base(nn.Module):
    """The shared network: (N, 1, X, Y, Z) float32 in [0, 1] -> Features.

    Parameter names are the published ones: ``backbone.*``, ``precls_conv.{0,2}.*``, ``GAP.{0,3}.*``.
    """

    def __init__(self, config: BaseConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone, self.channels = _backbone(config)
        output = self.channels.levels[-1]
        self.precls_conv = nn.Sequential(
            nn.GroupNorm(_groups(output), output), nn.ReLU(), nn.Conv3d(output, MAP_CHANNELS, kernel_size=1)
        )
        bottleneck = self.channels.bottleneck
        self.GAP = nn.Sequential(
            nn.GroupNorm(_groups(bottleneck), bottleneck),
            nn.ReLU(),
            nn.AdaptiveAvgPool3d(1),
            nn.Conv3d(bottleneck, GLOBAL_CHANNELS, kernel_size=1),
        )

    @property
    def stride(self) -> int:
        """Sides of a patch must be multiples of this."""
        return 1 << len(self.channels.skips)

    @property
    def decoder_names(self) -> tuple[str, ...]:
        """Names of the submodules after the bottleneck: what `heads+decoder` trains besides heads."""
        return (*(f"backbone.{name}" for name in self.backbone.decoder_names), "precls_conv")

    def forward(self, x: Tensor) -> Features:
        """Features of N patches. Raises ModelError for sides off the `stride`, or all equal to it."""
        self._check(x)
        bottleneck, skips, levels = self.backbone(x)
        return Features(
            bottleneck, skips, levels, self.precls_conv(levels[-1]), self.GAP(bottleneck).flatten(1)
        )

    def _check(self, x: Tensor) -> None:
        sides = tuple(int(side) for side in x.shape[2:])
        whole = (
            x.ndim == 5 and x.shape[1] == 1 and all(side > 0 and side % self.stride == 0 for side in sides)
        )
        # Instance norm over a single voxel has no variance: the bottleneck needs at least two.
        if not whole or math.prod(sides) == self.stride**3:
            raise ModelError(
                f"expected patches (N, 1, X, Y, Z) with sides in multiples of {self.stride}, one of them "
                f"{2 * self.stride} or more, for {self.config.architecture}; got {tuple(x.shape)}; "
                f"pad the patch or change patch_size"
            )


def build_base(config: BaseConfig, seed: int) -> Base:
    """A base with random weights, in evaluation mode, on the CPU.

    The same config and seed give the same weights; the global random state is left as it was.
    Raises ModelError for channels that cannot make a network.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        base = Base(config).eval()
    assert_no_batch_coupling(base)
    return base


def assert_no_batch_coupling(base: nn.Module) -> None:
    """Raise ModelError naming the first layer that mixes samples of a batch or keeps running statistics.

    Such a layer would make the logits of one patch depend on its batch mates, or drift while only heads
    train.
    """
    for name, module in base.named_modules():
        batch_norm = isinstance(module, nn.modules.batchnorm._BatchNorm)
        running = getattr(module, "track_running_stats", False)
        if batch_norm or running:
            raise ModelError(
                f"expected a base whose layers look at one sample at a time, got {type(module).__name__} at "
                f"{name!r}; use InstanceNorm3d(affine=True) or GroupNorm there"
            )


def _groups(channels: int) -> int:
    # 16 for the published sizes; the largest divisor of 16 that fits for others.
    return math.gcd(16, channels)


def _backbone(config: BaseConfig) -> tuple[UNetBackbone, Channels]:
    """The backbone of `config`; a Swin UNETR has the same forward and `decoder_names` as the U-Net."""
    if config.architecture == "swin_unetr":
        # Imported here: MONAI takes seconds to import and a U-Net needs none of it.
        from ctune.model.swin_unetr import SwinUNETRBackbone

        f = config.feature_size
        channels = Channels(16 * f, (f, f, 2 * f, 4 * f, 8 * f), (8 * f, 4 * f, 2 * f, f, f))
        return SwinUNETRBackbone(f), channels
    widths = PUBLISHED_CHANNELS if config.architecture == "unet" else config.channels
    if len(widths) < 2 or any(width < 2 or width % 2 for width in widths):
        raise ModelError(
            f"expected two or more even numbers as channels of {config.architecture}, got {widths}; "
            f"change base.channels in ctune.toml"
        )
    return UNetBackbone(widths), Channels(widths[-1], tuple(widths[:-1]), tuple(reversed(widths[:-1])))
