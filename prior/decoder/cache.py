"""Keys and values of all positions so far, in memory of fixed shape, and attention to them.

Legend of shapes: R rows, n new positions, T positions of the pages in use, H heads, d channels of a head, C = H * d.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedConfig

PAGE, PAGE_OF_A_GRAPH = 32, 64  # positions


class StaticCache:
    """Keys and values of each layer, longer by a page whenever they are full.

    Pages are read whole, what is still empty in the last one hidden, so that all steps of a page have the same shapes;
    where a part of it is read in less time, that is. Where a step is captured as a graph, nothing in it depends on a
    number of the host either, and all memory stays in place.

    Args:
        config: of the model: its layers, heads and width.
        rows: R.
        length: positions for which there is memory.
        like: a tensor of the type and on the device of the keys and values.
        captured: whether steps are captured as graphs.
    """

    def __init__(self, config: PreTrainedConfig, rows: int, length: int, like: Tensor, captured: bool):
        self.rows, self.heads, self.captured = rows, config.num_attention_heads, captured
        self.page = PAGE_OF_A_GRAPH if captured else PAGE
        self.length = -(-length // self.page) * self.page
        channels = config.hidden_size // self.heads
        layers = config.num_hidden_layers + (not captured)  # the last is spare
        shape = (2, rows * self.heads, self.length, channels)
        self.memory = [like.new_zeros(shape) if captured else like.new_empty(shape) for _ in range(layers)]
        self.layers = [memory[:, :, :0] for memory in self.memory[: config.num_hidden_layers]]  # (2, R * H, T, d)
        self.positions = torch.arange(self.length, device=like.device)
        self.start, self.end, self.capacity = 0, 0, 0
        self.graphs: Any = None  # of steps on this memory

    def reserve(self, n: int) -> Tensor:
        """Make room for n positions in all layers; returns them, (n,)."""
        self.start, self.end = self.end, self.end + n
        if self.end > self.capacity:
            self.use_pages(-(-self.end // self.page) * self.page)
        return self.positions[self.start : self.end]

    def use_pages(self, capacity: int) -> None:
        """Make attention read that many positions, a whole number of pages."""
        for index, full in enumerate(self.layers):
            if self.captured:
                self.layers[index] = self.memory[index][:, :, :capacity]
                continue
            # A CPU multiplies by contiguous memory twice as fast as by the filled part of longer rows. Into the spare
            # memory, in turn: memory that is new at each time would cost more than the copy.
            self.memory[index], self.memory[-1] = self.memory[-1], self.memory[index]
            kinds, rows, before, channels = full.shape
            longer = self.memory[index].flatten()[: kinds * rows * capacity * channels]
            longer = longer.view(kinds, rows, capacity, channels)
            longer[:, :, :before] = full
            longer[:, :, before:] = 0
            self.layers[index] = longer
        self.capacity = capacity

    def fits(self, rows: int, length: int) -> bool:
        """Whether it is what a new one for that many rows and positions would be."""
        return self.rows == rows and self.length == -(-length // self.page) * self.page

    def clear(self) -> None:
        """Forget all positions, and numbers that are not finite, which a mask would not hide."""
        for memory in self.memory:
            memory.zero_()
        self.start = self.end = 0
        self.use_pages(0)

    def mask(self, places: Tensor, visible: Tensor | None = None) -> Tensor | None:
        """What is added to the scores of the positions `places` (n,): 0 or -inf, (1 or R, n, T).

        None if they see all that is stored: a single position does, without `visible`, outside of a graph.

        Args:
            visible: bool (n, E) or (R, n, E), whether they attend to each of the E positions so far, themselves
                included; by default to all up to their own.
        """
        if visible is None and len(places) == 1 and not self.captured:
            return None
        if visible is None:
            visible = self.positions[: self.capacity] <= places[:, None]
        else:
            visible = F.pad(visible, (0, self.capacity - visible.shape[-1]))
        visible = visible.view(-1, *visible.shape[-2:])
        like = self.layers[0]
        return like.new_zeros(visible.shape).masked_fill_(~visible, float("-inf"))

    def attend(self, layer: int, heads: Tensor, places: Tensor, mask: Tensor | None) -> Tensor:
        """Store keys and values of the reserved positions, and attend from them.

        heads: queries, already scaled, keys and values, (R, n, 3, H, d), in any dtype; mask: by `mask`; returns
        (R * n, C).
        """
        rows, n, _, count, channels = heads.shape
        cache = self.layers[layer]
        queries = heads.select(2, 0).transpose(1, 2).to(cache.dtype)  # (R, H, n, d)
        if self.captured:
            new = heads[:, :, 1:].permute(2, 0, 3, 1, 4)  # (2, R, H, n, d)
            cache.index_copy_(2, places, new.flatten(1, 2).to(cache.dtype))
            keys, values = cache.unflatten(1, (rows, count))
            assert mask is not None  # in a graph there always is one
            attended = F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask[:, None], scale=1.0)
        else:
            stored = cache.view(2, rows, count, -1, channels).permute(1, 3, 0, 2, 4)  # (R, T, 2, H, d)
            stored.narrow(1, self.start, n).copy_(heads.narrow(2, 1, 2))
            # On a CPU scaled_dot_product_attention of a few queries takes twice as long, six times in bfloat16, and its
            # last bits depend on the number of threads; baddbmm with the mask takes up to 1.5 times as long as bmm.
            # A product by a part of a page takes less time than by the whole one, but in bfloat16 up to twice as long.
            in_part = mask is None and cache.dtype == torch.float32
            keys, values = (cache[:, :, : self.end] if in_part else cache).unbind()
            scores = torch.bmm(queries.flatten(0, 1), keys.mT)
            if mask is None:
                scores[:, :, self.end :] = float("-inf")
            else:
                scores.view(len(mask), -1, *mask.shape[1:]).add_(mask[:, None])
            attended = torch.bmm(scores.softmax(dim=-1), values).view(rows, count, n, channels)
        return attended.transpose(1, 2).reshape(rows * n, count * channels)
