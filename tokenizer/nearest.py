"""Exact nearest-code search."""

import torch
from torch import Tensor

_BLOCK_ENTRIES = 2**20  # scores held at once: 4 MiB of float32, which stays in the cache of a CPU core


@torch.no_grad()
def nearest_codes(vectors: Tensor, codebook: Tensor) -> Tensor:
    """Index of the code nearest to each vector in Euclidean distance, exact to the rounding of float32.

    The row-wise argmin of ||z - e||^2 is the argmax of z.e - ||e||^2 / 2, one matrix product with the half-norms folded
    in. It is taken in blocks of rows, so that the (N, K) matrix never exists, and around the codebook's mean, so that a
    common offset costs no digits.

    Args:
        vectors: (N, D).
        codebook: (K, D).

    Returns:
        (N,) int64 in [0, K).
    """
    codes = codebook.float()
    origin = codes.mean(dim=0)
    codes = codes - origin
    vectors = vectors.float() - origin
    half_norms = codes.square().sum(dim=1) / 2
    indices = torch.empty(len(vectors), dtype=torch.int64, device=vectors.device)
    rows = max(1, _BLOCK_ENTRIES // len(codes))
    with torch.autocast(vectors.device.type, enabled=False):  # half precision merges neighbouring codes
        for start in range(0, len(vectors), rows):
            block = slice(start, start + rows)
            indices[block] = torch.addmm(half_norms, vectors[block], codes.mT, beta=-1).argmax(dim=1)
    return indices
