"""Convolutional encoder and decoder: residual blocks, group norm, optional attention."""

from dataclasses import dataclass, fields
from typing import Any, Self

import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn


def group_norm(channels: int, groups: int = 0) -> nn.GroupNorm:
    """Group norm; by default with the most groups, up to 32, that leave at least 4 channels in each (1, if 4 do not
    divide)."""
    groups = groups or max((g for g in (32, 16, 8, 4, 2, 1) if channels % (4 * g) == 0), default=1)
    return nn.GroupNorm(groups, channels, eps=1e-6)


class ResidualBlock(nn.Module):
    """x + conv(silu(norm(conv(silu(norm(x)))))), (B, in_width, H, W) -> (B, width, H, W).

    Where the width changes, x goes through a 1x1 convolution first.

    Args:
        width: of the output.
        in_width: of the input; by default the same.
        groups: see `group_norm`.
    """

    def __init__(self, width: int, in_width: int | None = None, groups: int = 0):
        super().__init__()
        in_width = in_width or width
        self.norm1 = group_norm(in_width, groups)
        self.conv1 = nn.Conv2d(in_width, width, 3, padding=1)
        self.norm2 = group_norm(width, groups)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        self.shortcut = nn.Conv2d(in_width, width, 1) if in_width != width else None

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        return (x if self.shortcut is None else self.shortcut(x)) + self.conv2(F.silu(self.norm2(h)))


class Attention(nn.Module):
    """Single-head self-attention over the positions, with a residual; (B, C, H, W) -> the same."""

    def __init__(self, channels: int, groups: int = 0):
        super().__init__()
        self.norm = group_norm(channels, groups)
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


@dataclass(frozen=True, kw_only=True)
class NetworkDesign:
    """What encoder and decoder are built of, by the names of the tokenizer's configuration, which explains them.

    Attributes:
        channels: of what enters and leaves the network.
        decoder_blocks: 0 for num_blocks.
    """

    channels: int
    base_channels: int
    channel_multipliers: tuple[int, ...]
    num_blocks: int
    decoder_blocks: int
    attention: bool
    middle_block: bool
    widen_in_blocks: bool
    norm_groups: int
    latent_channels: int

    @classmethod
    def of(cls, config: Any, channels: int) -> Self:
        """That of a configuration with fields of these names, for so many channels."""
        own = {f.name: getattr(config, f.name) for f in fields(cls) if f.name != "channels"}
        return cls(channels=channels, **own)

    @property
    def widths(self) -> list[int]:
        """Of each resolution, finest first."""
        return [self.base_channels * multiplier for multiplier in self.channel_multipliers]

    def stage(self, width: int, in_width: int, num_blocks: int, attention: bool) -> list[nn.Module]:
        """The blocks of a resolution: (B, in_width, H, W) -> (B, width, H, W)."""
        layers: list[nn.Module] = []
        for block in range(num_blocks):
            layers.append(ResidualBlock(width, width if block else in_width, self.norm_groups))
            if attention:
                layers.append(Attention(width, self.norm_groups))
        return layers

    def middle(self, width: int) -> list[nn.Module]:
        """The middle block, if there is one."""
        if not self.middle_block:
            return []
        groups = self.norm_groups
        return [ResidualBlock(width, groups=groups), Attention(width, groups), ResidualBlock(width, groups=groups)]

    def ending(self, width: int, out_channels: int) -> list[nn.Module]:
        """Norm, SiLU and the last convolution."""
        return [group_norm(width, self.norm_groups), nn.SiLU(), nn.Conv2d(width, out_channels, 3, padding=1)]


class Encoder(nn.Module):
    """Images (B, C, H, W) -> latents (B, latent_channels, H / 2^f, W / 2^f), f = len(channel_multipliers) - 1."""

    def __init__(self, design: NetworkDesign):
        super().__init__()
        widths = design.widths
        in_width = widths[0]
        layers: list[nn.Module] = [nn.Conv2d(design.channels, in_width, 3, padding=1)]
        for level, width in enumerate(widths):
            coarsest = level == len(widths) - 1
            layers += design.stage(width, in_width, design.num_blocks, design.attention and coarsest)
            if not coarsest:
                in_width = width if design.widen_in_blocks else widths[level + 1]
                layers.append(nn.Conv2d(width, in_width, 3, stride=2, padding=1))
        layers += [*design.middle(widths[-1]), *design.ending(widths[-1], design.latent_channels)]
        self.layers = nn.Sequential(*layers)

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images)


class Decoder(nn.Module):
    """Latents (B, latent_channels, h, w) -> images (B, C, h * 2^f, w * 2^f), unbounded, f as for `Encoder`."""

    def __init__(self, design: NetworkDesign):
        super().__init__()
        widths = design.widths[::-1]
        in_width = widths[0]
        layers: list[nn.Module] = [nn.Conv2d(design.latent_channels, in_width, 3, padding=1), *design.middle(in_width)]
        num_blocks = design.decoder_blocks or design.num_blocks
        for level, width in enumerate(widths):
            layers += design.stage(width, in_width, num_blocks, design.attention and level == 0)
            if level < len(widths) - 1:
                in_width = width if design.widen_in_blocks else widths[level + 1]
                layers.append(Upsample(width, in_width))
        layers += design.ending(widths[-1], design.channels)
        self.layers = nn.Sequential(*layers)

    @property
    def last_layer(self) -> nn.Module:
        """The convolution that gives the images."""
        return self.layers[-1]

    def forward(self, latents: Tensor) -> Tensor:
        return self.layers(latents)
