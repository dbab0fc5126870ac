"""VQ with codes that are moving averages of their vectors (arXiv 1711.00937, appendix A.1)."""

import torch.nn.functional as F
from torch import Tensor

from .errors import InputError
from .gradient import GradientEstimator
from .initialization import Initialization
from .quantizer import Quantizer
from .running_means import RunningMeans


class EMAQuantizer(Quantizer):
    """Codes follow their vectors by exponential moving averages, without gradient.

    Args:
        codebook_size, codebook_dim, init_std, initialization, gradient_estimator: see `Quantizer`.
        commitment_weight: beta, weight of the term that moves the vectors.
        decay: of the moving averages, in [0, 1); 0.99 is VQ-VAE's, 0.8 that of arXiv 2506.15078.
    """

    def __init__(
        self,
        codebook_size: int,
        codebook_dim: int,
        init_std: float = 0.01,
        initialization: Initialization = "normal",
        gradient_estimator: GradientEstimator = "straight-through",
        commitment_weight: float = 1.0,
        decay: float = 0.99,
    ):
        super().__init__(codebook_size, codebook_dim, init_std, initialization, gradient_estimator)
        if not 0 <= decay < 1:
            raise InputError(f"decay is {decay}; it must be in [0, 1)")
        self.commitment_weight = commitment_weight
        self.weight.requires_grad_(False)
        self.means = RunningMeans(codebook_size, decay)

    def objective(self, vectors: Tensor, quantized: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        commitment = F.mse_loss(vectors, quantized)
        return self.commitment_weight * commitment, {"commitment_loss": commitment}

    def codebook_step(self, vectors: Tensor, indices: Tensor) -> tuple[Tensor | None, dict[str, Tensor]]:
        self.means.update(self.weight.data, vectors, indices)
        return None, {}
