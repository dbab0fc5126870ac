"""One step of decoding as a graph for each page of a cache: the host starts it once, whatever number of kernels it is.

Without it the host takes longer to start the small kernels of a step than a GPU to run them.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .cache import StaticCache

Step = Callable[[Tensor, Tensor, StaticCache], Tensor]


def captures(device: torch.device) -> bool:
    """Whether steps there are captured as graphs."""
    return device.type == "cuda"


class PageGraphs:
    """A step of one new position, for each number of pages that attention can read.

    Args:
        step: (tokens (R, 1), places (1,), cache) -> a tensor; it asks the host nothing, and writes only the cache.
        cache: whose memory stays in place; emptied afterwards.
    """

    def __init__(self, step: Step, cache: StaticCache):
        self.tokens, self.places = cache.positions.new_zeros(cache.rows, 1), cache.positions.new_zeros(1)
        self.by_capacity: dict[int, tuple[Callable[[], Any], Tensor]] = {}
        pool = None
        with torch.cuda.device_of(self.tokens):
            for capacity in range(cache.page, cache.length + 1, cache.page):
                cache.use_pages(capacity)
                replay, result, pool = captured(lambda: step(self.tokens, self.places, cache), pool)
                self.by_capacity[capacity] = replay, result
        cache.clear()

    def __call__(self, tokens: Tensor, places: Tensor, capacity: int) -> Tensor:
        """The step's result for tokens (R, 1) at places (1,) of a cache of that capacity, until the next call."""
        self.tokens.copy_(tokens)
        self.places.copy_(places)
        replay, result = self.by_capacity[capacity]
        with torch.cuda.device_of(result):
            replay()
        return result


def captured(function: Callable[[], Tensor], pool: Any = None) -> tuple[Callable[[], Any], Tensor, Any]:
    """`function` as a graph: what runs it again, where its result will be, and the memory that graphs share."""
    current, aside = torch.cuda.current_stream(), torch.cuda.Stream()
    aside.wait_stream(current)
    with torch.cuda.stream(aside):
        function()  # libraries choose their kernels and make their workspaces when they are first called
    current.wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):  # other threads may use the GPU
        result = function()
    return graph.replay, result, graph.pool()
