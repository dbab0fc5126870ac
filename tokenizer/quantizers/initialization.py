"""Where codes start: drawn from a distribution, or from the first vectors that are seen."""

from typing import Literal, get_args

import torch
from torch import Tensor

from ..errors import InputError
from ..precision import to_float64

Initialization = Literal["normal", "uniform", "data", "kmeans++"]


def check_initialization(name: str) -> None:
    """Check the name of an initialisation.

    Raises:
        InputError: if it is unknown.
    """
    if name not in get_args(Initialization):
        raise InputError(f"initialization is '{name}'; valid are {', '.join(get_args(Initialization))}")


def draw_codebook(name: Initialization, codebook_size: int, codebook_dim: int, init_std: float) -> Tensor:
    """A codebook (K, D) before anything is seen: N(0, init_std^2), or U(-1/K, 1/K) for "uniform".

    Both are the paper's (arXiv 2506.15078), the first for Wasserstein VQ, the second for its baselines.
    """
    if name == "uniform":
        return (torch.rand(codebook_size, codebook_dim) * 2 - 1) / codebook_size
    return torch.randn(codebook_size, codebook_dim) * init_std


def codes_from_data(name: Literal["data", "kmeans++"], vectors: Tensor, codebook_size: int) -> Tensor:
    """K of the vectors (N, D) as codes: drawn without replacement, or spread out by k-means++.

    k-means++ (Arthur and Vassilvitskii, 2007) draws each next code with a probability in proportion to its squared
    distance from the codes so far. The random numbers are the same in every run.

    Raises:
        InputError: if there are fewer than K vectors.
    """
    if len(vectors) < codebook_size:
        raise InputError(
            f"initialization '{name}' has {len(vectors)} vectors in the first batch for {codebook_size} codes; "
            f"use a larger batch, a smaller codebook_size, or initialization 'normal'"
        )
    generator = torch.Generator().manual_seed(0)
    if name == "data":
        return vectors[torch.randperm(len(vectors), generator=generator)[:codebook_size].to(vectors.device)]
    points = to_float64(vectors)
    draws = torch.rand(codebook_size, dtype=torch.float64, generator=generator).to(points.device)
    chosen = torch.empty(codebook_size, dtype=torch.int64, device=points.device)
    distances = torch.ones(len(points), dtype=torch.float64, device=points.device)
    for number, draw in enumerate(draws):
        cumulative = distances.cumsum(dim=0)
        if cumulative[-1] == 0:  # fewer different vectors than codes: all that is left is to repeat
            cumulative = torch.ones_like(distances).cumsum(dim=0)
        chosen[number] = torch.searchsorted(cumulative, draw * cumulative[-1], right=True).clamp(max=len(points) - 1)
        new = (points - points[chosen[number]]).square().sum(dim=1)
        distances = new if number == 0 else torch.minimum(distances, new)
    return vectors[chosen.to(vectors.device)]
