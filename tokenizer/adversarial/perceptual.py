"""Perceptual loss: how far apart images are in the features of a frozen network."""

from pathlib import Path
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..backbones.registry import build_backbone
from ..errors import InputError


class PerceptualLoss(nn.Module):
    """LPIPS (arXiv 1801.03924, eq. 1) over frozen features; it trains what made the reconstructions, never itself.

    At each place of each feature map both feature vectors are scaled to length 1; squared differences are weighted by
    channel, added up, and averaged over places. Maps are added up as well; in networks without weights by channel, each
    channel counts 1 over the number of maps.

    Args:
        backbone: name, see `build_backbone`; "st-lpips-vgg16" and "st-lpips-alex" give ST-LPIPS, which is not LPIPS.
        weights: its file, or its folder or hub repository.

    Attributes:
        name: of the backbone.
        fingerprint: sha256 of its weights, as safetensors or as the one file that they come in.

    Raises:
        InputError: as `build_backbone`.
    """

    def __init__(self, backbone: str, weights: str | Path | None = None):
        super().__init__()
        self.backbone = build_backbone(backbone, weights)
        self.name, self.fingerprint = self.backbone.name, self.backbone.fingerprint
        self.eval()

    def train(self, mode: bool = True) -> Self:
        """Stay in eval mode, whatever is asked for."""
        return super().train(False)

    def forward(self, images: Tensor, reconstructions: Tensor) -> Tensor:
        """Mean distance of images and reconstructions, both (B, 1 or 3, H, W) in [-1, 1]; scalar, at least 0."""
        return self.distances(images, reconstructions).mean()

    def distances(self, images: Tensor, reconstructions: Tensor) -> Tensor:
        """The distance of each pair (B,), float32; gradients reach the reconstructions alone.

        Raises:
            InputError: for shapes that differ, or images that are too small for the network.
        """
        if images.shape != reconstructions.shape:
            raise InputError(f"images are {tuple(images.shape)}, reconstructions {tuple(reconstructions.shape)}")
        with torch.no_grad():
            targets = [_unit(x) for x in self.backbone(images)]
        squares = [(a - _unit(x)).square() for a, x in zip(targets, self.backbone(reconstructions), strict=True)]
        weights = self.backbone.linear or [1 / len(squares)] * len(squares)
        return torch.stack([(w * x).sum(1).mean((1, 2)) for w, x in zip(weights, squares, strict=True)]).sum(0)


def _unit(features: Tensor) -> Tensor:
    # In float32 also under autocast: squares of float16 overflow.
    return F.normalize(features.float(), dim=1, eps=1e-10)
