"""Heads: the class-specific networks on a frozen base.

``TextHead`` is the paper's: global features and the class's text vector make the weights of three 1x1x1
convolutions. ``PyramidHead`` is a thin decoder over all levels of the base, for classes that the base never
saw.

Every class runs by itself, as calls of the same shape whatever other classes run. That is what makes its
logits the same bits in any company: a matrix product over several classes may take another kernel for another
number of classes. It is also the faster way on a CPU: nine text heads on 96^3 voxels took 82 ms one by one,
250 ms as one batched product and 404 ms as multiply-adds in a fixed order (2 cores, torch 2.13).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn

from ctune.classes import canonical
from ctune.config import HeadConfig
from ctune.errors import HeadBaseMismatchError, ModelError
from ctune.model.base import GLOBAL_CHANNELS, MAP_CHANNELS, Base, Channels, Features

Kind: TypeAlias = Literal["text", "pyramid"]

_C = MAP_CHANNELS
DYNAMIC_SIZES = (_C * _C, _C * _C, _C, _C, _C, 1)
"""How the controller's numbers are split: three weights, then three biases; 153 in all."""
PUBLISHED_HIDDEN = 512


class Head(nn.Module):
    """The network of one class: Features -> (N, 1, X, Y, Z) float32 logits.

    class_name: the class. base_digest: ``freeze.fingerprint(base, modes=False)`` of the base that the head
    was tuned on, or None when it was not tuned yet.
    """

    kind: Kind

    def __init__(self, class_name: str) -> None:
        super().__init__()
        self.class_name = canonical(class_name)
        self.base_digest: str | None = None

    def settings(self) -> dict[str, Any]:
        """What is needed besides the weights to build the head again; JSON values."""
        raise NotImplementedError

    def misfit(self, channels: Channels) -> str | None:
        """Why the head cannot run on a base of these channels ("expected, got"), or None when it can."""
        return None

    def start_at(self, probability: float) -> None:
        """Put the log odds of `probability` into the last bias, so that a fresh head begins by expecting no more than that.

        Focal loss for dense object detection (Lin et al., 2017), section 4.1. Raises ModelError outside (0, 1).
        """
        if not 0.0 < probability < 1.0:
            raise ModelError(
                f"expected a probability above 0 and below 1 for class {self.class_name}, got {probability}; count its voxels"
            )
        with torch.no_grad():
            self._last_bias().fill_(math.log(probability / (1.0 - probability)))

    def _last_bias(self) -> Tensor:
        """The one number that is added to every logit."""
        raise NotImplementedError


class TextHead(Head):
    """The paper's head in its class-specific form (Zhang et al., MICCAI 2023): one controller a class.

    concat(global 256, text T) -> Linear -> ReLU -> Linear(153) = three 1x1x1 convolutions 8 -> 8 -> 8 -> 1
    with ReLU between, run on the base's 8-channel map. With `hidden` 0 the controller is one linear layer.

    text: (T,) float32, the vector of the class name; T may be 0.
    """

    kind: Kind = "text"

    def __init__(self, class_name: str, text: Tensor, hidden: int) -> None:
        super().__init__(class_name)
        self.hidden = hidden
        self.register_buffer("text", text.detach().clone().float())
        self.text: Tensor
        channels_in, channels_out = GLOBAL_CHANNELS + text.numel(), sum(DYNAMIC_SIZES)
        if hidden:
            self.controller = nn.Sequential(
                nn.Linear(channels_in, hidden), nn.ReLU(), nn.Linear(hidden, channels_out)
            )
        else:
            self.controller = nn.Sequential(nn.Linear(channels_in, channels_out))

    def settings(self) -> dict[str, Any]:
        return {"text": self.text.numel(), "hidden": self.hidden}

    def _last_bias(self) -> Tensor:
        last = self.controller[-1]
        assert isinstance(last, nn.Linear)
        return last.bias[-1]

    def forward(self, features: Features) -> Tensor:
        """(N, 1, X, Y, Z) float32 logits."""
        # Float32 throughout: the generated weights multiply each other, and the cost is small beside the
        # base's.
        with torch.autocast(features.map.device.type, enabled=False):
            x = features.map.float()
            samples = x.shape[0]
            text = self.text.expand(samples, -1)
            numbers = self.controller(torch.cat((features.global_.float(), text), dim=1))
            w1, w2, w3, b1, b2, b3 = numbers.split(DYNAMIC_SIZES, dim=1)
            h = torch.baddbmm(b1.unsqueeze(2), w1.reshape(samples, _C, _C), x.flatten(2)).relu()
            h = torch.baddbmm(b2.unsqueeze(2), w2.reshape(samples, _C, _C), h).relu()
            y = torch.baddbmm(b3.unsqueeze(2), w3.reshape(samples, 1, _C), h)
            return y.reshape(samples, 1, *x.shape[2:])


