"""Keys and values while several positions are drawn in a pass.

A pass feeds the pairs of the pass before, and then its queries: ids of positions whose codes are wanted. The pairs stay
in the cache. Each query is computed as if it were the next token, all at the same place of the sequence: it attends to
what stays and to itself, not to the other queries, whose codes are not known either. Then it is forgotten: its code may
come after others, and it is fed again in its pair.
"""

import torch
from torch import Tensor
from transformers import PreTrainedConfig


class PassCache:
    """What a decoder of this room needs of a cache, with queries at the end of each pass.

    Legend of shapes: R rows, n new tokens, H heads, d channels of a head, C = H * d.

    Args:
        config: of the prior.
        rows: sequences, R.
        length: tokens of a sequence at most, queries included.
        like: a tensor of the type and on the device that it is to have.
    """

    def __init__(self, config: PreTrainedConfig, rows: int, length: int, like: Tensor):
        self.heads = config.num_attention_heads
        channels = config.hidden_size // self.heads
        self.memory = like.new_empty(config.num_hidden_layers, 2, rows, self.heads, length, channels)
        self.end, self.capacity = 0, length
        self.queries = 0  # how many of the tokens of the next call

    def reserve(self, n: int) -> Tensor:
        """Make room for n tokens, the last of them queries; returns their places in the sequence, (n,)."""
        device = self.memory.device
        self.start, self.used, self.end = self.end, self.end + n, self.end + n - self.queries
        columns = torch.arange(self.used, device=device)
        rows = columns[self.start :, None]
        seen = (columns <= rows) & ((columns < self.end) | (columns == rows))
        self.mask = self.memory.new_zeros(1, n, self.used).masked_fill_(~seen, float("-inf"))
        return columns[self.start :].clamp(max=self.end)

    def attend(self, layer: int, heads: Tensor, scale: float) -> Tensor:
        """Store keys and values of the new tokens; attend from each to what it sees.

        heads: queries, keys and values, (R, n, 3, H, d), in any dtype; returns (R * n, C).
        """
        memory = self.memory[layer]
        memory[:, :, :, self.start : self.used] = heads[:, :, 1:].permute(2, 0, 3, 1, 4)
        keys, values = memory[:, :, :, : self.used].flatten(1, 2)
        queries = heads[:, :, 0].transpose(1, 2).flatten(0, 1).to(memory.dtype)
        weights = torch.baddbmm(self.mask, queries, keys.mT, alpha=scale).softmax(dim=-1)
        attended = torch.bmm(weights, values)  # (R * H, n, d)
        return attended.unflatten(0, (-1, self.heads)).transpose(1, 2).flatten(0, 1).flatten(1)
