"""The vector quantizer of VQ-VAE (arXiv 1711.00937)."""

from torch import Tensor

from .base import Quantizer, commitment_and_codebook_loss
from .gradient import GradientEstimator
from .initialization import Initialization


class VanillaQuantizer(Quantizer):
    """Codes follow their vectors by gradient, vectors are held near their codes by the commitment loss.

    Args:
        codebook_size, codebook_dim, init_std, initialization, gradient_estimator: see `Quantizer`.
        commitment_weight: beta, weight of the term that moves the vectors.
        codebook_weight: alpha, weight of the term that moves the codes.
    """

    def __init__(
        self,
        codebook_size: int,
        codebook_dim: int,
        init_std: float = 0.01,
        initialization: Initialization = "normal",
        gradient_estimator: GradientEstimator = "straight-through",
        commitment_weight: float = 1.0,
        codebook_weight: float = 1.0,
    ):
        super().__init__(codebook_size, codebook_dim, init_std, initialization, gradient_estimator)
        self.commitment_weight, self.codebook_weight = commitment_weight, codebook_weight

    def objective(self, vectors: Tensor, quantized: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        commitment, codebook = commitment_and_codebook_loss(vectors, quantized)
        loss = self.commitment_weight * commitment + self.codebook_weight * codebook
        return loss, {"commitment_loss": commitment, "codebook_loss": codebook}
