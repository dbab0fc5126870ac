"""How much of a codebook is used, and how good reconstructions and their codes are, over a whole evaluation set."""

import math
from collections.abc import Sequence

import torch
from einops import rearrange, reduce
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.functional.image import structural_similarity_index_measure

from .errors import InputError
from .precision import to_float64


def utilization(histogram: Tensor) -> Tensor:
    """Share of the codes with at least one count in histogram (K,); in [1/K, 1]. U of arXiv 2506.15078."""
    return to_float64(histogram > 0).mean()


def perplexity(histogram: Tensor) -> Tensor:
    """exp of the entropy of histogram (K,); in [1, K]. C of arXiv 2506.15078, without its 1e-10 in the logarithm."""
    counts = to_float64(histogram)
    shares = counts / counts.sum()
    return torch.special.entr(shares).sum().exp()


def token_entropy(histogram: Tensor, codes_per_position: int = 1) -> Tensor:
    """Bits that the codes of a position cost who knows nothing but how often each is chosen; in [0, M log2 K].

    For a single codebook log2 of its perplexity. With M sub-quantizers the sum over them, each by its own counts: what
    the codes of a position tell of one another is not taken off.

    Args:
        histogram: counts (M * K,), the codes of a sub-quantizer one after the other.
        codes_per_position: M.
    """
    counts = to_float64(histogram).unflatten(0, (codes_per_position, -1))
    shares = counts / counts.sum(dim=1, keepdim=True)
    return torch.special.entr(shares).sum() / math.log(2)


