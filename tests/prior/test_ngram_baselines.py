"""Bits per token of models that only count, against a count by hand and one with dictionaries."""

import itertools
import math
from collections import Counter
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from wvq.prior.ngram_baselines import baseline_bits


class Tokens:
    """What the baselines read of a `TokenDataset`."""

    def __init__(self, tokens: list[list[int]], num_codes: int):
        self.tokens, self.num_codes = torch.tensor(tokens, dtype=torch.int32), num_codes
        self.num_tokens = self.tokens.shape[1]

    def __len__(self) -> int:
        return len(self.tokens)

    def take(self, indices: list[int]) -> dict[str, torch.Tensor]:
        return {"tokens": self.tokens[indices]}


def bits(train: list[list[int]], held_out: list[list[int]], num_codes: int) -> dict[str, float]:
    values: Any = Tokens(train, num_codes), Tokens(held_out, num_codes)
    return baseline_bits(*values)


def test_uniform_and_unigram_by_hand():
    found = bits([[0, 0, 0, 1], [0, 1, 2, 0]], [[0, 1, 9, 2]], 10)  # with the added: 6 3 2 1 ... 1
    assert found["uniform_bits_per_token"] == math.log2(10)
    expected = (math.log2(18 / 6) + math.log2(18 / 3) + math.log2(18 / 1) + math.log2(18 / 2)) / 4
    assert found["unigram_bits_per_token"] == pytest.approx(expected, rel=1e-12)


def bigram_probability(train: list[list[int]], num_codes: int, before: int | None, code: int) -> float:
    counts = Counter(itertools.chain(*train))
    unigram = (counts[code] + 1) / (counts.total() + num_codes)
    followers = Counter(b for row in train for a, b in itertools.pairwise([None, *row]) if a == before)
    if not followers:
        return unigram
    return (followers[code] + len(followers) * unigram) / (followers.total() + len(followers))


rows = st.lists(st.lists(st.integers(0, 5), min_size=4, max_size=4), min_size=1, max_size=8)


@given(train=rows, held_out=rows)
def test_bigram_equals_witten_and_bells_rule(train: list[list[int]], held_out: list[list[int]]):
    pairs = [pair for row in held_out for pair in itertools.pairwise([None, *row])]
    expected = -sum(math.log2(bigram_probability(train, 6, a, b)) for a, b in pairs if b is not None) / len(pairs)
    assert bits(train, held_out, 6)["bigram_bits_per_token"] == pytest.approx(expected, rel=1e-9)


@given(train=rows, before=st.integers(0, 5))
def test_bigram_probabilities_add_up_to_one(train: list[list[int]], before: int):
    costs = [bits(train, [[before, code]], 6)["bigram_bits_per_token"] * 2 for code in range(6)]
    first = bits(train, [[before]], 6)["bigram_bits_per_token"]
    assert sum(2 ** (first - cost) for cost in costs) == pytest.approx(1, rel=1e-9)


def test_bigram_knows_an_alternation_that_unigram_does_not():
    row = [0, 1] * 8
    found = bits([row] * 50, [row], 2)
    assert found["unigram_bits_per_token"] == pytest.approx(1)
    assert found["bigram_bits_per_token"] < 0.01
