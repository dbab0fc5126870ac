"""In which order a prior draws the tokens of an image, and how its sequences say so.

A raster prior sees the class, then the codes in raster order. A prior of free order sees the class, then pairs: the id
of a position and the code that stands there, pair after pair in any order (RandAR, arXiv 2412.01827). So a plain causal
model learns to draw any token after any others, in sequences twice as long. Its vocabulary is codes 0..K-1, then one id
per position, then the classes and the null class.
"""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedConfig

from wvq.tokenizer.distributed import num_processes, process_index

TokenOrder = Literal["raster", "random"]

_TRAINING, _VALIDATION = 5, 7  # keep these streams apart from those of `tokenizer.data.batches`
_VALIDATION_ORDERS = 256


def has_free_order(config: Any) -> bool:
    """Whether a model or `PriorConfig` of this configuration draws in any order; a model of others draws in raster."""
    return getattr(config, "token_order", "raster") == "random"


def num_positions(config: Any) -> int:
    """Ids of positions in a model's vocabulary, between the codes and the classes: T, or 0 in raster order."""
    return config.num_tokens if has_free_order(config) else 0


def raster_orders(codes: Tensor) -> Tensor:
    """The order 0, 1, ..., T - 1 for each image of codes (B, T)."""
    return torch.arange(codes.shape[1], device=codes.device).expand_as(codes)


def pairs(codes: Tensor, orders: Tensor, num_codes: int) -> Tensor:
    """(B, 2n): the id of each position of orders (B, n) and its code of codes (B, T), alternately."""
    return torch.stack([orders + num_codes, codes.gather(1, orders)], dim=2).flatten(1)


def input_sequence(
    config: PreTrainedConfig, num_codes: int, codes: Tensor, labels: Tensor, orders: Tensor
) -> tuple[Tensor, slice]:
    """What a prior sees of codes (B, T) under labels (B,), and where in it the codes are predicted, one after another.

    Args:
        config: of the prior.
        num_codes: K.
        orders: (B, T) permutations of the positions.

    Returns:
        Ids (B, T), or (B, 2 T) with free order, and the T places of them at which the next code is predicted.
    """
    classes = (labels + num_codes + num_positions(config))[:, None]
    if not has_free_order(config):
        return torch.cat([classes, codes.gather(1, orders[:, :-1])], dim=1), slice(None)
    return torch.cat([classes, pairs(codes, orders, num_codes)[:, :-1]], dim=1), slice(1, None, 2)


def training_orders(seed: int, batch: int, local_size: int, num_tokens: int, random_share: float) -> Tensor | None:
    """Orders (local_size, T) int64 on the CPU, one per image of this process's share of that batch.

    A function of the seed and the batch, whatever the number of processes.

    Args:
        random_share: probability of a random order; the others are raster. With 0, all of them, there is no tensor.
    """
    if random_share == 0:
        return None
    orders, draws = _permutations([seed, batch, _TRAINING], local_size * num_processes(), num_tokens)
    orders[draws >= random_share] = np.arange(num_tokens)
    own = slice(process_index() * local_size, (process_index() + 1) * local_size)
    return torch.from_numpy(orders[own])


def validation_orders(images: Sequence[int] | Tensor, num_tokens: int) -> Tensor:
    """Orders (N, T) int64 on the CPU for the images of these numbers: always the same, 256 of them in turn."""
    orders, _ = _permutations([0, 0, _VALIDATION], _VALIDATION_ORDERS, num_tokens)
    return torch.from_numpy(orders[np.asarray(images) % _VALIDATION_ORDERS])


def _permutations(seed: list[int], count: int, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Permutations (count, length) int64, and a uniform number for each (count,)."""
    generator = np.random.default_rng(seed)
    draws = generator.random(count)
    return generator.permuted(np.tile(np.arange(length), (count, 1)), axis=1), draws
