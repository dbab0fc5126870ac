"""Keys, values and attention to them: `wvq.prior.decoder.cache`, against attention in float64."""

import math
from types import SimpleNamespace
from typing import Any

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from wvq.prior.decoder.cache import KeyValueCache


def shape_of(layers: int, heads: int, channels: int) -> Any:
    return SimpleNamespace(num_hidden_layers=layers, num_attention_heads=heads, hidden_size=heads * channels)


def attention(heads: Tensor, scale: float) -> Tensor:
    """Causal attention (R * T, C) of queries, keys and values (R, T, 3, H, d), in float64."""
    queries, keys, values = heads.double().permute(2, 0, 3, 1, 4)
    attended = scaled_dot_product_attention(queries, keys, values, is_causal=True, scale=scale)
    return attended.transpose(1, 2).flatten(0, 1).flatten(1)


def attend_in_parts(store: Any, heads: Tensor, parts: list[int], layer: int, scale: float) -> Tensor:
    """What a cache gives for positions that come in parts; (R * T, C)."""
    outputs = []
    for part in heads.split(parts, dim=1):
        places = store.reserve(part.shape[1])
        outputs.append(store.attend(layer, part.contiguous(), scale).unflatten(0, part.shape[:2]))
        assert len(places) == part.shape[1]
    return torch.cat(outputs, dim=1).flatten(0, 1)


@settings(max_examples=60, deadline=None)
@given(
    channels=st.sampled_from([2, 30, 64, 100, 256]),
    parts=st.lists(st.integers(1, 40), min_size=1, max_size=4),
    loudness=st.sampled_from([1e-3, 1.0, 30.0]),
    seed=st.integers(0, 2**16),
)
def test_attention_is_as_exact_as_float32_allows(channels, parts, loudness, seed):
    heads = loudness * torch.randn(3, sum(parts), 3, 2, channels, generator=torch.Generator().manual_seed(seed))
    scale = 1 / math.sqrt(channels) / max(1.0, loudness)
    store = KeyValueCache(shape_of(2, 2, channels), 3, sum(parts), torch.empty(0))
    error = (attend_in_parts(store, heads, parts, 1, scale) - attention(heads, scale)).abs().max()
    # A score's rounding error grows with its terms, and an error of a score is a relative one of a weight.
    terms = scale * torch.einsum("rqhd,rkhd->rqkh", heads[:, :, 0].abs(), heads[:, :, 1].abs()).max()
    assert error < 2**-22 * (1 + terms) * heads[:, :, 2].abs().max()
