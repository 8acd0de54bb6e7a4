"""The 3-D U-Net of the published universal model, with its key names.

Code that it follows: the U-Net of CLIP-Driven Universal Model (Liu et al., ICCV 2023), 19.08 M parameters
with channels 64, 128, 256, 512. One thing differs: its batch norm always used the statistics of the batch at
hand, which with one patch in the batch is instance norm with the same affine. So ``bn1`` here is an
InstanceNorm3d: the same output for one patch, and no dependence on batch mates or on buffers that drift.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Convolution(nn.Module):
    """3x3x3 convolution, instance norm, ReLU."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv3d(channels_in, channels_out, kernel_size=3, padding=1)
        self.bn1 = nn.InstanceNorm3d(channels_out, affine=True, track_running_stats=False)

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels_in, X, Y, Z) -> (N, channels_out, X, Y, Z)."""
        y: Tensor = torch.relu(self.bn1(self.conv1(x)))
        return y


class Down(nn.Module):
    """Two convolutions; the first makes half of the level's channels, as published."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        half = channels_out // 2
        self.ops = nn.Sequential(Convolution(channels_in, half), Convolution(half, channels_out))

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels_in, X, Y, Z) -> (N, channels_out, X, Y, Z)."""
        y: Tensor = self.ops(x)
        return y


class Up(nn.Module):
    """Twice the size by transposed convolution, beside the encoder's skip, then two convolutions."""

    def __init__(self, channels_below: int, channels: int) -> None:
        super().__init__()
        self.up_conv = nn.ConvTranspose3d(channels_below, channels_below, kernel_size=2, stride=2)
        self.ops = nn.Sequential(
            Convolution(channels_below + channels, channels), Convolution(channels, channels)
        )

    def forward(self, below: Tensor, skip: Tensor) -> Tensor:
        """below (N, channels_below, X/2, Y/2, Z/2), skip (N, channels, X, Y, Z) -> (N, channels, X, Y, Z)."""
        y: Tensor = self.ops(torch.cat((self.up_conv(below), skip), dim=1))
        return y


class UNetBackbone(nn.Module):
    """Encoder and decoder, with the published names: 64, 128, ... say the depth of a level.

    They are also its width only with the published channels. channels: by level, finest first; even numbers.
    """

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        self.depth = len(channels)
        before = (1, *channels)
        for level, width in enumerate(channels):
            self.add_module(f"down_tr{64 << level}", Down(before[level], width))
        for level in reversed(range(self.depth - 1)):
            self.add_module(f"up_tr{64 << level}", Up(channels[level + 1], channels[level]))

    @property
    def decoder_names(self) -> tuple[str, ...]:
        """Names of the submodules that make the decoder."""
        return tuple(f"up_tr{64 << level}" for level in reversed(range(self.depth - 1)))

    def forward(self, x: Tensor) -> tuple[Tensor, tuple[Tensor, ...], tuple[Tensor, ...]]:
        """(N, 1, X, Y, Z) -> bottleneck, encoder skips (finest first), decoder levels (coarsest first)."""
        skips: list[Tensor] = []
        for level in range(self.depth):
            if level:
                x = nn.functional.max_pool3d(x, 2)
            x = self.get_submodule(f"down_tr{64 << level}")(x)
            skips.append(x)
        bottleneck = skips.pop()
        levels: list[Tensor] = []
        below = bottleneck
        for level in reversed(range(self.depth - 1)):
            below = self.get_submodule(f"up_tr{64 << level}")(below, skips[level])
            levels.append(below)
        return bottleneck, tuple(skips), tuple(levels)
