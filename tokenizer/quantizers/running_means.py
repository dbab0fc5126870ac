"""Codes that are moving averages of their vectors (arXiv 1711.00937, appendix A.1)."""

import torch
from torch import Tensor, nn

from ..distributed import sum_over_processes
from ..errors import InputError


class RunningMeans(nn.Module):
    """Moves each code to the exponential moving average of the vectors that chose it (arXiv 1711.00937, appendix A.1).

    With N_k the moving average of a code's count and m_k that of the sum of its vectors, the code is m_k / N_k. It is
    kept as e_k <- e_k + (1 - decay) (s_k - n_k e_k) / N_k, s_k and n_k of this step, which is the same but needs no
    smoothing: a code that no vector chose stays where it is, where m_k / N_k would fall to 0 / 0.

    Args:
        codebook_size: K.
        decay: in [0, 1); 0 is one step of k-means.

    Raises:
        InputError: for a decay outside these bounds.
    """

    counts: Tensor

    def __init__(self, codebook_size: int, decay: float):
        super().__init__()
        check_decay(decay)
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


def check_decay(decay: float) -> None:
    """Raises: InputError: unless 0 <= decay < 1."""
    if not 0 <= decay < 1:
        raise InputError(f"decay is {decay}; it must be in [0, 1)")
