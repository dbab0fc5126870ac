"""The stream of batches: epochs, resuming, sharing out."""

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.data_loader import BatchSamplerShard
from accelerate.utils import DataLoaderConfiguration
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.data import Dataset

from wvq.tokenizer.data.batches import POOL_SHARDS, ShuffledBatches, training_loader, uniform_draws

shards = st.lists(st.integers(0, 9), min_size=1, max_size=50).filter(any)
sizes = st.tuples(st.integers(1, 40) | shards, st.integers(1, 50), st.integers(0, 1000))  # items, batch size, seed


class Numbers(Dataset):
    """Items that are their own index."""

    def __getitems__(self, indices: list[int]) -> dict[str, Tensor]:
        return {"index": torch.tensor(indices)}

    def __len__(self) -> int:
        return 30


@given(sizes, st.integers(1, 4))
def test_every_epoch_is_a_permutation(size: tuple[int | list[int], int, int], epochs: int):
    items, batch_size, seed = size
    num_items = items if isinstance(items, int) else sum(items)
    batches = ShuffledBatches(items, batch_size, 0, -(-epochs * num_items // batch_size), seed)
    drawn = list(batches)
    assert len(drawn) == len(batches)
    assert all(len(batch) == batch_size for batch in drawn)
    stream = np.concatenate(drawn)[: epochs * num_items].reshape(epochs, num_items)
    assert np.array_equal(np.sort(stream, axis=1), np.tile(np.arange(num_items), (epochs, 1)))


@given(sizes, st.integers(0, 20))
def test_resuming_anywhere_gives_the_tail(size: tuple[int | list[int], int, int], first: int):
    items, batch_size, seed = size
    whole = list(ShuffledBatches(items, batch_size, 0, 20, seed))
    assert list(ShuffledBatches(items, batch_size, first, 20, seed)) == whole[first:]


@given(shards, st.integers(0, 1000))
def test_no_more_shards_than_a_pool_are_read_at_a_time(items: list[int], seed: int):
    (epoch,) = ShuffledBatches(items, sum(items), 0, 1, seed)
    owners = np.repeat(np.arange(len(items)), items)[epoch]
    places = [np.flatnonzero(owners == shard) for shard in range(len(items))]
    for place in range(sum(items)):
        assert sum(len(own) > 0 and own[0] <= place <= own[-1] for own in places) <= POOL_SHARDS


def test_items_without_shards_are_permuted_as_a_whole():
    assert list(ShuffledBatches(40, 40, 3, 4, seed=7)) == [np.random.default_rng([7, 3]).permutation(40).tolist()]
    assert list(ShuffledBatches([40], 40, 3, 4, seed=7)) == list(ShuffledBatches(40, 40, 3, 4, seed=7))


def test_epochs_and_seeds_differ_and_repeat():
    def epochs(seed: int) -> list[list[int]]:
        return list(ShuffledBatches(100, 100, 0, 3, seed))

    assert epochs(0) == epochs(0)
    assert len({tuple(epoch) for epoch in epochs(0) + epochs(1)}) == 6


@given(st.integers(1, 40), st.integers(1, 10), st.sampled_from([1, 2, 3, 4]))
def test_shares_of_the_processes_make_up_the_batch(num_items: int, local_size: int, num_processes: int):
    batches = ShuffledBatches(num_items, local_size * num_processes, 2, 9, seed=0)
    shards = [BatchSamplerShard(batches, num_processes, i, split_batches=True) for i in range(num_processes)]  # pyright: ignore[reportArgumentType]
    whole = [[index for part in parts for index in part] for parts in zip(*shards, strict=True)]
    assert whole == list(batches)


def test_loader_gives_the_batches_and_leaves_the_global_generator_alone():
    accelerator = Accelerator(dataloader_config=DataLoaderConfiguration(split_batches=True))
    batches = ShuffledBatches(30, 8, 5, 12, seed=3)
    before = torch.get_rng_state()
    loaded = [batch["index"].tolist() for batch in accelerator.prepare(training_loader(Numbers(), batches))]
    assert loaded == list(batches)
    assert torch.equal(torch.get_rng_state(), before)


def test_uniform_draws_are_a_function_of_seed_and_batch():
    draws = uniform_draws(3, 7, 1000)
    assert draws.shape == (1000,)
    assert 0 <= draws.min() < 0.01 < 0.99 < draws.max() < 1
    assert torch.equal(draws, uniform_draws(3, 7, 1000))
    assert not torch.equal(draws, uniform_draws(3, 8, 1000))
    assert not torch.equal(draws, uniform_draws(4, 7, 1000))


def test_uniform_draws_share_no_stream_with_the_permutations():
    drawn = {tuple(np.random.default_rng([0, epoch]).random(4)) for epoch in range(50)}
    assert not any(tuple(uniform_draws(0, batch, 4).tolist()) in drawn for batch in range(50))
