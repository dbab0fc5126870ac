"""The codebook doctor, `wvq evaluate --codebook`: what is wrong with a trained codebook, and what to do about it."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

from wvq.tokenizer import InputError, VQTokenizer, gaussian_wasserstein_distance, nearest_codes
from wvq.tokenizer.data.batches import evenly_spaced
from wvq.tokenizer.data.dataset import ImageDataset
from wvq.tokenizer.data.decoding import to_model
from wvq.tokenizer.metrics import perplexity, utilization
from wvq.tokenizer.multi_scale import MultiScaleQuantizer
from wvq.tokenizer.precision import full_precision
from wvq.tokenizer.quantizers.base import Quantizer
from wvq.tokenizer.quantizers.gaussian import mean_and_covariance

from .report.figures import FEATURE_COLOR, UNUSED_COLOR, USED_COLOR, principal_plane

# Two codes count as one where they are this much nearer to each other than vectors are to their codes.
_DUPLICATE_SHARE = 0.05
# In few dimensions independent codes are often as near: the share is lowered so that it happens to few in ten thousand.
_CHANCE = 1e-4


@dataclass(frozen=True)
class CodebookReport:
    """The state of a codebook on a data set.

    Attributes:
        codebook_size, codebook_dim: K, D.
        num_features: N.
        quantization_error: E, the squared distance of a feature, brought to where the codes lie, to its code, summed
            over channels.
        relative_quantization_error: E over the trace of the features' covariance.
        utilization: share of codes that some feature chose.
        perplexity: in [1, K].
        wasserstein_distance: between features and codes as Gaussians.
        relative_wasserstein_distance: the same over the root of the trace of the features' covariance.
        dead_codes: codes that no feature chose.
        duplicate_codes: codes whose nearest other code is nearer than 5 % of the root mean square distance between
            features and their codes; below 4 dimensions than a share of 0.0001^(1/D), since independent codes would
            be as near by chance.
        feature_dimension, code_dimension: effective dimensions, (sum l)^2 / sum l^2 over the eigenvalues l of the
            covariance; in [1, D].
        findings: each a sentence, with what to change.
        features, codes, used: for the picture, on the CPU: features (at most 20,000, D), codes (K, D), used (K,) bool.
    """

    codebook_size: int
    codebook_dim: int
    num_features: int
    quantization_error: float
    relative_quantization_error: float
    utilization: float
    perplexity: float
    wasserstein_distance: float
    relative_wasserstein_distance: float
    dead_codes: int
    duplicate_codes: int
    feature_dimension: float
    code_dimension: float
    findings: list[str]
    features: Tensor = field(repr=False, compare=False)
    codes: Tensor = field(repr=False, compare=False)
    used: Tensor = field(repr=False, compare=False)

    def as_dict(self) -> dict[str, Any]:
        """Figures and findings, JSON-able."""
        return {name: value for name, value in asdict(self).items() if not isinstance(value, Tensor)}

    def __str__(self) -> str:
        lines = [
            f"codebook of {self.codebook_size} x {self.codebook_dim}, {self.num_features} features",
            f"E {self.quantization_error:.4g}, relative E {self.relative_quantization_error:.4f}, "
            f"utilization {self.utilization:.4f}, perplexity {self.perplexity:.1f}",
            f"W2 {self.wasserstein_distance:.4g} (relative {self.relative_wasserstein_distance:.3f}), "
            f"dead codes {self.dead_codes}, duplicate codes {self.duplicate_codes}",
            f"effective dimension of features {self.feature_dimension:.1f}, of codes {self.code_dimension:.1f}",
        ]
        return "\n".join(lines + [f"- {finding}" for finding in self.findings])


@torch.no_grad()
def examine_tokenizer(tokenizer: VQTokenizer, dataset: ImageDataset, batch_size: int = 256) -> CodebookReport:
    """The report of a tokenizer on all images of a data set.

    Raises:
        InputError: for a tokenizer with several codebooks.
    """
    quantizer = tokenizer.eval().quantizer
    scales = quantizer if isinstance(quantizer, MultiScaleQuantizer) else None
    if scales is not None:
        (quantizer,) = scales.sub_quantizers
    if not isinstance(quantizer, Quantizer):
        raise InputError(
            f"the tokenizer has a {tokenizer.config.quantizer} quantizer of {tokenizer.config.codes_per_position} "
            "codebooks; a report is about one"
        )
    vectors, indices = [], []
    with full_precision():
        for numbers in torch.arange(len(dataset)).split(batch_size):
            images = dataset.take(numbers)["images"]
            own = tokenizer.features(to_model(images.to(tokenizer.device)))
            # Of scales, what their one codebook is for: the vectors of all of them.
            own = scales.vectors(own) if scales is not None else rearrange(own, "b d h w -> (b h w) d")
            vectors.append(quantizer.unquantized(own).cpu())
            indices.append(quantizer.assign(quantizer.project(own.float())).cpu())
    return examine_codebook(torch.cat(vectors), quantizer.codebook.detach().cpu(), torch.cat(indices))


@torch.no_grad()
def examine_codebook(features: Tensor, codes: Tensor, indices: Tensor | None = None) -> CodebookReport:
    """The report of codes (K, D) for features (N, D), N >= 2, that lie where the codes do.

    `indices` (N,), int64 in [0, K), are the codes that the features have; the nearest ones by default.
    """
    size, dim = codes.shape
    indices = nearest_codes(features, codes) if indices is None else indices
    histogram = torch.bincount(indices, minlength=size)
    error = (features - codes[indices]).double().square().sum(dim=1).mean().item()
    feature_moments, code_moments = mean_and_covariance(features), mean_and_covariance(codes)
    variance = feature_moments[1].trace().item()
    distance = gaussian_wasserstein_distance(*feature_moments, *code_moments).item()
    figures: dict[str, Any] = {
        "codebook_size": size,
        "codebook_dim": dim,
        "num_features": len(features),
        "quantization_error": error,
        "relative_quantization_error": error / max(variance, 1e-30),
        "utilization": utilization(histogram).item(),
        "perplexity": perplexity(histogram).item(),
        "wasserstein_distance": distance,
        "relative_wasserstein_distance": distance / max(variance, 1e-30) ** 0.5,
        "dead_codes": int((histogram == 0).sum()),
        "duplicate_codes": _duplicates(codes, min(_DUPLICATE_SHARE, _CHANCE ** (1 / dim)) * error**0.5),
        "feature_dimension": effective_dimension(feature_moments[1]),
        "code_dimension": effective_dimension(code_moments[1]),
    }
    findings = [advice for applies, advice in FINDINGS if applies(figures)] or ["nothing is wrong with this codebook"]
    shown = features[evenly_spaced(len(features), 20_000)]
    pictured: dict[str, Any] = {"features": shown.cpu(), "codes": codes.cpu(), "used": histogram.cpu() > 0}
    return CodebookReport(**figures, findings=findings, **pictured)


def effective_dimension(covariance: Tensor) -> float:
    """(sum l)^2 / sum l^2 over the eigenvalues l of a covariance (D, D): D for a sphere, 1 for a line (or a point)."""
    squares = covariance.square().sum()
    return float(covariance.trace().square() / squares) if squares > 0 else 1.0


# What can be found, and what to change: options are those of `wvq train-tokenizer`.
FINDINGS: list[tuple[Callable[[dict[str, Any]], bool], str]] = [
    (
        lambda f: f["num_features"] < 10 * f["codebook_size"],
        "there are fewer than 10 features for each code: utilization is underestimated; take more images",
    ),
    (
        lambda f: f["utilization"] < 0.9 and f["relative_wasserstein_distance"] > 0.3,
        "codes are unused because they lie elsewhere than the features: train with --model.quantizer wasserstein, "
        "or raise its wasserstein_weight",
    ),
    (
        lambda f: f["utilization"] < 0.9 and f["relative_wasserstein_distance"] <= 0.3,
        "codes are unused although mean and covariance match: the features are far from Gaussian; raise "
        "--codebook-learning-rate, try --model.quantizer mmd, or a smaller --model.codebook-size",
    ),
    (
        lambda f: f["utilization"] >= 0.9 and f["perplexity"] < 0.5 * f["codebook_size"],
        "all codes are used but a few do most of the work: raise --codebook-learning-rate or train longer",
    ),
    (
        lambda f: f["duplicate_codes"] > 0.01 * f["codebook_size"],
        "more than 1 % of the codes have a twin: draw them by initialization kmeans++, or take fewer",
    ),
    (
        lambda f: f["feature_dimension"] < 0.4 * f["codebook_dim"],
        "the features fill less than 40 % of their dimensions: a smaller --model.codebook-dim would lose nothing, "
        "or a lower commitment_weight lets them spread",
    ),
    (
        lambda f: f["relative_quantization_error"] > 0.2,
        "more than 20 % of the features' variance is lost: use more codes (--model.codebook-size), fewer dimensions "
        "(--model.codebook-dim), or a higher commitment_weight",
    ),
]


def _duplicates(codes: Tensor, distance: float) -> int:
    """Codes with another one within the distance; exact copies count whatever the distance."""
    unique, inverse, counts = codes.unique(dim=0, return_inverse=True, return_counts=True)
    copies = counts[inverse] > 1
    near = torch.zeros(len(unique), dtype=torch.bool, device=codes.device)
    if len(unique) > 1:
        for start in range(0, len(unique), 1024):  # in blocks, so that K x K never exists
            # Without the products of the fast way, which around an offset lose the digits of what is near.
            rows = unique[start : start + 1024]
            block = torch.cdist(rows, unique, compute_mode="donot_use_mm_for_euclid_dist")
            block.diagonal(start).fill_(torch.inf)
            near[start : start + 1024] = block.amin(dim=1) < distance
    return int((copies | near[inverse]).sum())


def draw_codebook_figure(report: CodebookReport, path: Path) -> None:
    """Features, used and unused codes in the plane of the features' largest variance, as PNG."""
    features, codes, share = principal_plane(report.features.numpy(), report.codes.numpy())
    used = report.used.numpy()
    figure = Figure(figsize=(7, 6), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.scatter(*features.T, s=3, color=FEATURE_COLOR, linewidths=0, label=f"features ({report.num_features:,})")
    axes.scatter(*codes[used].T, s=7, color=USED_COLOR, linewidths=0, label=f"used codes ({used.sum():,})")
    axes.scatter(*codes[~used].T, s=14, color=UNUSED_COLOR, marker="x", label=f"unused codes ({(~used).sum():,})")
    axes.set(xlabel=f"first principal direction of the features ({share[0]:.0%} of their variance)",
             ylabel=f"second ({share[1]:.0%})", aspect="equal")  # fmt: skip
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="upper right", frameon=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
