"""Utilization and perplexity on cases worked out by hand, and their laws."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from wvq.tokenizer import CodebookUsage, InputError
from wvq.tokenizer.metrics import perplexity, token_entropy, utilization


def usage_of(indices: torch.Tensor, codebook_size: int) -> tuple[float, float]:
    usage = CodebookUsage(codebook_size)
    usage.update(indices)
    result = usage.compute()
    return result["utilization"].item(), result["perplexity"].item()


# The three kinds of figure 9 of arXiv 2506.15078: all used alike, all used but nearly all mass on one, half used.
@pytest.mark.parametrize(
    ("counts", "expected_utilization", "expected_perplexity"),
    [
        ([100] * 10, 1.0, 10.00),
        ([9982] + [2] * 9, 1.0, 1.02),
        ([255, 200, 200, 200, 145, 0, 0, 0, 0, 0], 0.5, 4.92),
        ([0, 7, 0, 0, 0, 0, 0, 0, 0, 0], 0.1, 1.00),
    ],
)
def test_ten_codes(counts: list[int], expected_utilization: float, expected_perplexity: float):
    histogram = torch.tensor(counts)
    indices = torch.repeat_interleave(torch.arange(10), histogram)
    measured_utilization, measured_perplexity = usage_of(indices, 10)
    assert measured_utilization == pytest.approx(expected_utilization)
    assert measured_perplexity == pytest.approx(expected_perplexity, abs=0.005)
    assert utilization(histogram).item() == measured_utilization
    assert perplexity(histogram).item() == measured_perplexity


def test_two_codes_one_to_three():
    # H = -(1/4 ln 1/4 + 3/4 ln 3/4), so exp H = 4 / 3^(3/4)
    _, measured = usage_of(torch.tensor([[0, 1], [1, 1]]), 2)
    assert measured == pytest.approx(4 / 3**0.75)


@given(st.integers(2, 50).flatmap(lambda k: st.tuples(st.just(k), st.lists(st.integers(0, k - 1), min_size=1))))
def test_ranges(case: tuple[int, list[int]]):
    codebook_size, indices = case
    used, effective = usage_of(torch.tensor(indices), codebook_size)
    assert 1 / codebook_size <= used <= 1
    assert 1 - 1e-9 <= effective <= codebook_size * (1 + 1e-9)
    assert effective <= len(set(indices)) * (1 + 1e-9)
    assert used * codebook_size == pytest.approx(len(set(indices)))


@given(st.lists(st.integers(0, 15), min_size=1, max_size=60), st.integers(1, 60))
def test_any_split_into_batches_gives_the_same(indices: list[int], size: int):
    split = CodebookUsage(16)
    for part in torch.tensor(indices).split(size):
        split.update(part)
    result = split.compute()
    assert (result["utilization"].item(), result["perplexity"].item()) == usage_of(torch.tensor(indices), 16)
    assert split.histogram.dtype == torch.int64
    assert split.histogram.sum() == len(indices)


def test_grids_are_counted_as_their_tokens():
    grid = torch.arange(12).reshape(3, 2, 2) % 5
    assert usage_of(grid, 5) == usage_of(grid.flatten(), 5)


def test_reset_forgets():
    usage = CodebookUsage(4)
    usage.update(torch.tensor([0, 1, 2, 3]))
    usage.compute()
    usage.reset()
    usage.update(torch.tensor([0, 0]))
    assert usage.compute()["utilization"] == 0.25


@pytest.mark.parametrize(("indices", "span"), [([0, 4], "0 to 4"), ([-1, 2], "-1 to 2")])
def test_index_out_of_range(indices: list[int], span: str):
    with pytest.raises(InputError, match=f"indices reach from {span}; valid are 0 to 3"):
        CodebookUsage(4).update(torch.tensor(indices))


def test_nothing_counted():
    usage = CodebookUsage(4)
    usage.update(torch.empty(0, dtype=torch.int64))
    with pytest.raises(InputError, match="no indices were counted; call update before compute"):
        usage.compute()


def test_perplexity_of_a_huge_count_does_not_round_away():
    # 16 M against 1: a float32 share would be exactly 1
    histogram = torch.tensor([2**24, 1])
    assert perplexity(histogram).item() > 1
    assert math.isclose(perplexity(histogram).item(), 1 + (1 + math.log(2**24)) / 2**24, rel_tol=1e-9)


@given(st.lists(st.integers(0, 30), min_size=4, max_size=4).filter(any), st.integers(1, 50))
def test_token_entropy_is_that_of_its_perplexity(counts: list[int], times: int):
    histogram = torch.tensor(counts)
    bits = math.log2(perplexity(histogram).item())
    assert token_entropy(histogram).item() == pytest.approx(bits, abs=1e-9)
    assert token_entropy(times * histogram).item() == pytest.approx(bits, abs=1e-9)
    # Sub-quantizers are counted apart: a second one with the same counts doubles the bits, one with one code adds none.
    total = int(histogram.sum())
    assert token_entropy(histogram.repeat(2), 2).item() == pytest.approx(2 * bits, abs=1e-9)
    one_code = torch.tensor([0, total, 0, 0])
    assert token_entropy(torch.cat([histogram, one_code]), 2).item() == pytest.approx(bits, abs=1e-9)


def test_token_entropy_by_hand():
    assert token_entropy(torch.tensor([2, 1, 1, 0])).item() == pytest.approx(1.5)  # 1/2 of 1 bit, 1/2 of 2 bits
    assert token_entropy(torch.tensor([2, 1, 1, 0, 1, 1, 1, 1]), 2).item() == pytest.approx(1.5 + 2)
