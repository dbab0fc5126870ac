"""VQ with codes that are moving averages of their vectors (arXiv 1711.00937, appendix A.1)."""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from ..codebook import CodebookQuantizer
from ..running_means import RunningMeans


@dataclass(kw_only=True, eq=False, repr=False)
class EMAQuantizer(CodebookQuantizer):
    """Codes follow their vectors by exponential moving averages, without gradient.

    Source: VQ-VAE, arXiv 1711.00937, appendix A.1.

    Args:
        codebook_size, codebook_dim, init_std, initialization, initialization_steps, gradient_estimator, revival: see
            `CodebookQuantizer`.
        commitment_weight: beta, weight of the term that moves the vectors.
        decay: of the moving averages, in [0, 1); 0.99 is VQ-VAE's, 0.8 that of arXiv 2506.15078.

    Raises:
        InputError: for a decay outside [0, 1), and as `CodebookQuantizer`.
    """

    commitment_weight: float = 1.0
    decay: float = 0.99

    def __post_init__(self) -> None:
        super().__post_init__()
        self.weight.requires_grad_(False)
        self.means = RunningMeans(self.codebook_size, self.decay)

    def objective(self, vectors: Tensor, quantized: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        commitment = F.mse_loss(vectors, quantized)
        return self.commitment_weight * commitment, {"commitment_loss": commitment}

    def codebook_step(self, vectors: Tensor, indices: Tensor) -> tuple[Tensor | None, dict[str, Tensor]]:
        self.means.update(self.weight.data, vectors, indices)
        return None, {}
