"""Optimal transport between Gaussians: the distance, its gradient, and the map.

Between N(m1, S1) and N(m2, S2) the squared 2-Wasserstein distance is (arXiv 2506.15078, the distribution-matching loss)

    W2^2 = ||m1 - m2||^2 + tr(S1) + tr(S2) - 2 tr((S1^1/2 S2 S1^1/2)^1/2),

and the trace on the right is the nuclear norm of S1^1/2 S2^1/2. That form is used here: it takes no root of a product,
so directions without variance cost no digits, and equal inputs give zero to rounding. Everything is float64, on the CPU
for devices that have none.

On a CPU the roots are symmetric ones, by eigenvectors, and the trace is a sum of singular values. A GPU would have to
be asked whether such a decomposition has converged. There, any L with L L^T = S is a root as good: the trace is the
nuclear norm of L2^T L1, that is tr(Q^T L2^T L1) with the orthogonal factor Q of its polar decomposition, and the map
from 1 to 2 is L2 Q L1^-1. L is Cholesky's, of S + s I on both sides with s at the rounding of the larger trace: what is
measured are then both Gaussians after the same little noise, whose distance differs only in directions that one of
both does not have, by its square root of s.
"""

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from ..distributed import sum_over_processes
from ..precision import float64_device, to_float64

_BLOCK = 2**25  # numbers that are held in float64 at once: 256 MiB


def _symmetric_root(covariance: Tensor) -> Tensor:
    """Symmetric square root of a positive semi-definite (D, D) matrix; eigenvalues within rounding of 0 count as 0."""
    eigenvalues, vectors = torch.linalg.eigh((covariance + covariance.mT) / 2)
    rounding = eigenvalues[-1] * len(eigenvalues) * torch.finfo(eigenvalues.dtype).eps
    return (vectors * torch.where(eigenvalues > rounding, eigenvalues.clamp(min=0).sqrt(), 0.0)) @ vectors.mT


