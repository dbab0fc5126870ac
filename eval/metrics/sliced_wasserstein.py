"""Sliced Wasserstein distance of features: MIND, the Monge Inception distance (arXiv 2605.06797)."""

import torch
import torch.nn.functional as F
from torch import Tensor

from wvq.tokenizer.errors import InputError


def sliced_wasserstein_distance(real: Tensor, generated: Tensor, projections: int = 1000, seed: int = 2020) -> float:
    """Squared 2-Wasserstein distance along random directions, mean over them, times 3 d as MIND scales it.

    Along one direction transport pairs the sorted projections. No Gaussian is assumed and no matrix root is taken.

    Args:
        real, generated: features (N, d) and (M, d). Of the larger side a random part as large as the other is used.
        projections: directions, uniform on the sphere.
        seed: of directions and that part; torch-fidelity's, with `generated` as its first input, `real` as its second.

    Raises:
        InputError: for a side without vectors, or no direction.
    """
    count = min(len(real), len(generated))
    if count < 1 or projections < 1:
        raise InputError(f"{count} images and {projections} projections were given; at least 1 of each is needed")
    generator = torch.Generator().manual_seed(seed)
    sides = [generated, real]
    for side, x in enumerate(sides):
        if len(x) > count:
            sides[side] = x[torch.randperm(len(x), generator=generator, device="cpu")[:count]]
    directions = torch.randn(projections, real.shape[1], generator=generator, device="cpu")
    directions = F.normalize(directions, eps=1e-12).double()
    total = 0.0
    for some in directions.split(100):
        a, b = ((x.double() @ some.mT.to(x.device)).sort(dim=0).values for x in sides)
        total += float((a - b).square().mean(dim=0).sum())
    return 3 * real.shape[1] * total / projections
