"""Which positions are drawn in which pass."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from wvq.prior.order.passes import pass_sizes, spread_order
from wvq.tokenizer import InputError


@settings(deadline=None)
@given(count=st.integers(0, 1025), passes=st.integers(1, 1100))
def test_passes_draw_all_positions_each_at_least_one(count: int, passes: int) -> None:
    sizes = pass_sizes(count, passes)
    assert sum(sizes) == count
    assert len(sizes) == min(count, passes)
    assert all(size >= 1 for size in sizes)


def test_what_is_unknown_falls_as_a_cosine() -> None:
    sizes = pass_sizes(256, 24)
    known = torch.tensor(sizes).cumsum(0)
    expected = torch.tensor([256 * (1 - math.cos(math.pi / 2 * n / 24)) for n in range(1, 25)])
    assert (known - expected).abs().max() <= 1
    assert sizes[:3] == [1, 1, 3]
    assert pass_sizes(16, 4) == [1, 4, 5, 6]


@settings(deadline=None, max_examples=50)
@given(height=st.integers(1, 20), per_position=st.integers(1, 3), extra=st.integers(0, 5))
def test_every_token_comes_once_and_all_first_codes_before_all_second(
    height: int, per_position: int, extra: int
) -> None:
    positions = height * (height + extra)
    order = spread_order(positions * per_position, per_position)
    assert torch.equal(order.sort().values, torch.arange(positions * per_position))
    codes = order.view(per_position, positions)
    assert torch.equal(codes, codes[:1] + torch.arange(per_position)[:, None])


@pytest.mark.parametrize("size", [4, 8, 16, 32])
def test_positions_of_a_pass_lie_far_apart(size: int) -> None:
    """The first 4^n cover the grid evenly, and so does each run of 4^n after them."""
    order = spread_order(size * size)
    places = torch.stack([order // size, order % size], dim=1).float()
    for bits in range(1, size.bit_length()):
        for run in places.split(4**bits):
            apart = torch.cdist(run, run).fill_diagonal_(torch.inf)
            assert apart.min() >= size / 2**bits


@pytest.mark.parametrize("shape", [(24, 16), (16, 8), (4, 16), (7, 3)])
def test_positions_lie_far_apart_on_the_grid_that_is_given(shape: tuple[int, int]) -> None:
    height, width = shape
    order = spread_order(height * width, grid_shape=shape)
    assert torch.equal(order.sort().values, torch.arange(height * width))
    assert torch.equal(spread_order(2 * height * width, 2, grid_shape=shape)[: len(order)], 2 * order)
    places = torch.stack([order // width, order % width], dim=1).float()
    first = places[: height * width // 4]
    apart = torch.cdist(first, first).fill_diagonal_(torch.inf)
    assert apart.min() > 1, "no two of the first quarter touch"
    with pytest.raises(InputError, match=rf"grid_shape is \({height}, {width}\); it must have 5 positions"):
        spread_order(5, grid_shape=shape)


@pytest.mark.parametrize(("tokens", "passes"), [(49, 8), (144, 16), (196, 20)])
def test_so_they_do_on_grids_that_are_no_power_of_two(tokens: int, passes: int) -> None:
    size, generator = math.isqrt(tokens), torch.Generator().manual_seed(0)

    def nearest(order: torch.Tensor) -> float:
        """Mean distance of a position to the nearest one of its pass."""
        places = torch.stack([order // size, order % size], dim=1).float()
        runs = [run for run in places.split(pass_sizes(tokens, passes)) if len(run) > 1]
        apart = [torch.cdist(run, run).fill_diagonal_(torch.inf).amin(dim=1) for run in runs]
        return float(torch.cat(apart).mean())

    assert nearest(spread_order(tokens)) > 1.1 * max(
        nearest(torch.randperm(tokens, generator=generator)) for _ in range(10)
    )
