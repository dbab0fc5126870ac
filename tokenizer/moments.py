"""Mean and covariance of the features over the last batches, exact over all processes."""

import torch
from torch import Tensor, nn

from .collective import sum_over_processes


class MomentWindow(nn.Module):
    """A ring of per-step moments (count, sum, outer product) in float64.

    The paper keeps 65,536 past features in a queue per process, which starts as noise. The moments give the same mean
    and covariance from D*D numbers a batch, for any batch size, with nothing random at the start; one small all-reduce
    makes them those of all processes.

    Args:
        dim: D.
        window: steps remembered, the current one included.
    """

    counts: Tensor
    sums: Tensor
    outers: Tensor
    position: Tensor

    def __init__(self, dim: int, window: int):
        super().__init__()
        self.register_buffer("counts", torch.zeros(window, dtype=torch.float64))
        self.register_buffer("sums", torch.zeros(window, dim, dtype=torch.float64))
        self.register_buffer("outers", torch.zeros(window, dim, dim, dtype=torch.float64))
        self.register_buffer("position", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def push(self, vectors: Tensor) -> None:
        """Remember a batch of vectors (N, D), forget the oldest; a collective call if there are several processes."""
        vectors = vectors.to(torch.float64)
        count = vectors.new_tensor([len(vectors)])
        packed = sum_over_processes(torch.cat([count, vectors.sum(dim=0), (vectors.mT @ vectors).flatten()]))
        dim = vectors.shape[1]
        slot = int(self.position) % len(self.counts)
        self.counts[slot] = packed[0]
        self.sums[slot] = packed[1 : 1 + dim]
        self.outers[slot] = packed[1 + dim :].view(dim, dim)
        self.position += 1

    def mean_and_covariance(self) -> tuple[Tensor, Tensor]:
        """Mean (D,) and unbiased covariance (D, D) of all remembered vectors, float64."""
        count = self.counts.sum()
        mean = self.sums.sum(dim=0) / count
        covariance = (self.outers.sum(dim=0) - count * torch.outer(mean, mean)) / (count - 1).clamp(min=1)
        return mean, covariance
