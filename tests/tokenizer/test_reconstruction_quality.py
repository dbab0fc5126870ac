"""Reconstruction quality against the formulas, written out in NumPy and SciPy."""

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from scipy.ndimage import gaussian_filter1d
from torch import Tensor

from wvq.tokenizer.metrics import ReconstructionQuality

K, D = 16, 4
Batch = tuple[Tensor, Tensor, Tensor, Tensor]


def draw(batch: int = 7, channels: int = 3, size: int = 16) -> tuple[Batch, Tensor]:
    """(originals, reconstructions, features, indices) of 4x4 token grids, and a codebook."""
    generator = torch.Generator().manual_seed(batch)
    originals = torch.randint(0, 256, (batch, channels, size, size), generator=generator)
    noise = torch.randint(-20, 21, originals.shape, generator=generator)
    features = torch.randn(batch, D, 4, 4, generator=generator) * 2 + 3
    indices = torch.randint(0, K, (batch, 4, 4), generator=generator)
    return (
        (originals.to(torch.uint8), (originals + noise).clamp(0, 255).to(torch.uint8), features, indices),
        torch.randn(K, D, generator=generator),
    )


def measure(batches: list[Batch], codebook: Tensor) -> dict[str, float]:
    quality = ReconstructionQuality(K, D)
    for originals, reconstructions, features, indices in batches:
        quality.update(originals, reconstructions, features, indices, codebook[indices])
    return quality.compute()


def structural_similarity(x: npt.NDArray[Any], y: npt.NDArray[Any]) -> float:
    """SSIM (Wang et al. 2004) of two images (C, H, W) of range 255, mean over pixels and channels."""

    def blur(image: npt.NDArray[Any]) -> npt.NDArray[Any]:
        for axis in (1, 2):
            image = gaussian_filter1d(image, sigma=1.5, axis=axis, radius=5, mode="mirror")
        return image

    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    mean_x, mean_y = blur(x), blur(y)
    variance_x, variance_y = blur(x * x) - mean_x**2, blur(y * y) - mean_y**2
    covariance = blur(x * y) - mean_x * mean_y
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    return float((luminance * (2 * covariance + c2) / (variance_x + variance_y + c2)).mean())


@pytest.mark.parametrize("channels", [1, 3])
def test_equals_the_formulas(channels: int):
    (originals, reconstructions, features, indices), codebook = draw(channels=channels)
    scores = measure([(originals, reconstructions, features, indices)], codebook)

    x, y = (images.numpy().astype(np.float64) for images in (originals, reconstructions))
    error = ((x - y) ** 2).mean(axis=(1, 2, 3))
    assert scores["psnr"] == pytest.approx((10 * np.log10(255**2 / error)).mean())
    assert scores["reconstruction_loss"] == pytest.approx((((x - y) / 127.5) ** 2).mean())
    similarities = [structural_similarity(a, b) for a, b in zip(x, y, strict=True)]
    assert scores["ssim"] == pytest.approx(np.mean(similarities), abs=1e-5)

    z = features.numpy().transpose(0, 2, 3, 1).reshape(-1, D).astype(np.float64)
    codes = codebook.numpy().astype(np.float64)[indices.numpy().reshape(-1)]
    quantization_error = ((z - codes) ** 2).sum(axis=1).mean()
    assert scores["quantization_error"] == pytest.approx(quantization_error)
    trace = np.trace(np.cov(z.T, bias=True))
    assert scores["relative_quantization_error"] == pytest.approx(quantization_error / trace)

    shares = np.bincount(indices.numpy().reshape(-1), minlength=K) / indices.numel()
    assert scores["utilization"] == pytest.approx((shares > 0).mean())
    assert scores["perplexity"] == pytest.approx(np.exp(-(shares[shares > 0] * np.log(shares[shares > 0])).sum()))


@pytest.mark.parametrize("size", [1, 2, 3, 6])
def test_any_split_into_batches_gives_the_same(size: int):
    batch, codebook = draw()
    parts = zip(*(tensor.split(size) for tensor in batch), strict=True)
    split = measure([(a, b, c, d) for a, b, c, d in parts], codebook)
    assert split == pytest.approx(measure([batch], codebook), rel=1e-6)


def test_one_exact_image_leaves_the_mean_finite():
    (originals, reconstructions, features, indices), codebook = draw(batch=2)
    reconstructions[0] = originals[0]
    scores = measure([(originals, reconstructions, features, indices)], codebook)
    error = ((originals[1].double() - reconstructions[1].double()) ** 2).mean().item()
    exact = 10 * math.log10(255**2 * originals[0].numel())
    assert scores["psnr"] == pytest.approx((exact + 10 * math.log10(255**2 / error)) / 2)


def test_features_that_are_codes_have_no_error():
    (originals, reconstructions, _, indices), codebook = draw()
    scores = measure([(originals, reconstructions, codebook[indices].movedim(-1, 1), indices)], codebook)
    assert scores["quantization_error"] == 0
    assert scores["relative_quantization_error"] == 0


def test_relative_error_does_not_change_with_the_scale_or_place_of_the_features():
    (originals, reconstructions, features, indices), codebook = draw()
    before = measure([(originals, reconstructions, features, indices)], codebook)
    after = measure([(originals, reconstructions, 16 * features + 100, indices)], 16 * codebook + 100)
    assert after["relative_quantization_error"] == pytest.approx(before["relative_quantization_error"], rel=1e-4)
    assert after["quantization_error"] == pytest.approx(256 * before["quantization_error"], rel=1e-4)


def test_plain_numbers():
    batch, codebook = draw(batch=1)
    assert all(type(value) is float for value in measure([batch], codebook).values())
