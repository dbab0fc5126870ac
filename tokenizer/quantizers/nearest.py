"""Exact nearest-code search."""

import numpy as np
import torch
from scipy.spatial import KDTree
from torch import Tensor

from ..precision import float64_device, full_precision

_BLOCK_ENTRIES = 2**20  # scores held at once: 4 MiB of float32, which stays in the cache of a CPU core
_CPU_COLUMNS = 4096  # codes of a block
_GPU_BLOCK_ENTRIES = 2**27  # 512 MiB, products large enough to keep a GPU busy
_FLOAT64_MAX_DIM = 32  # up to which a product on a GPU is reading and writing scores, float64 or not
_PAIRS = 2**20  # vectors with a possible code, and coordinates of them, that are settled at once: some 50 MiB
# Where a k-d tree beats the products on a CPU (`wvq benchmark quantizers`): above 12 dimensions it visits most codes.
_TREE_MAX_DIM = 12
_TREE_MIN_CODES = 8192
_TREE_MIN_VECTORS = 256
_LEAF = 64  # points, of a tree that is built for one search


@torch.no_grad()
def nearest_codes(vectors: Tensor, codebook: Tensor) -> Tensor:
    """Index of the code nearest to each vector in Euclidean distance, exact for float32 inputs.

    Few dimensions and many codes on a CPU are searched in a k-d tree, everything else by blocked matrix products; the
    (N, K) matrix never exists. Where two codes are equally near to the rounding of float64, either may be returned.
    On a GPU with float64, up to 32 dimensions, the host waits for nothing.

    Args:
        vectors: (N, D), finite.
        codebook: (K, D), finite.

    Returns:
        (N,) int64 in [0, K).
    """
    if torch.compiler.is_compiling():
        return _search_when_run(vectors, codebook)
    vectors, codes = vectors.float(), codebook.float()
    exact_there = vectors.device.type != "cpu" and float64_device(vectors.device) == vectors.device
    if exact_there and codes.shape[1] <= _FLOAT64_MAX_DIM:
        return _search_in_float64(vectors, codes)
    if _suits_tree(vectors, codes):
        return _search_tree(vectors, codes)
    return _search_products(vectors, codes)


@torch.library.custom_op("wvq::nearest_codes", mutates_args=())
def _search_when_run(vectors: Tensor, codebook: Tensor) -> Tensor:
    """`nearest_codes` as one operation of a compiled graph, which takes the same ways when it is run."""
    return nearest_codes(vectors, codebook)


@_search_when_run.register_fake
def _(vectors: Tensor, codebook: Tensor) -> Tensor:
    return vectors.new_empty(len(vectors), dtype=torch.int64)


