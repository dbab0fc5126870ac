"""A model that is read as a list of matrices: its steps have static shapes, and are graphs where that is faster."""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any

from torch import Tensor

from .cache import StaticCache
from .graphs import PageGraphs, captures
from .packed_linear import PackedLinear


class StaticDecoder(ABC):
    """What decoders share whose subclass defines the step.

    Where steps are graphs, caches that are given back are kept with their graphs, for the next call.

    Attributes:
        output: the last matrix, from C channels to K logits.
    """

    output: PackedLinear

    def __init__(self, config: Any, like: Tensor):
        self.config, self.like = config, like
        self.spare: list[StaticCache] = []

    @abstractmethod
    def step(
        self,
        tokens: Tensor,
        places: Tensor,
        cache: StaticCache,
        positions: Tensor | None = None,
        visible: Tensor | None = None,
        num_logits: int = 1,
    ) -> Tensor:
        """As a call, of tokens whose places (n,) in the cache are reserved: normalized, what the last matrix takes."""

    def __call__(
        self,
        tokens: Tensor,
        cache: StaticCache,
        positions: Tensor | None = None,
        visible: Tensor | None = None,
        num_logits: int = 1,
    ) -> Tensor:
        places = cache.reserve(tokens.shape[1])
        if cache.graphs and tokens.shape[1] == 1 and positions is None and visible is None:
            return cache.graphs(tokens, places, cache.capacity)
        return self.step(tokens, places, cache, positions, visible, num_logits)

    def logits(self, features: Tensor) -> Tensor:
        rows = features.flatten(0, -2).to(self.output.dtype)
        return self.output(rows).float().unflatten(0, features.shape[:-1])

    def new_cache(self, rows: int, length: int, one_by_one: bool = True) -> StaticCache:
        if one_by_one and self.spare and self.spare[-1].fits(rows, length):
            cache = self.spare.pop()
            cache.clear()
            return cache
        self.spare.clear()
        captured = one_by_one and captures(self.like.device)
        cache = StaticCache(self.config, rows, length, self.like, captured)
        if cache.captured:
            cache.graphs = PageGraphs(self.step, cache)
        return cache

    def give_back(self, caches: Iterable[StaticCache]) -> None:
        self.spare = [cache for cache in caches if cache.captured]
