"""The vector quantizer of VQ-VAE (arXiv 1711.00937)."""

from dataclasses import dataclass

from torch import Tensor

from .base import commitment_and_codebook_loss
from .codebook import CodebookQuantizer


@dataclass(kw_only=True, eq=False, repr=False)
class VanillaQuantizer(CodebookQuantizer):
    """Codes follow their vectors by gradient, vectors are held near their codes by the commitment loss.

    Source: VQ-VAE, arXiv 1711.00937.

    Args:
        codebook_size, codebook_dim, init_std, initialization, initialization_steps, gradient_estimator, revival: see
            `CodebookQuantizer`.
        commitment_weight: beta, weight of the term that moves the vectors.
        codebook_weight: alpha, weight of the term that moves the codes.

    Raises:
        InputError: as `CodebookQuantizer`.
    """

    commitment_weight: float = 1.0
    codebook_weight: float = 1.0

    def objective(self, vectors: Tensor, quantized: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        commitment, codebook = commitment_and_codebook_loss(vectors, quantized)
        loss = self.commitment_weight * commitment + self.codebook_weight * codebook
        return loss, {"commitment_loss": commitment, "codebook_loss": codebook}
