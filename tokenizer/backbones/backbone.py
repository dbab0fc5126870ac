"""What every frozen network is, from which losses take features."""

from collections.abc import Sequence
from typing import Self

from torch import Tensor, nn


class Backbone(nn.Module):
    """A frozen network: images (B, 1 or 3, H, W) in [-1, 1] -> feature maps (B, width, h, w), the finest first.

    Attributes:
        name: as in `build_backbone`.
        fingerprint: sha256 of the weights, as safetensors or as the one file that they come in.
        widths: of the feature maps.
        linear: of LPIPS, the weight of each channel of each map, (1, width, 1, 1), at least 0; else empty.
    """

    name: str
    fingerprint: str
    widths: Sequence[int]

    @property
    def linear(self) -> Sequence[Tensor]:
        return ()

    def train(self, mode: bool = True) -> Self:
        """Stay in eval mode, whatever is asked for."""
        return super().train(False)
