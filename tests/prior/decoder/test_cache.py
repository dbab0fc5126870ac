"""Keys, values and attention to them: `wvq.prior.decoder.cache`, against attention in float64."""

import math
import shutil
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from wvq.prior import PriorConfig, build_prior, sample_tokens
from wvq.prior.decoder import cache
from wvq.prior.decoder.cache import PAGE, FixedPointCache, KeyValueCache, empty_cache

native = pytest.mark.skipif(cache._attention is None, reason="there was no C compiler at installation")


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


def test_c_code_is_there_wherever_it_can_be_compiled():
    assert cache._attention or not shutil.which("cc")


@native
@settings(max_examples=60, deadline=None)
@given(
    channels=st.sampled_from([2, 30, 32, 64, 100, 128, 192, 256]),
    parts=st.lists(st.integers(1, 40), min_size=1, max_size=4),
    loudness=st.sampled_from([1e-3, 1.0, 30.0]),
    seed=st.integers(0, 2**16),
)
def test_24_bit_integers_attend_as_exactly_as_float32(channels, parts, loudness, seed):
    heads = loudness * torch.randn(3, sum(parts), 3, 2, channels, generator=torch.Generator().manual_seed(seed))
    scale = 1 / math.sqrt(channels) / max(1.0, loudness)
    store = FixedPointCache(shape_of(2, 2, channels), 3, sum(parts))
    expected = attention(heads, scale)
    error = (attend_in_parts(store, heads, parts, 1, scale) - expected).abs().max()
    # A score's rounding error grows with its terms, and an error of a score is a relative one of a weight.
    terms = scale * torch.einsum("rqhd,rkhd->rqkh", heads[:, :, 0].abs(), heads[:, :, 1].abs()).max()
    bound = 2**-22 * (1 + terms) * heads[:, :, 2].abs().max()
    assert error < bound
    floats = KeyValueCache(shape_of(2, 2, channels), 3, sum(parts), torch.empty(0))
    assert (attend_in_parts(floats, heads, parts, 1, scale) - expected).abs().max() < bound  # no looser than float32's


@native
def test_an_output_depends_on_its_own_row_alone_and_not_on_threads():
    heads, scale = torch.randn(5, 70, 3, 3, 64, generator=torch.Generator().manual_seed(0)), 0.125
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        together = attend_in_parts(FixedPointCache(shape_of(1, 3, 64), 5, 70), heads, [1] * 70, 0, scale)
        torch.set_num_threads(2)
        assert torch.equal(
            attend_in_parts(FixedPointCache(shape_of(1, 3, 64), 5, 70), heads, [69, 1], 0, scale), together
        )
        alone = attend_in_parts(FixedPointCache(shape_of(1, 3, 64), 1, 90), heads[3:4], [70], 0, scale)
        assert torch.equal(alone, together[3 * 70 : 4 * 70])
    finally:
        torch.set_num_threads(threads)


@native
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("kind", [0, 1, 2])
def test_numbers_that_are_not_finite_are_never_hidden(bad, kind):
    heads = torch.randn(1, 4, 3, 1, 64)
    heads[0, 2, kind, 0, 5] = bad
    attended = attend_in_parts(FixedPointCache(shape_of(1, 1, 64), 1, 4), heads, [4], 0, 0.125)
    assert attended[:2].isfinite().all()
    assert not attended[2].isfinite().any()


@native
def test_zeros_and_the_smallest_numbers_are_kept():
    heads = torch.zeros(1, 3, 3, 1, 64)
    heads[0, 1, 2] = 1e-29
    attended = attend_in_parts(FixedPointCache(shape_of(1, 1, 64), 1, 3), heads, [3], 0, 0.125)
    torch.testing.assert_close(attended, attention(heads, 0.125).float(), rtol=1e-6, atol=0)


@native
def test_more_positions_than_there_is_room_for_are_refused():
    store = FixedPointCache(shape_of(1, 1, 64), 1, 3)
    store.reserve(4)
    with pytest.raises(ValueError, match="n 4, H 1, d 64, start 0, room 3"):
        store.attend(0, torch.zeros(1, 4, 3, 1, 64), 1.0)


def test_what_c_code_does_not_do_is_left_to_torch(monkeypatch):
    wide, bfloat16 = shape_of(1, 1, 258), torch.empty(0, dtype=torch.bfloat16)
    assert isinstance(empty_cache(wide, 1, 3, torch.empty(0)), KeyValueCache)
    assert isinstance(empty_cache(shape_of(1, 1, 64), 1, 3, bfloat16), KeyValueCache)
    monkeypatch.setattr(cache, "_attention", None)
    assert isinstance(empty_cache(shape_of(1, 1, 64), 1, 3, torch.empty(0)), KeyValueCache)


@native
@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_tokens_are_the_same_with_and_without_c_code(architecture, monkeypatch):
    torch.manual_seed(0)
    length = 2 * PAGE + 6
    size: Any = {"architecture": architecture, "hidden_size": 64, "num_layers": 2, "num_heads": 1}
    model = build_prior(PriorConfig(num_codes=24, num_tokens=length, num_classes=3, **size)).eval()

    def tokens() -> Tensor:
        generator = torch.Generator().manual_seed(1)
        return sample_tokens(model, torch.tensor([0, 1, 2]), length, 24, guidance_scale=2.0, generator=generator)

    with_it = tokens()
    monkeypatch.setattr(cache, "_attention", None)
    assert torch.equal(tokens(), with_it)
