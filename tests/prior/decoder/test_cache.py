"""Keys, values and attention to them: `wvq.prior.decoder.cache`, against attention in float64."""

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from wvq.prior.decoder.cache import PAGE, PAGE_OF_A_GRAPH, StaticCache


def shape_of(layers: int, heads: int, channels: int) -> Any:
    return SimpleNamespace(num_hidden_layers=layers, num_attention_heads=heads, hidden_size=heads * channels)


def attention(heads: Tensor, scale: float) -> Tensor:
    """Causal attention (R * T, C) of queries, keys and values (R, T, 3, H, d), in float64."""
    queries, keys, values = heads.double().permute(2, 0, 3, 1, 4)
    attended = scaled_dot_product_attention(queries, keys, values, is_causal=True, scale=scale)
    return attended.transpose(1, 2).flatten(0, 1).flatten(1)


def scaled(heads: Tensor, scale: float) -> Tensor:
    """Queries, which are scaled, keys and values (R, T, 3, H, d)."""
    return heads * torch.tensor([scale, 1.0, 1.0])[:, None, None]


def attend_in_parts(store: Any, heads: Tensor, parts: list[int], layer: int, scale: float) -> Tensor:
    """What a cache gives for positions that come in parts; (R * T, C)."""
    outputs = []
    for part in heads.split(parts, dim=1):
        places = store.reserve(part.shape[1])
        attended = store.attend(layer, scaled(part, scale), places, store.mask(places))
        outputs.append(attended.unflatten(0, part.shape[:2]))
    return torch.cat(outputs, dim=1).flatten(0, 1)


@settings(max_examples=60, deadline=None)
@given(
    channels=st.sampled_from([2, 30, 64, 100, 256]),
    parts=st.lists(st.integers(1, 40), min_size=1, max_size=4),
    loudness=st.sampled_from([1e-3, 1.0, 30.0]),
    captured=st.booleans(),
    seed=st.integers(0, 2**16),
)
def test_attention_is_as_exact_as_float32_allows(channels, parts, loudness, captured, seed):
    heads = loudness * torch.randn(3, sum(parts), 3, 2, channels, generator=torch.Generator().manual_seed(seed))
    scale = 1 / math.sqrt(channels) / max(1.0, loudness)
    store = StaticCache(shape_of(2, 2, channels), 3, sum(parts), torch.empty(0), captured)
    error = (attend_in_parts(store, heads, parts, 1, scale) - attention(heads, scale)).abs().max()
    # A score's rounding error grows with its terms, and an error of a score is a relative one of a weight.
    terms = scale * torch.einsum("rqhd,rkhd->rqkh", heads[:, :, 0].abs(), heads[:, :, 1].abs()).max()
    assert error < 2**-22 * (1 + terms) * heads[:, :, 2].abs().max()


@pytest.mark.parametrize("captured", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_single_position_sees_all_that_is_stored_and_nothing_else(dtype, captured):
    heads = torch.randn(2, PAGE + 3, 3, 2, 8, generator=torch.Generator().manual_seed(0)).to(dtype)
    store = StaticCache(shape_of(1, 2, 8), 2, PAGE + 3, torch.empty(0, dtype=dtype), captured)
    attended = attend_in_parts(store, heads, [1] * (PAGE + 3), 0, 0.5)  # scaled without rounding
    tolerance = 1e-6 if dtype == torch.float32 else 2e-2
    torch.testing.assert_close(attended.double(), attention(heads, 0.5), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("captured", [False, True])
@pytest.mark.parametrize("of_each_row", [False, True])
def test_a_position_attends_to_what_it_is_told_to(captured, of_each_row):
    torch.manual_seed(0)
    heads, n = torch.randn(2, 40, 3, 2, 8), 5
    visible = torch.rand(2, n, 40) < 0.5
    visible[:, :, 0] = True
    if not of_each_row:
        visible = visible[0]
    store = StaticCache(shape_of(1, 2, 8), 2, 40, torch.empty(0), captured)
    before, new = heads.split([35, n], dim=1)
    attend_in_parts(store, before, [35], 0, 0.3)
    places = store.reserve(n)
    attended = store.attend(0, scaled(new, 0.3), places, store.mask(places, visible))
    queries, keys, values = heads.double().permute(2, 0, 3, 1, 4)
    hidden = visible if not of_each_row else visible[:, None]
    expected = scaled_dot_product_attention(queries[:, :, -n:], keys, values, attn_mask=hidden, scale=0.3)
    torch.testing.assert_close(
        attended, expected.transpose(1, 2).flatten(0, 1).flatten(1).float(), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("captured", [False, True])
def test_memory_is_read_in_whole_pages_and_stays_in_place_where_graphs_read_it(captured):
    page = PAGE_OF_A_GRAPH if captured else PAGE
    store = StaticCache(shape_of(1, 1, 4), 1, 2 * page + 1, torch.empty(0), captured)
    assert store.length == 3 * page
    read = []
    for n in (1, page - 1, 1, page):
        store.reserve(n)
        read.append((store.layers[0].shape[2], store.layers[0].data_ptr()))
    assert [capacity for capacity, _ in read] == [page, page, 2 * page, 3 * page]
    assert (len({place for _, place in read}) == 1) == captured


def test_a_cleared_cache_hides_what_was_not_finite():
    store = StaticCache(shape_of(1, 1, 4), 1, 40, torch.empty(0), captured=True)
    attend_in_parts(store, torch.full((1, 9, 3, 1, 4), math.nan), [9], 0, 0.5)
    store.clear()
    assert attend_in_parts(store, torch.ones(1, 2, 3, 1, 4), [2], 0, 0.5).isfinite().all()
