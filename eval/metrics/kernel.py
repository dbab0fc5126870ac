"""Kernel distances: KID (arXiv 1801.01401) and CMMD (arXiv 2401.09603), squared maximum mean discrepancies.

Kernel sums are taken in blocks of rows and in float64, since the discrepancy is a small difference of large means.
"""

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from wvq.tokenizer.errors import InputError

_BLOCK = 2**24  # kernel values at once: 128 MiB
_CMMD_BANDWIDTH, _CMMD_SCALE = 10.0, 1000.0

Kernel = Callable[[Tensor, Tensor], Tensor]


def polynomial_kernel(a: Tensor, b: Tensor) -> Tensor:
    """(a.b / d + 1)^3 of the rows of a (N, d) and b (M, d) -> (N, M): KID's kernel."""
    return (a @ b.mT / a.shape[1] + 1) ** 3


def gaussian_kernel(a: Tensor, b: Tensor) -> Tensor:
    """exp(-||a - b||^2 / (2 * 10^2)) of the rows of a (N, d) and b (M, d) -> (N, M): CMMD's kernel."""
    squares = a.square().sum(dim=1)[:, None] + b.square().sum(dim=1) - 2 * a @ b.mT
    return torch.exp(-squares / (2 * _CMMD_BANDWIDTH**2))


def squared_mmd(a: Tensor, b: Tensor, kernel: Kernel, unbiased: bool = True) -> float:
    """Squared maximum mean discrepancy between the rows of a (N, d) and b (M, d), in float64.

    Unbiased leaves out each vector's kernel with itself: the mean over draws from equal distributions is then 0, and
    single values may be negative.

    Raises:
        InputError: for fewer than 2 vectors on a side.
    """
    if min(len(a), len(b)) < 2:
        raise InputError(f"the sides have {len(a)} and {len(b)} vectors; a kernel distance needs at least 2 of each")
    a, b = a.double(), b.double()
    return _mean(a, a, kernel, unbiased) + _mean(b, b, kernel, unbiased) - 2 * _mean(a, b, kernel, False)


def kernel_inception_distance(
    real: Tensor, generated: Tensor, subsets: int = 100, subset_size: int = 1000, seed: int = 2020
) -> tuple[float, float]:
    """KID over random subsets: mean and standard deviation of the unbiased squared discrepancy.

    The subsets are those that torch-fidelity draws for `generated` as its first input and `real` as its second.

    Args:
        real, generated: features (N, d) and (M, d).
        subsets: how many.
        subset_size: vectors of each side in one.
        seed: of the draw.

    Raises:
        InputError: for a subset larger than a side, or smaller than 2.
    """
    if not 2 <= subset_size <= min(len(real), len(generated)):
        raise InputError(
            f"subset_size is {subset_size}; it must be from 2 to the images of the smaller side, "
            f"{min(len(real), len(generated))}"
        )
    random = np.random.RandomState(seed)  # the generator of torch-fidelity, so the subsets are the same
    values = []
    for _ in range(subsets):
        chosen = [torch.from_numpy(random.choice(len(x), subset_size, replace=False)) for x in (generated, real)]
        values.append(squared_mmd(generated[chosen[0]], real[chosen[1]], polynomial_kernel))
    return float(np.mean(values)), float(np.std(values))


def clip_maximum_mean_discrepancy(real: Tensor, generated: Tensor) -> float:
    """CMMD of CLIP embeddings (N, d) and (M, d): Gaussian kernel of bandwidth 10 on unit vectors, biased, times 1,000.

    As its authors compute it, each vector's kernel with itself included; that bias is known exactly and small.

    Raises:
        InputError: for fewer than 2 vectors on a side.
    """
    a, b = F.normalize(real.double()), F.normalize(generated.double())
    return _CMMD_SCALE * squared_mmd(a, b, gaussian_kernel, unbiased=False)


def _mean(a: Tensor, b: Tensor, kernel: Kernel, without_diagonal: bool) -> float:
    total = 0.0
    rows = max(1, _BLOCK // len(b))
    for start in range(0, len(a), rows):
        values = kernel(a[start : start + rows], b)
        total += float(values.sum())
        if without_diagonal:
            total -= float(values.diagonal(offset=start).sum())
    return total / (len(a) * (len(b) - without_diagonal))
