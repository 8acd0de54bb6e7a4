"""MONAI's Swin UNETR without its last layer, giving every level instead of logits.

Hatamizadeh et al., "Swin UNETR: Swin Transformers for Semantic Segmentation of Brain Tumors in MRI Images",
2022.
"""

from __future__ import annotations

from monai.networks.nets import SwinUNETR
from torch import Tensor


class SwinUNETRBackbone(SwinUNETR):  # type: ignore[misc]
    """Swin UNETR of a given feature size (48 is the published one).

    A subclass rather than a wrapper, so that parameters keep the published names (``backbone.swinViT...``).
    """

    decoder_names = ("decoder5", "decoder4", "decoder3", "decoder2", "decoder1")

    def __init__(self, feature_size: int) -> None:
        super().__init__(in_channels=1, out_channels=1, feature_size=feature_size)
        # The heads take the place of the class layer.
        del self.out

    def forward(self, x: Tensor) -> tuple[Tensor, tuple[Tensor, ...], tuple[Tensor, ...]]:
        """(N, 1, X, Y, Z) -> bottleneck, encoder skips (finest first), decoder levels (coarsest first)."""
        hidden = self.swinViT(x, self.normalize)
        skips = (
            self.encoder1(x),
            self.encoder2(hidden[0]),
            self.encoder3(hidden[1]),
            self.encoder4(hidden[2]),
            hidden[3],
        )
        bottleneck = self.encoder10(hidden[4])
        levels: list[Tensor] = []
        below = bottleneck
        for name, skip in zip(self.decoder_names, reversed(skips), strict=True):
            below = self.get_submodule(name)(below, skip)
            levels.append(below)
        return bottleneck, skips, tuple(levels)
