"""MMD VQ (arXiv 2506.15078): the codebook is drawn to the features by their maximum mean discrepancy."""

import torch
from torch import Tensor

from .collective import rows_of_all_processes
from .discrepancy import maximum_mean_discrepancy
from .errors import InputError
from .gradient import GradientEstimator
from .initialization import Initialization
from .vanilla import VanillaQuantizer


class MMDQuantizer(VanillaQuantizer):
    """The VQ-VAE loss plus gamma times the squared MMD between features and codes; it assumes no Gaussian.

    The features' side is detached. The paper compares all features of the batch with all codes, N^2 + N K + K^2 kernel
    values; above `max_points` this quantizer takes evenly spread features and codes, others in every step.

    Args:
        codebook_size, codebook_dim, init_std, initialization, gradient_estimator: see `Quantizer`.
        commitment_weight: beta, weight of the term that moves the vectors.
        codebook_weight: alpha, weight of the term that moves the codes.
        mmd_weight: gamma.
        max_points: features, and codes, that are compared in a step.
    """

    position: Tensor

    def __init__(
        self,
        codebook_size: int,
        codebook_dim: int,
        init_std: float = 0.01,
        initialization: Initialization = "normal",
        gradient_estimator: GradientEstimator = "straight-through",
        commitment_weight: float = 0.1,
        codebook_weight: float = 1.0,
        mmd_weight: float = 0.5,
        max_points: int = 2048,
    ):
        super().__init__(
            codebook_size,
            codebook_dim,
            init_std,
            initialization,
            gradient_estimator,
            commitment_weight,
            codebook_weight,
        )
        if max_points < 2:
            raise InputError(f"max_points is {max_points}; it must be at least 2")
        self.mmd_weight, self.max_points = mmd_weight, max_points
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
