"""MMD VQ (arXiv 2506.15078): the codebook is drawn to the features by their maximum mean discrepancy."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..distributed import rows_of_all_processes
from ..errors import InputError
from ..precision import to_float64
from .vanilla import VanillaQuantizer


@dataclass(kw_only=True, eq=False, repr=False)
class MMDQuantizer(VanillaQuantizer):
    """The VQ-VAE loss plus gamma times the squared MMD between features and codes; it assumes no Gaussian.

    The features' side is detached. The paper compares all features of the batch with all codes, N^2 + N K + K^2 kernel
    values; above `max_points` this quantizer takes evenly spread features and codes, others in every step.

    Source: arXiv 2506.15078.

    Args:
        codebook_size, codebook_dim, init_std, initialization, initialization_steps, gradient_estimator, revival: see
            `CodebookQuantizer`.
        commitment_weight: beta, weight of the term that moves the vectors.
        codebook_weight: alpha, weight of the term that moves the codes.
        mmd_weight: gamma.
        max_points: features, and codes, that are compared in a step.

    Raises:
        InputError: for max_points below 2, and as `CodebookQuantizer`.
    """

    step_terms: ClassVar[tuple[str, ...]] = ("mmd",)

    commitment_weight: float = 0.1
    mmd_weight: float = 0.5
    max_points: int = 2048

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.max_points < 2:
            raise InputError(f"max_points is {self.max_points}; it must be at least 2")
        self.position: Tensor
        self.register_buffer("position", torch.zeros((), dtype=torch.int64))

    def codebook_step(self, vectors: Tensor, indices: Tensor) -> tuple[Tensor | None, dict[str, Tensor]]:
        features = self._some(rows_of_all_processes(vectors))
        discrepancy = maximum_mean_discrepancy(features, self._some(self.codebook))
        self.position += 1
        return self.mmd_weight * discrepancy, {"mmd": discrepancy}

    def _some(self, points: Tensor) -> Tensor:
        """At most max_points of the points (N, D), evenly spread; the next step begins one further."""
        if len(points) <= self.max_points:
            return points
        spread = torch.arange(self.max_points, device=points.device) * len(points) // self.max_points
        return points[(spread + self.position) % len(points)]


def maximum_mean_discrepancy(x: Tensor, y: Tensor) -> Tensor:
    """Squared MMD between points x (N, D) and y (M, D), a scalar >= 0 to rounding; differentiable in both.

    The estimate of arXiv 2506.15078: with d = |a - b|^2 / sqrt(D) and the bandwidth b the mean d over all pairs of the
    pooled points (held constant), the kernel is exp(-d / b) + exp(-d / 2b), and the means include each point with
    itself (V-statistic). Three matrices of the sets' sizes are held at once.
    """
    pooled = to_float64(torch.cat([x, y]).detach())
    # The mean squared distance over all pairs, each point with itself included, is twice the total variance.
    bandwidth = 2 * pooled.var(dim=0, correction=0).sum() / pooled.shape[1] ** 0.5
    bandwidth = bandwidth.clamp(min=torch.finfo(x.dtype).tiny).to(x.dtype).to(x.device)

    def mean_kernel(a: Tensor, b: Tensor) -> Tensor:
        half = torch.exp(-_squared_distances(a, b) / (2 * bandwidth * a.shape[1] ** 0.5))
        return (half.square() + half).mean()

    return mean_kernel(x, x) - 2 * mean_kernel(x, y) + mean_kernel(y, y)


def _squared_distances(a: Tensor, b: Tensor) -> Tensor:
    """(N, M), never below 0, around the common mean so that an offset costs no digits."""
    origin = b.detach().mean(dim=0)
    a, b = a - origin, b - origin
    return (a.square().sum(dim=1)[:, None] + b.square().sum(dim=1) - 2 * a @ b.mT).clamp(min=0)
