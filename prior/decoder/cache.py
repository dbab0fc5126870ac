"""Keys and values of all positions so far, and attention to them.

Legend of shapes: R rows, n new positions, T positions in all, H heads, d channels of a head, C = H * d.
"""

import torch
from torch import Tensor
from transformers import PreTrainedConfig

try:
    from . import _attention
except ImportError:  # installed where there is no C compiler, or no OpenMP
    _attention = None

PAGE = 32  # positions
_GROUP, _MOST_CHANNELS = 64, 256  # of a head, in attention.c


def empty_cache(config: PreTrainedConfig, rows: int, length: int, like: Tensor) -> "FixedPointCache | KeyValueCache":
    """The fastest cache for that many sequences of up to that many positions, on the device and of the type of like."""
    channels = config.hidden_size // config.num_attention_heads
    native = like.device.type == "cpu" and like.dtype == torch.float32
    if _attention and native and channels <= _MOST_CHANNELS:
        return FixedPointCache(config, rows, length)
    return KeyValueCache(config, rows, length, like)


class FixedPointCache:
    """Keys and values as 24-bit integers with a float32 scale for each: as exact as float32, in 3/4 of the bytes.

    A step is as slow as the cache is large, as all of it is read once and little computed with it. On a CPU, in C
    (attention.c); an output is computed by one thread, alike on any number of them and in any batch.
    """

    def __init__(self, config: PreTrainedConfig, rows: int, length: int):
        self.heads, self.capacity = config.num_attention_heads, length
        channels = config.hidden_size // self.heads
        shape = (config.num_hidden_layers, rows, self.heads, 2, length)
        self.records = torch.empty(*shape, 3 * (-(-channels // _GROUP) * _GROUP), dtype=torch.uint8)
        self.scales = torch.empty(shape)
        self.weights = torch.empty(torch.get_num_threads(), length)  # of one head at a time, on each thread
        self.start, self.end = 0, 0

    def reserve(self, n: int) -> Tensor:
        """Make room for n positions in all layers; returns them, (n,)."""
        self.start, self.end = self.end, self.end + n
        return torch.arange(self.start, self.end)

    def attend(self, layer: int, heads: Tensor, scale: float) -> Tensor:
        """Store keys and values of the reserved positions; attend from each to all up to it.

        heads: queries, keys and values, float32 (R, n, 3, H, d), contiguous; returns (R * n, C).
        """
        assert _attention
        rows, n, _, number, channels = heads.shape
        attended = heads.new_empty(rows * n, number * channels)
        _attention.attend(
            heads.data_ptr(), self.records[layer].data_ptr(), self.scales[layer].data_ptr(), attended.data_ptr(),
            self.weights.data_ptr(), rows, n, number, channels, self.start, self.capacity, scale, len(self.weights),
        )  # fmt: skip
        return attended


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
