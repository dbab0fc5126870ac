"""Tokens replaced by others of near codes, as a prior's mistakes are: what pFID does to an image (arXiv 2503.08354)."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from wvq.tokenizer.errors import InputError
from wvq.tokenizer.precision import to_float64

_BLOCK = 2**24  # distances at once: 128 MiB


def nearest_other_codes(codebook: Tensor, count: int) -> Tensor:
    """The `count` codes that are nearest to each code, itself left out, nearest first.

    Euclidean, exact to the rounding of float64, in blocks of rows: of the (K, K) distances only one is there at a time.

    Args:
        codebook: (K, D).
        count: in [1, K - 1].

    Returns:
        (K, count) int32, where the codebook is.

    Raises:
        InputError: for a count outside its bounds.
    """
    if not 1 <= count < len(codebook):
        raise InputError(f"count is {count}; it must be from 1 to the {len(codebook) - 1} other codes")
    codes = to_float64(codebook)
    codes = codes - codes.mean(dim=0)  # a common offset would cost digits
    squares = codes.square().sum(dim=1)
    nearest = []
    for rows in torch.arange(len(codes), device=codes.device).split(max(1, _BLOCK // len(codes))):
        distances = torch.addmm(squares, codes[rows], codes.mT, alpha=-2)  # but for each row's own square
        distances.scatter_(1, rows[:, None], torch.inf)
        nearest.append(distances.topk(count, largest=False).indices.int())
    return torch.cat(nearest).to(codebook.device)


def perturb_tokens(
    indices: Tensor, neighbours: Sequence[Tensor], rate: float, strength: int, images: Sequence[int], seed: int
) -> Tensor:
    """Replace a share of each image's tokens, each by one of the nearest other codes of its codebook, all as likely.

    What image i gets depends on the seed and i alone. The tokens that a lower rate replaces are among those of a higher
    one, and a token's draw is the same quantile of its neighbours at every strength.

    Args:
        indices: (B, h, w), or (B, h, w, M) with M sub-quantizers, whose tokens are replaced one by one.
        neighbours: of each sub-quantizer's codes, (K, n) by `nearest_other_codes`.
        rate: share of the T = h * w * M tokens, rounded to whole tokens; in [0, 1]. The paper's alpha.
        strength: how many neighbours are drawn from, in [1, n]. The paper's delta.
        images: the number i of each image, (B,).
        seed: of all draws.

    Returns:
        Indices, shaped like those given.
    """
    tokens = indices.reshape(len(indices), -1, len(neighbours))
    count = tokens[0].numel()
    draws = [np.random.default_rng([seed, image]) for image in images]
    order = np.stack([draw.permutation(count) for draw in draws])
    ranks = (np.stack([draw.random(count) for draw in draws]) * strength).astype(np.int64)
    places, ranked = (torch.from_numpy(drawn).to(tokens.device).view_as(tokens) for drawn in (order, ranks))
    others = [near[tokens[..., m], ranked[..., m]] for m, near in enumerate(neighbours)]
    perturbed = torch.where(places < round(rate * count), torch.stack(others, dim=-1).to(tokens.dtype), tokens)
    return perturbed.reshape(indices.shape)