class FrozenNorm(nn.Module):
    """Each channel at mean 0 and variance 1 as its first training batch had it, then an affine that trains.

    The statistics are taken once and then frozen, as in ActNorm (Kingma and Dhariwal, "Glow", 2018, section
    3.1). So a voxel gets the same value in a sub-patch, on which heads train, and in the whole window, on
    which they run; instance norm gives it two, and batch norm learns from batch mates. Measured on phantoms
    (three new classes on a frozen base, 100 steps, mean Dice): frozen .74 and .83 with two seeds, batch norm
    .60 and .54; with the first seed alone instance norm .49, layer norm over the channels of a voxel .00.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("deviation", torch.ones(channels))
        self.register_buffer("taken", torch.zeros(1, dtype=torch.uint8))
        self.mean: Tensor
        self.deviation: Tensor
        self.taken: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, X, Y, Z) -> the same shape. Before any training batch the statistics are 0 and 1."""
        self.see(lambda: x)
        scale, shift = self.line()
        return x * scale.view(1, -1, 1, 1, 1) + shift.view(1, -1, 1, 1, 1)

    def see(self, x: Callable[[], Tensor]) -> None:
        """Take the statistics of `x`, if this is the first training batch; `x` is asked for only then."""
        if self.training and not bool(self.taken):
            self._take(x())

    def line(self) -> tuple[Tensor, Tensor]:
        """(scale, shift), (C,) each: what a channel is multiplied by, and what is added."""
        scale = self.weight / self.deviation
        return scale, self.bias - self.mean * scale

    @torch.no_grad()
    def _take(self, x: Tensor) -> None:
        variance, mean = torch.var_mean(x.float(), dim=(0, 2, 3, 4), correction=0)
        self.mean.copy_(mean)
        self.deviation.copy_(torch.sqrt(variance + 1e-5))
        self.taken.fill_(1)


class PyramidLevel(nn.Module):
    """One level: the base's maps reduced to `width`, beside them the coarser result, then 3x3x3.

    Computed with fewer operations than the layers would do one after the other, in the same numbers but for rounding: each norm
    is part of the convolution before it, and the coarser result is not brought up first (``brought_up``).
    """

    def __init__(self, channels_in: int, width: int, coarsest: bool) -> None:
        super().__init__()
        self.reduce = nn.Conv3d(channels_in, width, kernel_size=1)
        self.norm_in = FrozenNorm(width)
        self.conv = nn.Conv3d(width if coarsest else 2 * width, width, kernel_size=3, padding=1)
        self.norm_out = FrozenNorm(width)

    def forward(self, maps: tuple[Tensor, ...], coarser: Tensor | None) -> Tensor:
        """maps: (N, *, X, Y, Z) each; coarser: (N, width, X/2, Y/2, Z/2) or None -> (N, width, X, Y, Z)."""
        together = torch.cat(maps, dim=1)
        self.norm_in.see(lambda: self.reduce(together))
        weight, bias = _normed(self.reduce, self.norm_in)
        x = nn.functional.conv3d(together, weight, bias)
        self.norm_out.see(lambda: _beside(x, coarser, self.conv.weight, self.conv.bias))
        return torch.relu(_beside(x, coarser, *_normed(self.conv, self.norm_out)))


def _normed(conv: nn.Conv3d, norm: FrozenNorm) -> tuple[Tensor, Tensor]:
    """Weight and bias of a convolution whose result is that of `conv` and then `norm`."""
    assert conv.bias is not None
    scale, shift = norm.line()
    return conv.weight * scale.view(-1, 1, 1, 1, 1), conv.bias * scale + shift


def _beside(x: Tensor, coarser: Tensor | None, weight: Tensor, bias: Tensor | None) -> Tensor:
    """3x3x3 with `weight` over `x` (N, C, X, Y, Z) and, beside it, `coarser` brought up to its size, nearest voxel.

    Nearest, not linear: at the border of a sub-patch linear would see other neighbours.
    """
    own = x.shape[1]
    y = nn.functional.conv3d(x, weight[:, :own], bias, padding=1)
    if coarser is None:
        return y
    return y + nn.functional.conv_transpose3d(coarser, brought_up(weight[:, own:]), stride=2, padding=1)


