"""Convolutional encoder and decoder: residual blocks, group norm, optional attention."""

from collections.abc import Sequence

import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn


def group_norm(channels: int) -> nn.GroupNorm:
    """Group norm with the most groups, up to 32, that leave at least 4 channels in each (1, if 4 do not divide)."""
    groups = max((g for g in (32, 16, 8, 4, 2, 1) if channels % (4 * g) == 0), default=1)
    return nn.GroupNorm(groups, channels, eps=1e-6)


class ResidualBlock(nn.Module):
    """x + conv(silu(norm(conv(silu(norm(x)))))), (B, width, H, W) -> the same."""

    def __init__(self, width: int):
        super().__init__()
        self.norm1 = group_norm(width)
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.norm2 = group_norm(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        return x + self.conv2(F.silu(self.norm2(h)))


class Attention(nn.Module):
    """Single-head self-attention over the positions, with a residual; (B, C, H, W) -> the same."""

    def __init__(self, channels: int):
        super().__init__()
        self.norm = group_norm(channels)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.project = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = rearrange(self.qkv(self.norm(x)), "b (qkv c) h w -> qkv b 1 (h w) c", qkv=3)
        attended = F.scaled_dot_product_attention(q, k, v)
        return x + self.project(rearrange(attended, "b 1 (h w) c -> b c h w", h=x.shape[2]))


class Upsample(nn.Module):
    """Twice the height and width by nearest neighbour and a convolution."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


def _stage(width: int, num_blocks: int, attention: bool) -> list[nn.Module]:
    layers: list[nn.Module] = []
    for _ in range(num_blocks):
        layers += [ResidualBlock(width), Attention(width)] if attention else [ResidualBlock(width)]
    return layers


class Encoder(nn.Module):
    """Images (B, C, H, W) -> latents (B, latent_channels, H / 2^f, W / 2^f), f = len(multipliers) - 1.

    Args:
        channels: C.
        base_channels: width at full resolution.
        multipliers: width of each resolution over base_channels, finest first.
        num_blocks: residual blocks per resolution.
        attention: whether the coarsest resolution attends.
        latent_channels: width of the output.
    """

    def __init__(
        self,
        channels: int,
        base_channels: int,
        multipliers: Sequence[int],
        num_blocks: int,
        attention: bool,
        latent_channels: int,
    ):
        super().__init__()
        widths = [base_channels * m for m in multipliers]
        layers: list[nn.Module] = [nn.Conv2d(channels, widths[0], 3, padding=1)]
        for level, width in enumerate(widths):
            coarsest = level == len(widths) - 1
            layers += _stage(width, num_blocks, attention and coarsest)
            if not coarsest:
                layers.append(nn.Conv2d(width, widths[level + 1], 3, stride=2, padding=1))
        layers += [group_norm(widths[-1]), nn.SiLU(), nn.Conv2d(widths[-1], latent_channels, 3, padding=1)]
        self.layers = nn.Sequential(*layers)

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images)


class Decoder(nn.Module):
    """Latents (B, latent_channels, h, w) -> images (B, C, h * 2^f, w * 2^f), unbounded; arguments as for `Encoder`."""

    def __init__(
        self,
        channels: int,
        base_channels: int,
        multipliers: Sequence[int],
        num_blocks: int,
        attention: bool,
        latent_channels: int,
    ):
        super().__init__()
        widths = [base_channels * m for m in reversed(multipliers)]
        layers: list[nn.Module] = [nn.Conv2d(latent_channels, widths[0], 3, padding=1)]
        for level, width in enumerate(widths):
            layers += _stage(width, num_blocks, attention and level == 0)
            if level < len(widths) - 1:
                layers.append(Upsample(width, widths[level + 1]))
        layers += [group_norm(widths[-1]), nn.SiLU(), nn.Conv2d(widths[-1], channels, 3, padding=1)]
        self.layers = nn.Sequential(*layers)

    def forward(self, latents: Tensor) -> Tensor:
        return self.layers(latents)
