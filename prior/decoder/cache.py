"""Keys and values of all positions so far, and attention to them.

Legend of shapes: R rows, n new positions, T positions in all, H heads, d channels of a head, C = H * d.
"""

import torch
from torch import Tensor
from transformers import PreTrainedConfig

PAGE = 32  # positions


class KeyValueCache:
    """Keys and values of each layer, contiguous in memory, longer by `PAGE` positions whenever they are full.

    They are read whole, with a mask over what is still empty: a product over contiguous memory is several times faster
    than one over the filled part of longer rows.
    """

    def __init__(self, config: PreTrainedConfig, rows: int, length: int, like: Tensor):
        self.rows, self.heads = rows, config.num_attention_heads
        channels = config.hidden_size // self.heads
        entries = 2 * rows * config.hidden_size * -(-length // PAGE) * PAGE
        self.memory = [like.new_empty(entries) for _ in range(config.num_hidden_layers + 1)]  # the last is spare
        self.layers = [memory[:0].view(2, rows * self.heads, 0, channels) for memory in self.memory[:-1]]
        self.start, self.end, self.capacity = 0, 0, 0

    def reserve(self, n: int) -> Tensor:
        """Make room for n positions in all layers; returns them, (n,)."""
        self.start, self.end = self.end, self.end + n
        if self.end > self.capacity:
            self._lengthen(-(-self.end // PAGE) * PAGE)
        layer = self.layers[0]
        places = torch.arange(self.capacity, device=layer.device)
        new = places[self.start : self.end]
        # (1, n, T), added to the scores
        self.mask = layer.new_zeros(1, n, len(places)).masked_fill_(places > new[:, None], float("-inf"))
        return new

    def _lengthen(self, capacity: int) -> None:
        for index, full in enumerate(self.layers):
            kinds, rows, _, channels = full.shape
            # Into the spare memory, in turn: memory that is new at each time would cost more than the copy.
            self.memory[index], self.memory[-1] = self.memory[-1], self.memory[index]
            longer = self.memory[index][: kinds * rows * capacity * channels].view(kinds, rows, capacity, channels)
            longer[:, :, : self.capacity] = full
            longer[:, :, self.capacity :] = 0
            self.layers[index] = longer
        self.capacity = capacity

    def attend(self, layer: int, heads: Tensor, scale: float) -> Tensor:
        """Store keys and values of the reserved positions; attend from each to all up to it.

        heads: queries, keys and values, (R, n, 3, H, d), in any dtype; returns (R * n, C).
        """
        cache = self.layers[layer]
        filled = cache.unflatten(1, (self.rows, self.heads))[:, :, :, self.start : self.end]
        filled.copy_(heads[:, :, 1:].permute(2, 0, 3, 1, 4))
        queries = heads[:, :, 0].transpose(1, 2).flatten(0, 1).to(cache.dtype)
        # Not scaled_dot_product_attention: for a single query its last bits depend on the number of threads.
        weights = torch.baddbmm(self.mask, queries, cache[0].mT, alpha=scale).softmax(dim=-1)
        attended = torch.bmm(weights, cache[1])  # (R * H, n, d)
        return attended.unflatten(0, (self.rows, self.heads)).transpose(1, 2).flatten(0, 1).flatten(1)
