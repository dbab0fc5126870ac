"""VQ with codes that are moving averages of their vectors (arXiv 1711.00937, appendix A.1)."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..distributed import sum_over_processes
from ..errors import InputError
from .base import Quantizer


@dataclass(kw_only=True, eq=False, repr=False)
class EMAQuantizer(Quantizer):
    """Codes follow their vectors by exponential moving averages, without gradient.

    Args:
        codebook_size, codebook_dim, init_std, initialization, gradient_estimator: see `Quantizer`.
        commitment_weight: beta, weight of the term that moves the vectors.
        decay: of the moving averages, in [0, 1); 0.99 is VQ-VAE's, 0.8 that of arXiv 2506.15078.
    """

    commitment_weight: float = 1.0
    decay: float = 0.99

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.decay < 1:
            raise InputError(f"decay is {self.decay}; it must be in [0, 1)")
        self.weight.requires_grad_(False)
        self.means = RunningMeans(self.codebook_size, self.decay)

    def objective(self, vectors: Tensor, quantized: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        commitment = F.mse_loss(vectors, quantized)
        return self.commitment_weight * commitment, {"commitment_loss": commitment}

    def codebook_step(self, vectors: Tensor, indices: Tensor) -> tuple[Tensor | None, dict[str, Tensor]]:
        self.means.update(self.weight.data, vectors, indices)
        return None, {}


class RunningMeans(nn.Module):
    """Moves each code to the exponential moving average of the vectors that chose it (arXiv 1711.00937, appendix A.1).

    With N_k the moving average of a code's count and m_k that of the sum of its vectors, the code is m_k / N_k. It is
    kept as e_k <- e_k + (1 - decay) (s_k - n_k e_k) / N_k, s_k and n_k of this step, which is the same but needs no
    smoothing: a code that no vector chose stays where it is, where m_k / N_k would fall to 0 / 0.

    Args:
        codebook_size: K.
        decay: in [0, 1); 0 is one step of k-means.
    """

    counts: Tensor

    def __init__(self, codebook_size: int, decay: float):
        super().__init__()
        self.decay = decay
        self.register_buffer("counts", torch.zeros(codebook_size))

    @torch.no_grad()
    def update(self, codes: Tensor, vectors: Tensor, indices: Tensor) -> None:
        """Move codes (K, D) in place towards the vectors (N, D) that chose them by indices (N,), of all processes."""
        # One sum for counts and vectors, so that processes need one all-reduce.
        columns = torch.cat([vectors, vectors.new_ones(len(vectors), 1)], dim=1)
        totals = vectors.new_zeros(len(codes), columns.shape[1]).index_add_(0, indices, columns)
        totals = sum_over_processes(totals)
        sums, counts = totals[:, :-1], totals[:, -1]
        self.counts.mul_(self.decay).add_(counts, alpha=1 - self.decay)
        share = torch.where(counts > 0, (1 - self.decay) / self.counts.clamp(min=torch.finfo(counts.dtype).tiny), 0.0)
        codes += share[:, None] * (sums - counts[:, None] * codes)