def _search_in_float64(vectors: Tensor, codes: Tensor) -> Tensor:
    """On a GPU: products in float64 leave no doubt that would have to be looked for and settled."""
    origin = codes.double().mean(dim=0)
    centred = codes.double() - origin
    half_norms = centred.square().sum(dim=1) / 2
    blocks = (vectors.double() - origin).split(max(1, _GPU_BLOCK_ENTRIES // 2 // len(codes)))
    with torch.autocast(vectors.device.type, enabled=False):
        chosen = [torch.addmm(half_norms, block, centred.mT, beta=-1).argmax(dim=1) for block in blocks]
    return _first_of_equals(codes)[torch.cat(chosen)]


def _first_of_equals(codes: Tensor) -> Tensor:
    """For each of codes (K, D) the first that equals it, (K,); products need not be equal for codes that are."""
    places = torch.arange(len(codes), device=codes.device)
    # Equal codes lie together in any order of such sums, and others hardly ever between them.
    weights = torch.arange(1, 1 + codes.shape[1], dtype=torch.float64, device=codes.device).sqrt()
    order = (codes * weights).sum(dim=1).sort(stable=True).indices
    ordered = codes[order]
    begins = (ordered != ordered.roll(1, dims=0)).any(dim=1)
    begin = torch.where(begins, places, 0).cummax(dim=0).values
    return torch.empty_like(order).scatter_(0, order, order[begin])


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
    """The sliding-midpoint tree of scipy, in float64; built anew, since codes move in every step.

    Neighbours are searched one after the other, and lie side by side in memory, so that the leaves that one visits are
    in the cache for the next: a third of the time among 262,144 codes.
    """
    points, places = vectors.double().numpy(), codes.double().numpy()
    near, order = _tree(places).indices, _tree(points).indices
    _, indices = _tree(places[near]).query(points[order], workers=torch.get_num_threads())
    found = torch.empty(len(points), dtype=torch.int64, device="cpu")
    found[torch.from_numpy(order)] = torch.from_numpy(near[indices])
    return found


def _tree(points: np.ndarray) -> KDTree:
    return KDTree(points, leafsize=_LEAF, compact_nodes=False, balanced_tree=False)


def _search_products(vectors: Tensor, codes: Tensor) -> Tensor:
    """Matrix products in float32, and float64 wherever their rounding leaves a doubt.

    The argmin of |z - e|^2 over e is the argmax of z.e - |e|^2 / 2, one product with the half-norms folded in, around
    the codebook's mean, so that a common offset costs no digits. A bound on the rounding of these scores tells which
    codes of a row could be the nearest; where there are several, their distances are computed as they are defined.
    """
    origin = codes.mean(dim=0)
    centred_codes, centred_vectors = codes - origin, vectors - origin
    lengths, order = centred_codes.norm(dim=1).sort(descending=True)
    sorted_codes = centred_codes[order]
    largest = lengths[0]
    # The standard bound for a sum of D + 1 products, and as much again for half-norms and centring.
    unit = torch.finfo(torch.float32).eps / 2
    rounding = 2 * (codes.shape[1] + 4) * unit * (centred_vectors.norm(dim=1) * largest + largest.square() / 2)
    indices = torch.empty(len(vectors), dtype=torch.int64, device=vectors.device)
    on_cpu = vectors.device.type == "cpu"
    columns = _CPU_COLUMNS if on_cpu else len(codes)
    rows = max(1, (_BLOCK_ENTRIES if on_cpu else _GPU_BLOCK_ENTRIES) // columns)
    few = max(1, (_BLOCK_ENTRIES if on_cpu else _GPU_BLOCK_ENTRIES) // len(codes))
    half_norms = centred_codes.square().sum(dim=1) / 2
    with torch.autocast(vectors.device.type, enabled=False), full_precision():
        for block in torch.arange(len(vectors), device=vectors.device).split(rows):
            best, second, chosen = _two_best(centred_vectors[block], rounding[block], sorted_codes, lengths, columns)
            indices[block] = order[chosen]
            for doubtful in block[second >= best - 2 * rounding[block]].split(few):
                scores = torch.addmm(half_norms, centred_vectors[doubtful], centred_codes.mT, beta=-1)
                possible = scores >= scores.amax(dim=1, keepdim=True) - 2 * rounding[doubtful, None]
                indices[doubtful] = _settle(possible, vectors[doubtful], codes)
    return indices


def _two_best(
    vectors: Tensor, rounding: Tensor, codes: Tensor, lengths: Tensor, columns: int
) -> tuple[Tensor, Tensor, Tensor]:
    """The highest and the second highest score of each vector, and the place of the highest; (M,) each.

    Codes (K, D) come by falling lengths (K,), `columns` at a time. No code e has a higher score than
    |z| |e| - |e|^2 / 2, or |z|^2 / 2 where it is longer than z; so a vector far outside, as all are while codes do not
    fit yet, is done after the few codes that lie outside as well.
    """
    norms = vectors.norm(dim=1)
    best = torch.full_like(norms, -torch.inf)
    second, chosen = best.clone(), torch.zeros_like(norms, dtype=torch.int64)
    rows = torch.arange(len(vectors), device=vectors.device)
    for start in range(0, len(codes), columns):
        if start:
            reach = torch.minimum(norms, lengths[start])
            reach = norms * reach - reach.square() / 2
            rows = (best - 4 * rounding <= reach).nonzero().squeeze(1)
            if not len(rows):
                break
        part = codes[start : start + columns]
        scores = torch.addmm(lengths[start : start + columns].square() / 2, vectors[rows], part.mT, beta=-1)
        top, place = scores.max(dim=1)
        runner_up = scores.scatter_(1, place[:, None], -torch.inf).amax(dim=1)
        leads, former = top > best[rows], best[rows]
        second[rows] = torch.maximum(torch.minimum(former, top), torch.where(leads, runner_up, second[rows]))
        best[rows] = torch.maximum(former, top)
        chosen[rows] = torch.where(leads, start + place, chosen[rows])
    return best, second, chosen


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
