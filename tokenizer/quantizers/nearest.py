"""Exact nearest-code search."""

import torch
from scipy.spatial import KDTree
from torch import Tensor

from ..precision import float64_device, full_precision

_BLOCK_ENTRIES = 2**20  # scores held at once: 4 MiB of float32, which stays in the cache of a CPU core
_GPU_BLOCK_ENTRIES = 2**27  # 512 MiB, products large enough to keep a GPU busy
_PAIRS = 2**20  # vectors with a possible code, and coordinates of them, that are settled at once: some 50 MiB
# Where a k-d tree beats the products on a CPU (`wvq benchmark quantizers`): above 12 dimensions it visits most codes.
_TREE_MAX_DIM = 12
_TREE_MIN_CODES = 8192
_TREE_MIN_VECTORS = 256


@torch.no_grad()
def nearest_codes(vectors: Tensor, codebook: Tensor) -> Tensor:
    """Index of the code nearest to each vector in Euclidean distance, exact for float32 inputs.

    Few dimensions and many codes on a CPU are searched in a k-d tree, everything else by blocked matrix products; the
    (N, K) matrix never exists. Where two codes are equally near to the rounding of float64, either may be returned.

    Args:
        vectors: (N, D), finite.
        codebook: (K, D), finite.

    Returns:
        (N,) int64 in [0, K).
    """
    vectors, codes = vectors.float(), codebook.float()
    if _suits_tree(vectors, codes):
        return _search_tree(vectors, codes)
    return _search_products(vectors, codes)


def _suits_tree(vectors: Tensor, codes: Tensor) -> bool:
    """Whether a k-d tree is the faster way: on a CPU, for few dimensions, many codes, and vectors among the codes."""
    if vectors.device.type != "cpu" or codes.shape[1] > _TREE_MAX_DIM:
        return False
    if len(codes) < _TREE_MIN_CODES or len(vectors) < _TREE_MIN_VECTORS:
        return False
    # A search from outside the codes, as at the start of a training, visits most of the tree.
    inside = ((vectors >= codes.amin(dim=0)) & (vectors <= codes.amax(dim=0))).all(dim=1)
    return bool(inside.float().mean() >= 0.5)


def _search_tree(vectors: Tensor, codes: Tensor) -> Tensor:
    """The sliding-midpoint tree of scipy, in float64; built anew, since codes move in every step."""
    tree = KDTree(codes.double().numpy(), balanced_tree=False, compact_nodes=True)
    _, indices = tree.query(vectors.double().numpy(), workers=torch.get_num_threads())
    return torch.from_numpy(indices.astype("int64", copy=False))


def _search_products(vectors: Tensor, codes: Tensor) -> Tensor:
    """Matrix products in float32, and float64 wherever their rounding leaves a doubt.

    The argmin of |z - e|^2 over e is the argmax of z.e - |e|^2 / 2, one product with the half-norms folded in, around
    the codebook's mean, so that a common offset costs no digits. A bound on the rounding of these scores tells which
    codes of a row could be the nearest; where there are several, their distances are computed as they are defined.
    """
    origin = codes.mean(dim=0)
    centred_codes, centred_vectors = codes - origin, vectors - origin
    half_norms = centred_codes.square().sum(dim=1) / 2
    largest = (2 * half_norms.max()).sqrt()
    # The standard bound for a sum of D + 1 products, and as much again for half-norms and centring.
    unit = torch.finfo(torch.float32).eps / 2
    rounding = 2 * (codes.shape[1] + 4) * unit * (centred_vectors.norm(dim=1) * largest + half_norms.max())
    indices = torch.empty(len(vectors), dtype=torch.int64, device=vectors.device)
    rows = max(1, (_BLOCK_ENTRIES if vectors.device.type == "cpu" else _GPU_BLOCK_ENTRIES) // len(codes))
    with torch.autocast(vectors.device.type, enabled=False), full_precision():
        for start in range(0, len(vectors), rows):
            block = slice(start, start + rows)
            scores = torch.addmm(half_norms, centred_vectors[block], centred_codes.mT, beta=-1)
            best, chosen = scores.max(dim=1)
            indices[block] = chosen
            second = scores.scatter_(1, chosen[:, None], -torch.inf).amax(dim=1)
            doubtful = (second >= best - 2 * rounding[block]).nonzero().squeeze(1)
            if len(doubtful):
                possible = scores[doubtful] >= (best - 2 * rounding[block])[doubtful, None]
                possible.scatter_(1, chosen[doubtful, None], True)
                indices[start + doubtful] = _settle(possible, vectors[start + doubtful], codes)
    return indices


def _settle(possible: Tensor, vectors: Tensor, codes: Tensor) -> Tensor:
    """The nearest of each row's possible codes, (M, K) bool, to vectors (M, D), by distances in float64; (M,).

    Where codes coincide every one of them is possible for every row, so rows and pairs are taken in parts.
    """
    here, exact = vectors.device, float64_device(vectors.device)
    possible, vectors, codes = possible.to(exact), vectors.to(exact), codes.to(exact)
    rows = max(1, _PAIRS // len(codes))
    parts = zip(possible.split(rows), vectors.split(rows), strict=True)
    return torch.cat([_nearest_of(*part, codes) for part in parts]).to(here)


def _nearest_of(possible: Tensor, vectors: Tensor, codes: Tensor) -> Tensor:
    row, code = possible.nonzero(as_tuple=True)
    pairs = zip(row.split(_PAIRS // codes.shape[1] + 1), code.split(_PAIRS // codes.shape[1] + 1), strict=True)
    distances = torch.cat([(vectors[r].double() - codes[c].double()).square().sum(dim=1) for r, c in pairs])
    least = distances.new_full((len(vectors),), torch.inf).scatter_reduce_(0, row, distances, "amin")
    nearest = torch.full((len(vectors),), len(codes), device=codes.device)
    winners = distances == least[row]
    return nearest.scatter_reduce_(0, row[winners], code[winners], "amin")