class CodebookUsage(Metric):
    """Utilization and perplexity of a codebook, counted over everything given until `compute`, on all processes.

    Both depend on how much is counted, so they are never averaged over batches.

    Args:
        codebook_size: K.
    """

    full_state_update = False
    histogram: Tensor

    def __init__(self, codebook_size: int):
        super().__init__()
        self.codebook_size = codebook_size
        self.add_state("histogram", torch.zeros(codebook_size, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, indices: Tensor) -> None:
        """Count indices, int64 of any shape, in [0, K).

        Raises:
            InputError: if an index is out of range.
        """
        if indices.numel() and not 0 <= int(indices.min()) <= int(indices.max()) < self.codebook_size:
            raise InputError(
                f"indices reach from {int(indices.min())} to {int(indices.max())}; "
                f"valid are 0 to {self.codebook_size - 1}"
            )
        self.histogram += torch.bincount(indices.flatten(), minlength=self.codebook_size)

    def compute(self) -> dict[str, Tensor]:
        """{"utilization": in [1/K, 1], "perplexity": in [1, K]}, float64 scalars.

        Raises:
            InputError: before the first update.
        """
        if not self.histogram.any():
            raise InputError("no indices were counted; call update before compute")
        return {"utilization": utilization(self.histogram), "perplexity": perplexity(self.histogram)}


QUALITY_PROTOCOL = {
    "psnr": "mean over images of the PSNR of all channels as they are, 8-bit images, range 255; "
    "an exact image counts as one with a single value off by one",
    "ssim": "mean over images, Gaussian window 11 with sigma 1.5, reflected borders, 8-bit images, range 255",
    "utilization, perplexity": "counted over the whole evaluation set",
    "token_entropy": "bits of an image's tokens by the frequencies of the codes alone, each sub-quantizer and each "
    "scale by its own",
    "quantization_error": "squared distance of a feature to its code, summed over channels, mean over all features",
    "relative_quantization_error": "quantization_error over the trace of the features' covariance",
}


class ReconstructionQuality(Metric):
    """PSNR, SSIM, reconstruction loss, code usage and quantization error; every state is a sum, so any split of the
    images over batches and processes gives the same result. Its sums are float64: it belongs on `float64_device` of
    where the images are.

    Args:
        num_codes: codes of all codebooks, K or M * K.
        codebook_dim: D.
        scales: of a tokenizer that has some, whose codes are counted for each scale, (S, K).
    """

    full_state_update = False
    sums: Tensor
    histogram: Tensor
    feature_sum: Tensor
    feature_squares: Tensor

    def __init__(self, num_codes: int, codebook_dim: int, scales: Sequence[int] = ()):
        super().__init__()
        self.scales = tuple(scales)
        counted = (len(scales), num_codes) if scales else (num_codes,)
        self.add_state("sums", torch.zeros(6, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("histogram", torch.zeros(counted, dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("feature_sum", torch.zeros(codebook_dim, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("feature_squares", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(
        self, originals: Tensor, reconstructions: Tensor, features: Tensor, tokens: Tensor, codes: Tensor
    ) -> None:
        """Count a batch.

        Args:
            originals, reconstructions: uint8 (B, C, H, W).
            features: (B, D, h, w), where the codes lie, before they are rounded to these: `unquantized` of a quantizer.
            tokens: int64 (B, T) in [0, num_codes): each code that was chosen.
            codes: (B, h, w, D), what the features were quantized to.
        """
        originals, reconstructions, features, tokens, codes = (
            part.to(self.sums.device) for part in (originals, reconstructions, features, tokens, codes)
        )
        difference = (originals.double() - reconstructions.double()) / 255
        error = reduce(difference.square(), "b c h w -> b", "mean")
        smallest = 1 / (255**2 * originals[0].numel())  # or a single exact image would make the mean infinite
        ssim = structural_similarity_index_measure(
            reconstructions.float(), originals.float(), data_range=255.0, reduction="none"
        )
        assert isinstance(ssim, Tensor)
        vectors = rearrange(features, "b d h w -> (b h w) d").double()
        distances = (vectors - codes.flatten(0, -2).double()).square().sum(dim=1)
        self.sums += torch.stack(
            [
                error.new_tensor(len(originals)),
                error.sum(),
                (-10 * error.clamp(min=smallest).log10()).sum(),
                ssim.double().sum(),
                error.new_tensor(len(vectors)),
                distances.sum(),
            ]
        )
        parts = tokens.split([scale**2 for scale in self.scales], dim=1) if self.scales else [tokens]
        counts = [torch.bincount(part.flatten(), minlength=self.histogram.shape[-1]) for part in parts]
        self.histogram += torch.stack(counts).view_as(self.histogram)
        self.feature_sum += vectors.sum(dim=0)
        self.feature_squares += vectors.square().sum()

    def compute(self) -> dict[str, float]:
        """The scores of all that was counted, by `reconstruction_quality`, with scales and by `usage_by_scale`."""
        usage = usage_by_scale(self.histogram, self.scales) if self.scales else {}
        return reconstruction_quality(self.sums, self.histogram, self.feature_sum, self.feature_squares) | usage


def usage_by_scale(histogram: Tensor, scales: Sequence[int]) -> dict[str, float]:
    """Utilization and perplexity at each scale, as utilization_2x2, from histogram (S, K), as plain numbers.

    N images have N s^2 tokens at scale s, which use N s^2 / K of the codes at most, and a share 1 - exp(-N s^2 / K) on
    average if all codes are equally probable.
    """
    return {
        f"{name}_{scale}x{scale}": float(measure(own))
        for scale, own in zip(scales, histogram, strict=True)
        for name, measure in (("utilization", utilization), ("perplexity", perplexity))
    }


def reconstruction_quality(
    sums: Tensor, histogram: Tensor, feature_sum: Tensor, feature_squares: Tensor
) -> dict[str, float]:
    """What the states of a `ReconstructionQuality`, or sums of several such states, amount to.

    Returns:
        reconstruction_loss (mean squared error on the [-1, 1] scale), psnr (dB), ssim, utilization, perplexity,
        token_entropy (bits of an image's tokens), quantization_error and relative_quantization_error, as plain numbers.
    """
    images, error, psnr, ssim, vectors, distance = sums.unbind()
    if histogram.ndim == 1:
        codes_per_position = round(float(histogram.sum() / vectors))
        entropy = vectors / images * token_entropy(histogram, codes_per_position)
    else:  # of scales
        entropy = sum(own.sum() / images * token_entropy(own) for own in histogram)
        histogram = histogram.sum(dim=0)
    variance = feature_squares / vectors - (feature_sum / vectors).square().sum()
    scores = {
        "reconstruction_loss": 4 * error / images,
        "psnr": psnr / images,
        "ssim": ssim / images,
        "utilization": utilization(histogram),
        "perplexity": perplexity(histogram),
        "token_entropy": entropy,
        "quantization_error": distance / vectors,
        "relative_quantization_error": distance / vectors / variance,
    }
    return {name: float(value) for name, value in scores.items()}
