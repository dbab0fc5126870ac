"""Residual projectors between the latents of an autoencoder and its codebook, and where they start."""

import torch
from torch import Tensor, nn

from ..precision import to_float64


class Projector(nn.Module):
    """A 1x1 convolution, and what three 3x3 convolutions add to it, at first nothing: (B, C, h, w) -> (B, D, h, w).

    Residual projectors, with 1,024 channels, are the paper's for a codebook in an autoencoder that exists (arXiv
    2506.15078, ImageNet).

    Args:
        in_channels: C.
        out_channels: D.
        width: channels between the convolutions; 0 for the 1x1 convolution alone.
    """

    def __init__(self, in_channels: int, out_channels: int, width: int):
        super().__init__()
        self.direct = nn.Conv2d(in_channels, out_channels, 1)
        self.residual: nn.Sequential | None = None
        if width:
            last = nn.Conv2d(width, out_channels, 3, padding=1)
            nn.init.zeros_(last.weight)
            assert last.bias is not None
            nn.init.zeros_(last.bias)
            first, middle = nn.Conv2d(in_channels, width, 3, padding=1), nn.Conv2d(width, width, 3, padding=1)
            self.residual = nn.Sequential(first, nn.SiLU(), middle, nn.SiLU(), last)

    def forward(self, x: Tensor) -> Tensor:
        direct = self.direct(x)
        return direct if self.residual is None else direct + self.residual(x)


def projection(in_channels: int, out_channels: int, width: int | None) -> nn.Module:
    """A `Projector` of that width, or for None a 1x1 convolution."""
    return nn.Conv2d(in_channels, out_channels, 1) if width is None else Projector(in_channels, out_channels, width)


@torch.no_grad()
def standardize(to_codebook: Projector, from_codebook: Projector, latents: Tensor) -> None:
    """Have the direct part of one projector carry latents to a mean of 0 and a mean variance of 1, and that of the
    other carry them back.

    With fewer dimensions than channels these are the principal directions of the latents, which lose the least; else
    the channels stay as they are.

    Args:
        to_codebook: C -> D channels, D <= C.
        from_codebook: D -> C channels.
        latents: (N, C), N >= 2.
    """
    mean, directions, std = principal_directions(latents, to_codebook.direct.out_channels)
    for direct, matrix, offset in (
        (to_codebook.direct, directions.mT / std, -(directions.mT @ mean) / std),
        (from_codebook.direct, directions * std, mean),
    ):
        assert direct.bias is not None
        direct.weight.copy_(matrix[:, :, None, None])
        direct.bias.copy_(offset)


def principal_directions(latents: Tensor, dim: int) -> tuple[Tensor, Tensor, Tensor]:
    """Mean (C,), orthonormal directions (C, D) and the standard deviation along them, a scalar, of latents (N, C).

    The directions are those of the largest variance, or the channels themselves if there are as many.
    """
    vectors = to_float64(latents)
    mean = vectors.mean(dim=0)
    if dim == latents.shape[1]:
        directions = torch.eye(dim, dtype=vectors.dtype, device=vectors.device)
    else:
        covariance = torch.cov((vectors - mean).mT)
        directions = torch.linalg.eigh(covariance).eigenvectors[:, -dim:].flip(1)
    std = ((vectors - mean) @ directions).square().mean().sqrt()
    return mean, directions, std.clamp(min=torch.finfo(torch.float32).tiny)