def brought_up(weight: Tensor) -> Tensor:
    """(O, I, 3, 3, 3) of a convolution after nearest upsampling by 2 -> (I, O, 4, 4, 4) of the transposed convolution of
    stride 2 that gives the same: eight products a voxel and channel instead of 27.

    Along an axis a voxel of the coarser map is there twice, so that two of the three weights fall on one value:
    (w2, w1 + w2, w0 + w1, w0).
    """
    for axis in (2, 3, 4):
        first, middle, last = weight.unbind(axis)
        weight = torch.stack((last, middle + last, first + middle, first), dim=axis)
    return weight.transpose(0, 1)


class PyramidHead(Head):
    """A thin decoder over bottleneck, encoder skips and decoder levels of the base, ending in one logit.

    From coarse to fine: 1x1x1 to `width` channels, the coarser result beside them, 3x3x3. Runs on whole
    patches and on crops of their features; away from a crop's border the logits are those of the whole.
    """

    kind: Kind = "pyramid"

    def __init__(self, class_name: str, channels: Channels, width: int) -> None:
        super().__init__(class_name)
        self.channels, self.width = channels, width
        self.bottom = PyramidLevel(channels.bottleneck, width, coarsest=True)
        sides = zip(reversed(channels.skips), channels.levels, strict=True)
        self.levels = nn.ModuleList(PyramidLevel(s + d, width, coarsest=False) for s, d in sides)
        self.logit = nn.Conv3d(width, 1, kernel_size=1)

    def settings(self) -> dict[str, Any]:
        c = self.channels
        return {
            "bottleneck": c.bottleneck,
            "skips": list(c.skips),
            "levels": list(c.levels),
            "width": self.width,
        }

    def misfit(self, channels: Channels) -> str | None:
        if channels == self.channels:
            return None
        return f"expected a base with {self.channels}, got {channels}"

    def _last_bias(self) -> Tensor:
        assert self.logit.bias is not None
        return self.logit.bias

    def forward(self, features: Features) -> Tensor:
        """(N, 1, X, Y, Z) float32 logits."""
        dtype = self.logit.weight.dtype
        # Cached features come in half precision.
        x = self.bottom((features.bottleneck.to(dtype),), None)
        for level, skip, decoded in zip(self.levels, reversed(features.skips), features.levels, strict=True):
            x = level((skip.to(dtype), decoded.to(dtype)), x)
        y: Tensor = self.logit(x)
        return y.float()


def build_head(
    class_name: str,
    kind: Kind,
    base: Base,
    seed: int,
    settings: HeadConfig | None = None,
    text: Tensor | None = None,
) -> Head:
    """A head with random weights for `class_name` on `base`, in evaluation mode, on the CPU.

    The weights depend on seed, class and kind alone, not on the order in which heads are built; the global
    random state is left as it was. text: (T,) vector of a text head; None takes the one of
    ``text.text_vector``, for a class outside its table with the encoder in ``settings.text_encoder``.
    Raises UnknownClassError when a text head's class has no vector, ModelError for an unknown kind.
    """
    settings = settings or HeadConfig()
    if kind not in ("text", "pyramid"):
        raise ModelError(f"expected a head of kind text or pyramid for class {class_name}, got {kind!r}")
    if kind == "text" and text is None:
        from ctune.model.text import text_vector

        text = torch.from_numpy(text_vector(class_name, settings.text_encoder or None))
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(_seed_of(seed, class_name, kind))
        if text is not None and kind == "text":
            return TextHead(class_name, text, _hidden(base, settings)).eval()
        return PyramidHead(class_name, base.channels, settings.pyramid_width).eval()


def check_fit(head: Head, base: Base, base_digest: Callable[[], str]) -> None:
    """Raise HeadBaseMismatchError when `head` cannot run on `base`, or was tuned on another one.

    base_digest: gives ``freeze.fingerprint(base, modes=False)``; asked only for a head that was tuned.
    """
    misfit = head.misfit(base.channels)
    if misfit is None and head.base_digest not in (None, base_digest()):
        misfit = f"expected the base {head.base_digest:.12} that it was tuned on, got {base_digest():.12}"
    if misfit:
        raise HeadBaseMismatchError(
            f"head of class {head.class_name}: {misfit}; load the head's own base or tune it anew"
        )


def _hidden(base: Base, settings: HeadConfig) -> int:
    # Published: 512. A small base gets a controller in proportion, or one head would outweigh it.
    if settings.text_hidden == "auto":
        return min(PUBLISHED_HIDDEN, base.channels.bottleneck)
    return settings.text_hidden


def _seed_of(seed: int, class_name: str, kind: str) -> int:
    digest = hashlib.sha256(f"{seed}:{canonical(class_name)}:{kind}".encode()).digest()
    return int.from_bytes(digest[:7], "big")
