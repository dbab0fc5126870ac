"""Discriminators. Nothing in them is a statistic of a batch: two processes would have two."""

import math
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..backbones.registry import build_backbone
from ..errors import InputError


class Discriminator(nn.Module):
    """What learns, feature maps -> logits, behind what is frozen, images -> feature maps.

    They are apart so that one pass through what is frozen serves both losses: its own, and that of what it judges.
    """

    def features(self, images: Tensor) -> list[Tensor]:
        """Feature maps (B, width, h, w) of images (B, C, H, W) in [-1, 1]: here the images themselves."""
        return [images]

    def judge(self, images: Tensor) -> Tensor:
        """Logits (B, ...) of images (B, C, H, W) in [-1, 1], higher for those that seem real."""
        return self(self.features(images))


class PatchDiscriminator(Discriminator):
    """PatchGAN (arXiv 1611.07004), with group norm where the paper has batch norm.

    Images (B, C, H, W) in [-1, 1] -> logits (B, 1, h, w), each of one patch (70x70 with 3 layers).

    Args:
        channels: C.
        base_channels: width of the first layer; each layer doubles it, up to eight times.
        num_layers: layers that halve height and width.

    Raises:
        InputError: in features, for images that are too small.
    """

    def __init__(self, channels: int, base_channels: int = 64, num_layers: int = 3):
        super().__init__()
        self.least_side = 3 * 2**num_layers
        layers: list[nn.Module] = [nn.Conv2d(channels, base_channels, 4, 2, 1), nn.LeakyReLU(0.2)]
        width = base_channels
        for number in range(1, num_layers + 1):
            before, width = width, base_channels * min(2**number, 8)
            layers.append(nn.Conv2d(before, width, 4, 2 if number < num_layers else 1, 1, bias=False))
            layers += [nn.GroupNorm(math.gcd(width, 32), width), nn.LeakyReLU(0.2)]
        self.layers = nn.Sequential(*layers, nn.Conv2d(width, 1, 4, 1, 1))
        for layer in self.layers:
            if isinstance(layer, nn.Conv2d):
                nn.init.normal_(layer.weight, 0.0, 0.02)

    def features(self, images: Tensor) -> list[Tensor]:
        if min(images.shape[-2:]) < self.least_side:
            raise InputError(f"images are {tuple(images.shape[-2:])}; the discriminator takes {self.least_side} a side")
        return super().features(images)

    def forward(self, features: list[Tensor]) -> Tensor:
        return self.layers(features[0])


class FeatureDiscriminator(Discriminator):
    """A small head over each feature map of a frozen network (as arXiv 2111.01007), images -> logits (B, n).

    Finer maps have their logits averaged to about as many as the coarsest has, so that all count alike. The frozen
    network is no submodule: it follows the images, and no optimizer, checkpoint or `DistributedDataParallel` sees it.

    Args:
        backbone: name, see `build_backbone`.
        weights: its file, or its folder or hub repository.
        width: of the heads.

    Raises:
        InputError: as `build_backbone`; in features, for images that are too small for the network.
    """

    def __init__(self, backbone: str, weights: str | Path | None = None, width: int = 64):
        super().__init__()
        self._frozen = (build_backbone(backbone, weights),)
        self.name, self.fingerprint = self._frozen[0].name, self._frozen[0].fingerprint
        self.heads = nn.ModuleList(
            nn.Sequential(
                nn.GroupNorm(math.gcd(features, 32), features),
                nn.Conv2d(features, width, 1),
                nn.LeakyReLU(0.2),
                nn.Conv2d(width, width, 3, padding=1),
                nn.LeakyReLU(0.2),
                nn.Conv2d(width, 1, 1),
            )
            for features in self._frozen[0].widths
        )

    def features(self, images: Tensor) -> list[Tensor]:
        return self._frozen[0].to(images.device)(images)

    def forward(self, features: list[Tensor]) -> Tensor:
        logits = [head(x) for head, x in zip(self.heads, features, strict=True)]
        height, width = logits[-1].shape[-2:]
        windows = [(-(-x.shape[-2] // height), -(-x.shape[-1] // width)) for x in logits]
        pooled = [F.avg_pool2d(x, window, ceil_mode=True) for x, window in zip(logits, windows, strict=True)]
        return torch.cat([x.flatten(1) for x in pooled], dim=1)
