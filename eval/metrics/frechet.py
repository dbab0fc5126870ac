"""The Fréchet distance between two Gaussians of thousands of dimensions, in float64.

With S = L L' for each covariance, tr (S1 S2)^1/2 is the sum of the singular values of L1' L2. Pivoted Cholesky gives L
at a sixth of the cost of an eigen-decomposition and drops directions without variance, so fewer images than dimensions
make it quicker. The singular values come from a symmetric eigenvalue problem wherever its error bound allows; for
nearly equal sides, where the distance is a small difference, they are computed as such.
"""

import numpy as np
import scipy.linalg
import torch
from torch import Tensor

from wvq.tokenizer.errors import InputError
from wvq.tokenizer.quantizers.gaussian import mean_and_covariance

_EPS = torch.finfo(torch.float64).eps
_RELATIVE = 1e-7  # what a distance may err by before singular values are computed as such


def covariance_factor(covariance: Tensor) -> Tensor:
    """L (d, r) with L L' = covariance, r its numerical rank, in float64 on the CPU; by pivoted Cholesky.

    Args:
        covariance: (d, d), symmetric positive semi-definite; any rank. Eigenvalues below the rounding of the largest
            count as 0.
    """
    matrix = covariance.double().cpu().numpy()
    decompose = scipy.linalg.lapack.dpstrf  # pyright: ignore[reportAttributeAccessIssue]  # its stubs lack it
    factor, pivots, rank, _ = decompose((matrix + matrix.T) / 2, lower=1)
    ordered = np.zeros((len(matrix), rank))
    ordered[pivots - 1] = np.tril(factor)[:, :rank]
    return torch.from_numpy(ordered)


def mean_and_factor(vectors: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (d,) of the rows of vectors (N, d) and L (d, r) with L L' their unbiased covariance, in float64.

    Raises:
        InputError: for fewer than 2 vectors.
    """
    if len(vectors) < 2:
        raise InputError(f"there are {len(vectors)} images; a covariance needs at least 2")
    if len(vectors) > vectors.shape[1]:
        mean, covariance = mean_and_covariance(vectors)
        return mean, covariance_factor(covariance)
    mean = vectors.double().mean(dim=0)
    return mean, (vectors.double() - mean).mT / (len(vectors) - 1) ** 0.5


def nuclear_norm(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Sum of the singular values of matrix (m, n), float64, and a bound on its error.

    The eigenvalues of the smaller Gram matrix take a third of the time of a singular value decomposition, but each is
    known to eps times the largest one only: a singular value s to eps s_max^2 / s, and one of 0 to eps^1/2 s_max.
    """
    gram = matrix.mT @ matrix if matrix.shape[0] > matrix.shape[1] else matrix @ matrix.mT
    if not gram.numel():
        return matrix.new_zeros(()), matrix.new_zeros(())
    roots = torch.linalg.eigvalsh(gram).clamp(min=0).sqrt()
    errors = torch.minimum(_EPS * roots[-1] ** 2 / roots, _EPS**0.5 * roots[-1]).nan_to_num()
    return roots.sum(), errors.sum()


def frechet_distance(mean_a: Tensor, factor_a: Tensor, mean_b: Tensor, factor_b: Tensor) -> Tensor:
    """Squared 2-Wasserstein distance between two Gaussians; what FID is of.

    Args:
        mean_a, mean_b: (d,).
        factor_a, factor_b: (d, r) of any width with covariance L L', as by `covariance_factor`; with fewer vectors than
            dimensions, the centred vectors over (N - 1)^1/2 are one.

    Returns:
        A float64 scalar >= 0, on the CPU; exactly 0 within rounding.
    """
    mean_a, factor_a, mean_b, factor_b = (x.double().cpu() for x in (mean_a, factor_a, mean_b, factor_b))
    means = (mean_a - mean_b).square().sum()
    traces = factor_a.square().sum() + factor_b.square().sum()
    cross = factor_a.mT @ factor_b
    norm, error = nuclear_norm(cross)
    squared = means + traces - 2 * norm
    if 2 * error > _RELATIVE * squared:
        squared = means + traces - 2 * torch.linalg.svdvals(cross).sum()
    rounding = 8 * len(mean_a) * _EPS * traces
    return torch.where(squared > rounding, squared, 0.0)
