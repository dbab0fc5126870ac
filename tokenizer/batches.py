"""Which images each step sees: a function of the seed and the step alone, whatever the number of processes."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler


class ShuffledBatches(Sampler[list[int]]):
    """Batches `first` to `last` (exclusive) of an endless stream of epochs, each a fresh permutation.

    Resuming is starting at a later `first`: nothing is skipped over and no state is kept. A batch may span two epochs,
    so every batch is full.

    Args:
        num_items: items of the data set.
        batch_size: items a batch, over all processes.
        first, last: batch numbers.
        seed: of the permutations.
    """

    drop_last = True

    def __init__(self, num_items: int, batch_size: int, first: int, last: int, seed: int):
        self.num_items, self.batch_size = num_items, batch_size
        self.first, self.last, self.seed = first, last, seed

    def __len__(self) -> int:
        return self.last - self.first

    def __iter__(self) -> Iterator[list[int]]:
        epoch, order = -1, np.empty(0, np.int64)
        for batch in range(self.first, self.last):
            indices: list[int] = []
            while len(indices) < self.batch_size:
                position = batch * self.batch_size + len(indices)
                if position // self.num_items != epoch:
                    epoch = position // self.num_items
                    order = np.random.default_rng([self.seed, epoch]).permutation(self.num_items)
                offset = position % self.num_items
                indices += order[offset : offset + self.batch_size - len(indices)].tolist()
            yield indices


def _as_is(batch: Any) -> Any:
    return batch


def training_loader(dataset: Dataset, batches: ShuffledBatches, num_workers: int = 0) -> DataLoader:
    """Loader of `batches` from a data set whose `__getitems__` gives a whole batch; `Accelerator.prepare` splits it."""
    return DataLoader(
        dataset,
        batch_sampler=batches,
        collate_fn=_as_is,
        num_workers=num_workers,
        generator=torch.Generator().manual_seed(batches.seed),  # else iterating draws from the global generator
        persistent_workers=num_workers > 0,
    )


def uniform_draws(seed: int, batch: int, local_size: int, accelerator: Accelerator) -> Tensor:
    """Numbers in [0, 1), float64 (local_size,), one per item of this process's share of batch number `batch`."""
    # The last word keeps the stream apart from the permutations': numpy takes [seed, n] and [seed, n, 0] for the same.
    draws = np.random.default_rng([seed, batch, 1]).random((local_size * accelerator.num_processes,))
    own = slice(accelerator.process_index * local_size, (accelerator.process_index + 1) * local_size)
    return torch.from_numpy(draws[own]).to(accelerator.device)
