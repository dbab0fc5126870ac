"""How close reconstructions are to their originals, image by image: PSNR of luma, MS-SSIM."""

import torch
from torch import Tensor
from torchmetrics.functional.image import multiscale_structural_similarity_index_measure

from wvq.tokenizer.errors import InputError
from wvq.tokenizer.precision import to_float64

_LUMA = (65.481, 128.553, 24.966)  # ITU-R 601, studio swing: 16 to 235
MS_SSIM_ABOVE = 175
"""Pixels a side below which 5 scales of an 11-pixel window do not fit."""

IMAGE_QUALITY_PROTOCOL = {
    "psnr_luma": "mean over images of the PSNR of Y of YCbCr (ITU-R 601, studio swing), 8-bit images, range 255",
    "ms_ssim": "mean over images, 5 scales, Gaussian window 11 with sigma 1.5, 8-bit images, range 255",
    "lpips": "mean over images, version 0.1, 8-bit images",
}


def luma(images: Tensor) -> Tensor:
    """Y of YCbCr, ITU-R 601 in studio swing, float64 (N, 1, H, W) in [16, 235], of uint8 images (N, 1 or 3, H, W)."""
    exact = to_float64(images)
    weights = torch.tensor(_LUMA, dtype=torch.float64, device=exact.device)
    return 16 + torch.einsum("nchw,c->nhw", exact.expand(-1, 3, -1, -1) / 255, weights)[:, None]


def psnr_luma(originals: Tensor, reconstructions: Tensor) -> Tensor:
    """PSNR in dB of each image's luma, (N,) float64: what the paper reports.

    The peak stays 255 although luma spans 219, as is the custom; RGB values of the same images are some 3 dB lower. An
    exact image counts as one with a mean squared error of 1e-8 * 255^2, so 80 dB.

    Args:
        originals, reconstructions: uint8 (N, 1 or 3, H, W).

    Raises:
        InputError: for another dtype or shapes that differ.
    """
    check_pairs(originals, reconstructions)
    error = (luma(originals) - luma(reconstructions)).square().mean(dim=(1, 2, 3)) / 255**2
    return -10 * (error + 1e-8).log10()


def multiscale_ssim(originals: Tensor, reconstructions: Tensor) -> Tensor:
    """MS-SSIM of each image, (N,): 5 scales, Gaussian window 11 with sigma 1.5, on 8-bit values.

    Args:
        originals, reconstructions: uint8 (N, C, H, W), H and W above 175.

    Raises:
        InputError: for another dtype, shapes that differ, or images too small for 5 scales.
    """
    check_pairs(originals, reconstructions)
    if min(originals.shape[-2:]) <= MS_SSIM_ABOVE:
        raise InputError(
            f"images are {tuple(originals.shape[-2:])}; MS-SSIM's 5 scales need more than {MS_SSIM_ABOVE} pixels a side"
        )
    values = multiscale_structural_similarity_index_measure(
        to_float64(reconstructions), to_float64(originals), data_range=255.0, reduction="none", normalize="relu"
    )
    assert isinstance(values, Tensor)
    return values


def check_pairs(originals: Tensor, reconstructions: Tensor) -> None:
    """Refuse what cannot be compared image by image.

    Raises:
        InputError: for another dtype than uint8, or shapes that differ.
    """
    if originals.dtype != torch.uint8 or reconstructions.dtype != torch.uint8:
        raise InputError(f"images are {originals.dtype} and {reconstructions.dtype}; both must be torch.uint8")
    if originals.shape != reconstructions.shape:
        raise InputError(f"originals are {tuple(originals.shape)}, reconstructions {tuple(reconstructions.shape)}")