def _coupled(covariance_a: Tensor, covariance_b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """tr((S_a^1/2 S_b S_a^1/2)^1/2) of S_a and S_b, (D, D); the symmetric A and B with A S_a A = S_b, B S_b B = S_a.

    A = S_b^1/2 (S_b^1/2 S_a S_b^1/2)^-1/2 S_b^1/2, and B the other way round, by one decomposition of the product of
    the roots. Directions in which either side has no variance at all (singular values below the rounding of the
    largest) are left out: the maps are then those between what is left.
    """
    if covariance_a.device.type != "cpu":
        return _coupled_without_asking(covariance_a, covariance_b)
    root_a, root_b = _symmetric_root(covariance_a), _symmetric_root(covariance_b)
    left, singular, right = torch.linalg.svd(root_b @ root_a)
    floor = singular.max() * singular.numel() * torch.finfo(singular.dtype).eps
    inverse = torch.where(singular > floor, 1 / singular.clamp(min=torch.finfo(singular.dtype).tiny), 0.0)
    half_b, half_a = root_b @ left, root_a @ right.mT
    return singular.sum(), (half_b * inverse) @ half_b.mT, (half_a * inverse) @ half_a.mT


def _coupled_without_asking(covariance_a: Tensor, covariance_b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """`_coupled` on a GPU, by what tells nobody whether it went well: where it did not, it gives NaN."""
    dim = len(covariance_a)
    both = torch.stack([covariance_a, covariance_b])
    both = (both + both.mT) / 2
    trace = both.diagonal(dim1=1, dim2=2).sum(dim=1).max()
    # The second, where the covariance has rounding of its own that is larger, below 0 in a direction without variance.
    noise = torch.stack([trace * dim * torch.finfo(trace.dtype).eps, trace * 1e-6]).clamp(min=1e-100)
    identity = torch.eye(dim, dtype=both.dtype, device=both.device)
    roots, failures = torch.linalg.cholesky_ex(both + noise[:, None, None, None] * identity)
    least = (failures[0] == 0).all()
    root_a, root_b = torch.where(least, roots[0], roots[1])
    product = root_b.mT @ root_a
    turn = _orthogonal_factor(product)
    a = torch.linalg.solve_triangular(root_a, root_b @ turn, upper=False, left=False)
    b = torch.linalg.solve_triangular(root_b, root_a @ turn.mT, upper=False, left=False)
    cross = (turn * product).sum() - dim * torch.where(least, noise[0], noise[1])
    return cross, (a + a.mT) / 2, (b + b.mT) / 2


def _orthogonal_factor(matrix: Tensor) -> Tensor:
    """Q of the polar decomposition Q P of a square matrix, by Newton's iteration (Higham, 1986).

    With its scaling 10 iterations suffice for a condition of 1e16; those after convergence change nothing.
    """
    for _ in range(14):
        inverse = torch.linalg.inv_ex(matrix).inverse.mT
        scale = (torch.linalg.matrix_norm(inverse) / torch.linalg.matrix_norm(matrix)).sqrt()
        matrix = (scale * matrix + inverse / scale) / 2
    return matrix


class _GaussianWasserstein(torch.autograd.Function):
    """W2 with the gradient written out, because the one through eigenvectors is infinite where it need not be.

    d(W2^2)/dm1 = 2 (m1 - m2) and d(W2^2)/dS1 = I - A, with A the transport matrix from 1 to 2. Taken to the points
    behind S1 it is the displacement x - T(x) of optimal transport, whose root mean square is W2 itself: divided by W2
    it stays bounded, however small the distance or the spread. At W2 = 0 (to rounding) the subgradient 0 is taken.
    """

    @staticmethod
    def forward(ctx, mean_a: Tensor, covariance_a: Tensor, mean_b: Tensor, covariance_b: Tensor) -> Tensor:
        cross, a_to_b, b_to_a = _coupled(covariance_a, covariance_b)
        traces = covariance_a.trace() + covariance_b.trace()
        difference = mean_a - mean_b
        squared = difference.square().sum() + traces - 2 * cross
        rounding = 8 * traces * mean_a.numel() * torch.finfo(torch.float64).eps  # 2.5, not 8, is the most seen
        distance = torch.where(squared > rounding, squared.clamp(min=0), 0.0).sqrt()
        ctx.save_for_backward(difference, a_to_b, b_to_a, distance)
        return distance

    @staticmethod
    @once_differentiable
    def backward(ctx, *grad_outputs: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride]
        difference, a_to_b, b_to_a, distance = ctx.saved_tensors
        scale = torch.where(distance > 0, grad_outputs[0] / distance.clamp(min=torch.finfo(distance.dtype).tiny), 0.0)
        identity = torch.eye(difference.numel(), dtype=difference.dtype, device=difference.device)
        gradients = scale / 2 * (identity - a_to_b), scale / 2 * (identity - b_to_a)
        return scale * difference, gradients[0], -scale * difference, gradients[1]


def gaussian_wasserstein_distance(mean_a: Tensor, cov_a: Tensor, mean_b: Tensor, cov_b: Tensor) -> Tensor:
    """2-Wasserstein distance (not squared) between N(mean_a, cov_a) and N(mean_b, cov_b).

    Args:
        mean_a, mean_b: (D,) means.
        cov_a, cov_b: (D, D) covariances, symmetric positive semi-definite; any rank.

    Returns:
        A float64 scalar >= 0. Its gradient is finite for collapsed and for identical distributions.
    """
    return _GaussianWasserstein.apply(*map(to_float64, (mean_a, cov_a, mean_b, cov_b)))  # pyright: ignore[reportReturnType]


def gaussian_transport_map(mean_a: Tensor, cov_a: Tensor, mean_b: Tensor, cov_b: Tensor) -> tuple[Tensor, Tensor]:
    """The optimal map x -> A x + b that moves N(mean_a, cov_a) onto N(mean_b, cov_b).

    Args:
        mean_a, mean_b: (D,) means.
        cov_a, cov_b: (D, D) covariances, symmetric positive semi-definite. No map makes variance where cov_a has none:
            such directions are left out, and only then does the result fall short of cov_b.

    Returns:
        (A, b) in float64: A (D, D) symmetric, b (D,).
    """
    mean_a, cov_a, mean_b, cov_b = map(to_float64, (mean_a, cov_a, mean_b, cov_b))
    matrix = _coupled(cov_a, cov_b)[1]
    return matrix, mean_b - matrix @ mean_a


def mean_and_covariance(vectors: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (D,) and unbiased covariance (D, D) of the rows of vectors (N, D), N >= 2, in float64; differentiable.

    In blocks of rows, since a float64 copy of 50,000 features of 2,048 dimensions alone takes 0.8 GB.
    """
    vectors = vectors.to(float64_device(vectors.device))
    if vectors.requires_grad:
        vectors = vectors.to(torch.float64)  # once and for all, so that gradients are summed in float64 as well
    blocks = vectors.split(max(1, _BLOCK // vectors.shape[1]))
    mean = torch.stack([block.sum(dim=0, dtype=torch.float64) for block in blocks]).sum(dim=0) / len(vectors)
    outer = torch.zeros(len(mean), len(mean), dtype=torch.float64, device=mean.device)
    for block in blocks:
        centred = block.to(torch.float64) - mean
        outer = outer.addmm(centred.mT, centred)
    return mean, outer / (len(vectors) - 1)


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
        vectors = to_float64(vectors)
        count = vectors.new_full((1,), len(vectors))
        packed = sum_over_processes(torch.cat([count, vectors.sum(dim=0), (vectors.mT @ vectors).flatten()]))
        dim = vectors.shape[1]
        slot = (self.position % len(self.counts))[None].to(self.counts.device)
        self.counts.index_copy_(0, slot, packed[:1])
        self.sums.index_copy_(0, slot, packed[None, 1 : 1 + dim])
        self.outers.index_copy_(0, slot, packed[1 + dim :].view(1, dim, dim))
        self.position += 1

    def mean_and_covariance(self) -> tuple[Tensor, Tensor]:
        """Mean (D,) and unbiased covariance (D, D) of all remembered vectors, float64."""
        count = self.counts.sum()
        mean = self.sums.sum(dim=0) / count
        covariance = (self.outers.sum(dim=0) - count * torch.outer(mean, mean)) / (count - 1).clamp(min=1)
        return mean, covariance

    def mean_and_covariance_within(self) -> tuple[Tensor, Tensor]:
        """Mean (D,) of all remembered vectors and their covariance (D, D) around the mean of their own step, float64:
        features that wander from step to step vary no more for that. Zeros if nothing was remembered."""
        counts = self.counts.clamp(min=1)
        wandering = torch.einsum("wd,we,w->de", self.sums, self.sums, 1 / counts)
        spread = (self.counts - 1).clamp(min=0).sum().clamp(min=1)
        return self.sums.sum(dim=0) / self.counts.sum().clamp(min=1), (self.outers.sum(dim=0) - wandering) / spread
