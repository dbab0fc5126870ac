"""Discriminators: a PatchGAN, and heads over frozen features."""

from pathlib import Path

from torch import Tensor, nn

from .backbones import Backbone, build_backbone


class PatchDiscriminator(nn.Module):
    """PatchGAN (arXiv 1611.07004): images (B, C, H, W) in [-1, 1] -> logits (B, 1, h, w), one for each patch."""

    def __init__(self, channels: int, base_channels: int = 64, num_layers: int = 3):
        super().__init__()
        width = base_channels
        layers: list[nn.Module] = [nn.Conv2d(channels, width, 4, 2, 1), nn.LeakyReLU(0.2)]
        for index in range(1, num_layers + 1):
            wider = base_channels * min(2**index, 8)
            stride = 2 if index < num_layers else 1
            layers += [nn.Conv2d(width, wider, 4, stride, 1, bias=False), nn.GroupNorm(8, wider), nn.LeakyReLU(0.2)]
            width = wider
        self.layers = nn.Sequential(*layers, nn.Conv2d(width, 1, 4, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images)


class FeatureDiscriminator(nn.Module):
    """Heads over each feature map of a frozen backbone: images (B, 1 or 3, H, W) in [-1, 1] -> logits (B, n)."""

    def __init__(self, backbone: str, weights: str | Path | None = None):
        super().__init__()
        self._backbone: tuple[Backbone] = (build_backbone(backbone, weights),)
        self.heads = nn.ModuleList(nn.Conv2d(width, 1, 1) for width in self._backbone[0].widths)

    def _apply(self, fn, recurse=True):
        self._backbone[0]._apply(fn, recurse)
        return super()._apply(fn, recurse)

    def forward(self, images: Tensor) -> Tensor:
        import torch

        maps = self._backbone[0](images)
        return torch.cat([head(x).flatten(1) for head, x in zip(self.heads, maps, strict=True)], 1)
