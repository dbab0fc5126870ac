"""Fidelity and diversity apart: precision and recall (arXiv 1904.06991), density and coverage (arXiv 2002.09797).

A set's manifold is the union of balls around its feature vectors, each reaching to its k-th nearest neighbour in the
set. Distances are taken in blocks of rows, so memory stays bounded for any number of images.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from wvq.tokenizer.errors import InputError

_BLOCK = 2**25  # distances at once: 128 MiB of float32


def precision_recall(real: Tensor, generated: Tensor, neighbours: int = 3) -> tuple[float, float]:
    """Share of generated vectors inside the real manifold, and of real vectors inside the generated one.

    Args:
        real, generated: features (N, d) and (M, d).
        neighbours: k; the paper and torch-fidelity take 3.

    Raises:
        InputError: unless each side has more than k vectors.
    """
    real, generated = _centred(real, generated)
    real_radii, generated_radii = _radii(real, neighbours, "real"), _radii(generated, neighbours, "generated")
    precise, recalled = 0, torch.zeros(len(real), dtype=torch.bool, device=real.device)
    for start, distances in _blocks(generated, real):
        radii = generated_radii[start : start + len(distances), None]
        precise += int((distances <= real_radii).any(dim=1).sum())
        recalled |= (distances <= radii).any(dim=0)
    return precise / len(generated), float(recalled.double().mean())


def density_coverage(real: Tensor, generated: Tensor, neighbours: int = 5) -> tuple[float, float]:
    """In how many real balls a generated vector lies, over k, and the share of real balls that hold one.

    Density is near 1 for equal distributions and may exceed it, coverage is in [0, 1]. Neither uses the generated
    manifold, so single outliers of the generator do not inflate them.

    Args:
        real, generated: features (N, d) and (M, d).
        neighbours: k; the paper takes 5.

    Raises:
        InputError: unless the real side has more than k vectors.
    """
    real, generated = _centred(real, generated)
    radii = _radii(real, neighbours, "real")
    inside, covered = 0, torch.zeros(len(real), dtype=torch.bool, device=real.device)
    for _, distances in _blocks(generated, real):
        hits = distances < radii
        inside += int(hits.sum())
        covered |= hits.any(dim=0)
    return inside / (neighbours * len(generated)), float(covered.double().mean())


def _centred(real: Tensor, generated: Tensor) -> tuple[Tensor, Tensor]:
    """Both sides around the real mean: no distance changes, but products of large coordinates no longer round it."""
    if real.shape[1] != generated.shape[1]:
        raise InputError(
            f"features have {real.shape[1]} dimensions on the real side and {generated.shape[1]} on the other"
        )
    origin = real.double().mean(dim=0)
    return (real.double() - origin).to(real.dtype), (generated.double() - origin).to(real.dtype)


def _radii(vectors: Tensor, neighbours: int, side: str) -> Tensor:
    """Distance (N,) of each vector to its k-th nearest other one."""
    if not 1 <= neighbours < len(vectors):
        raise InputError(
            f"neighbours is {neighbours}; it must be at least 1 and below the {len(vectors)} {side} images"
        )
    return torch.cat([block.kthvalue(neighbours + 1, dim=1).values for _, block in _blocks(vectors, vectors)])


def _blocks(a: Tensor, b: Tensor) -> Iterator[tuple[int, Tensor]]:
    """(first row, distances (rows, M)) for all rows of a (N, d) to all of b (M, d)."""
    rows = max(1, _BLOCK // len(b))
    for start in range(0, len(a), rows):
        yield start, torch.cdist(a[start : start + rows], b)
