"""Which images each step sees: a function of the seed and the step alone, whatever the number of processes."""

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from ..distributed import num_processes, process_index

POOL_SHARDS = 16  # shards of a stream that are mixed: what is read at a time, however many there are
_AT_ONCE = 4096  # numbers turned into a list: a list of all of them takes four times the array


class ShuffledBatches(Sampler[list[int]]):
    """Batches `first` to `last` (exclusive) of an endless stream of epochs, each a fresh permutation.

    Resuming is starting at a later `first`: nothing is skipped over and no state is kept. A batch may span two epochs,
    so every batch is full.

    Items that lie in shards, one after the other, are permuted in two levels: the shards, and the items of
    `POOL_SHARDS` of them at a time. So few shards are read at a time, and memory is taken for the items of a pool.

    Args:
        sizes: items of the data set, or of each of its shards.
        batch_size: items a batch, over all processes.
        first, last: batch numbers.
        seed: of the permutations.
    """

    drop_last = True

    def __init__(self, sizes: int | Sequence[int], batch_size: int, first: int, last: int, seed: int):
        self.sizes, self.batch_size = np.atleast_1d(np.asarray(sizes, np.int64)), batch_size
        self.first, self.last, self.seed = first, last, seed

    def __len__(self) -> int:
        return self.last - self.first

    def __iter__(self) -> Iterator[list[int]]:
        items = self._items_from(self.first * self.batch_size)
        for _ in range(len(self)):
            yield list(itertools.islice(items, self.batch_size))

    def _items_from(self, position: int) -> Iterator[int]:
        """The items of an endless stream of epochs from a position on."""
        starts = np.cumsum(self.sizes) - self.sizes
        first_epoch, offset = divmod(position, int(self.sizes.sum()))
        for epoch in itertools.count(first_epoch):
            # The last word keeps these streams apart from each other and from `uniform_draws`, which has 1. The first
            # pool has [seed, epoch]: numpy takes [seed, n] and [seed, n, 0] for the same.
            shards = np.random.default_rng([self.seed, epoch, 3]).permutation(len(self.sizes))
            for number, pool in enumerate(np.split(shards, range(POOL_SHARDS, len(shards), POOL_SHARDS))):
                count = int(self.sizes[pool].sum())
                if offset < count:
                    ranges = zip(starts[pool].tolist(), self.sizes[pool].tolist(), strict=True)
                    items = np.concatenate([np.arange(start, start + size) for start, size in ranges])
                    np.random.default_rng([self.seed, epoch, 2 * number]).shuffle(items)
                    for place in range(offset, count, _AT_ONCE):
                        yield from items[place : min(place + _AT_ONCE, count)].tolist()
                offset = max(0, offset - count)


def _as_is(batch: Any) -> Any:
    return batch


def training_loader(dataset: Dataset, batches: ShuffledBatches, num_workers: int = 0) -> DataLoader:
    """Loader of `batches` from a data set whose `__getitems__` gives a whole batch; `Accelerator.prepare` splits it."""
    return DataLoader(
        dataset,
        batch_sampler=batches,
        collate_fn=_as_is,
        num_workers=num_workers,
        pin_memory=torch.cuda.is_available(),
        generator=torch.Generator().manual_seed(batches.seed),  # else iterating draws from the global generator
        persistent_workers=num_workers > 0,
    )


def evenly_spaced(count: int, wanted: int) -> Tensor:
    """Indices (min(count, wanted),) int64 of items from all over `count` of them, the first and the last included."""
    exact = torch.float32 if count <= 2**20 else torch.float64  # float32 as ever: published scores are of these
    return torch.linspace(0, count - 1, min(count, wanted), dtype=exact).long()


def uniform_draws(seed: int, batch: int, local_size: int) -> Tensor:
    """Numbers in [0, 1) on the CPU, float64 (local_size,): one per item of this process's share of that batch."""
    draws = np.random.default_rng([seed, batch, 1]).random((local_size * num_processes(),))
    own = slice(process_index() * local_size, (process_index() + 1) * local_size)
    return torch.from_numpy(draws[own])
