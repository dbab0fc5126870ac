"""Maximum mean discrepancy between two sets of points."""

import torch
from torch import Tensor


def maximum_mean_discrepancy(x: Tensor, y: Tensor) -> Tensor:
    """Squared MMD between points x (N, D) and y (M, D), a scalar >= 0 to rounding; differentiable in both.

    The estimate of arXiv 2506.15078: with d = |a - b|^2 / sqrt(D) and the bandwidth b the mean d over all pairs of the
    pooled points (held constant), the kernel is exp(-d / b) + exp(-d / 2b), and the means include each point with
    itself (V-statistic). Three matrices of the sets' sizes are held at once.
    """
    pooled = torch.cat([x, y]).detach().double()
    # The mean squared distance over all pairs, each point with itself included, is twice the total variance.
    bandwidth = 2 * pooled.var(dim=0, correction=0).sum() / pooled.shape[1] ** 0.5
    bandwidth = bandwidth.clamp(min=torch.finfo(x.dtype).tiny).to(x.dtype)

    def mean_kernel(a: Tensor, b: Tensor) -> Tensor:
        half = torch.exp(-_squared_distances(a, b) / (2 * bandwidth * a.shape[1] ** 0.5))
        return (half.square() + half).mean()

    return mean_kernel(x, x) - 2 * mean_kernel(x, y) + mean_kernel(y, y)


def _squared_distances(a: Tensor, b: Tensor) -> Tensor:
    """(N, M), never below 0, around the common mean so that an offset costs no digits."""
    origin = b.detach().mean(dim=0)
    a, b = a - origin, b - origin
    return (a.square().sum(dim=1)[:, None] + b.square().sum(dim=1) - 2 * a @ b.mT).clamp(min=0)
