"""From logits to codes: `wvq.prior.truncation`, against the definitions and against transformers' warpers."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import chisquare
from transformers.generation.logits_process import MinPLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from wvq.prior.truncation import SHORT_LIST, draw_codes, invert_cumulative, kept_weights

SCORES = arrays(np.float32, st.integers(1, 30), elements=st.integers(-6, 0).map(float))  # small integers: many ties


def kept(scores: Any, **options: Any) -> list[int]:
    """Codes that are kept of scores (K,)."""
    filters = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0} | options
    return kept_weights(torch.as_tensor(scores)[None], **filters)[0].nonzero().flatten().tolist()


@given(scores=SCORES, top_k=st.integers(1, 35))
def test_top_k_keeps_all_that_are_among_the_k_largest_or_tie_with_the_last(scores, top_k):
    larger = (scores[None] > scores[:, None]).sum(axis=1)
    assert kept(scores, top_k=top_k) == np.flatnonzero(larger < top_k).tolist()


@given(scores=SCORES, top_p=st.floats(0.01, 0.999))
def test_top_p_keeps_the_fewest_of_the_most_probable_that_reach_p_and_ties_with_the_last(scores, top_p):
    weights = np.exp((scores - scores.max()).astype(np.float32)).astype(np.float64)
    ordered = np.sort(weights)[::-1]
    reached = ordered.cumsum()
    count = int((reached < top_p * reached[-1] * (1 - 1e-6)).sum()) + 1
    other = int((reached < top_p * reached[-1] * (1 + 1e-6)).sum()) + 1
    if count == other:  # else p is reached within rounding and both answers are right
        assert kept(scores, top_p=top_p) == np.flatnonzero(weights >= ordered[count - 1] * (1 - 1e-6)).tolist()


@given(scores=SCORES, min_p=st.floats(0.001, 1.0), temperature=st.floats(0.3, 3))
def test_min_p_keeps_all_above_a_share_of_the_highest(scores, min_p, temperature):
    shares = np.exp((scores - scores.max()).astype(np.float64) / temperature)
    sure = np.flatnonzero(shares >= min_p * (1 + 1e-5)).tolist()
    possible = np.flatnonzero(shares >= min_p * (1 - 1e-5)).tolist()
    assert set(sure) <= set(kept(scores, min_p=min_p, temperature=temperature)) <= set(possible)


def test_ties_are_kept_in_equal_shares():
    scores = torch.tensor([0.0, 1.0, 1.0, 1.0, -1.0])
    assert kept(scores, top_k=1) == kept(scores, top_p=0.1) == kept(scores, min_p=1.0) == [1, 2, 3]
    draws = torch.rand(30_000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    counts = draw_codes(scores.expand(len(draws), -1), draws, top_k=1).bincount(minlength=5).numpy()
    assert chisquare(counts[1:4]).pvalue > 1e-3


@pytest.mark.parametrize("sharpness", [0.1, 3.0])  # the nucleus is longer, or shorter, than the short list
@pytest.mark.parametrize(
    "options",
    [{"top_k": 40}, {"top_p": 0.7}, {"min_p": 0.05}, {"top_k": 300, "top_p": 0.9, "min_p": 0.01}],
)
def test_without_ties_the_kept_codes_are_those_of_transformers(sharpness, options):
    scores = sharpness * torch.randn(5, 4 * SHORT_LIST, generator=torch.Generator().manual_seed(0))
    expected = scores
    for name, warper in (("top_k", TopKLogitsWarper), ("top_p", TopPLogitsWarper), ("min_p", MinPLogitsWarper)):
        if name in options:
            expected = warper(options[name])(torch.empty(5, 0, dtype=torch.int64), expected)  # pyright: ignore[reportArgumentType]
    filters = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0} | options
    weights = kept_weights(scores, **filters)
    torch.testing.assert_close(weights / weights.sum(-1, keepdim=True), expected.softmax(-1))


def test_temperature_divides_and_zero_takes_the_highest():
    scores = torch.randn(4, 50, generator=torch.Generator().manual_seed(0))
    weights = kept_weights(scores, 0.5, 0, 1.0, 0.0)
    torch.testing.assert_close(weights / weights.sum(-1, keepdim=True), (scores / 0.5).softmax(-1))
    assert torch.equal(draw_codes(scores, torch.rand(4).double(), temperature=0), scores.argmax(-1))


@pytest.mark.parametrize("options", [{}, {"top_k": 6}, {"top_p": 0.8}, {"min_p": 0.2}, {"temperature": 2.0}])
def test_100_000_draws_have_the_probabilities_of_what_is_kept(options):
    scores = torch.randn(16, generator=torch.Generator().manual_seed(3))
    draws = torch.rand(100_000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    counts = draw_codes(scores.expand(len(draws), -1), draws, **options).bincount(minlength=16).numpy()
    probabilities = (scores.double() / options.get("temperature", 1.0)).softmax(-1).numpy()
    support = kept(scores, **options)
    assert np.flatnonzero(counts).tolist() == support
    expected = probabilities[support] / probabilities[support].sum() * len(draws)
    assert chisquare(counts[support], expected).pvalue > 1e-3


WEIGHTS = arrays(np.float32, st.integers(1, 40), elements=st.one_of(st.just(0.0), st.floats(2**-100, 1, width=32)))


@given(weights=WEIGHTS, draws=st.lists(st.floats(0, 1, exclude_max=True), min_size=1, max_size=8))
@example(weights=np.array([0, 0, 1, 0], np.float32), draws=[0.0, 0.5, 1 - 2**-53])
@example(weights=np.array([1, 1e-9, 0], np.float32), draws=[1 - 2**-53, 1 - 1e-10])
@settings(deadline=None)
def test_inversion_is_a_search_in_the_running_sum_and_never_finds_a_zero(weights, draws):
    if not weights.any():
        weights[0] = 1
    cumulative = weights.astype(np.float64).cumsum()
    below = np.nextafter(cumulative[-1], 0)  # a product may round up to the whole sum, which nothing exceeds
    found = invert_cumulative(torch.from_numpy(weights).expand(len(draws), -1), torch.tensor(draws).double()).numpy()
    assert (weights[found] > 0).all()
    expected = np.searchsorted(cumulative, np.minimum(np.float64(draws) * cumulative[-1], below), side="right")
    assert (found == expected).all()


@given(
    number=st.integers(60, 400), share=st.floats(0, 1), draw=st.floats(0, 1, exclude_max=True), seed=st.integers(0, 99)
)
@example(number=400, share=0.0, draw=1 - 2**-53, seed=0)
@settings(deadline=None)
def test_inversion_over_many_weights_is_that_search_to_rounding(number, share, draw, seed):
    generator = np.random.default_rng(seed)
    weights = (generator.exponential(size=number) * (generator.random(number) < share)).astype(np.float32)
    weights[number // 2] += not weights.any()
    cumulative = weights.astype(np.float64).cumsum()
    found = int(invert_cumulative(torch.from_numpy(weights)[None], torch.tensor([draw], dtype=torch.float64)))
    assert weights[found] > 0
    target, rounding = draw * cumulative[-1], 1e-13 * cumulative[-1]
    assert cumulative[found] - weights[found] - rounding <= target <= cumulative[found] + rounding


def test_inversion_sees_codes_rarer_than_a_float32_sum_can_hold():
    probabilities = torch.full((1, 4001), 2.5e-9)
    probabilities[0, 0] = 1 - 4000 * 2.5e-9
    draws = 1 - 1e-5 * torch.rand(500, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    cumulative = probabilities[0].double().numpy().cumsum()
    expected = np.searchsorted(cumulative, draws.numpy() * cumulative[-1], side="right")
    assert np.array_equal(invert_cumulative(probabilities.expand(500, -1), draws).numpy(), expected)
    assert len(np.unique(expected)) > 400


def test_inverted_uniform_numbers_have_the_given_frequencies():
    probabilities = torch.tensor([0.0, 0.1, 0.4, 0.0, 0.05, 0.45, 0.0])
    draws = torch.rand(50_000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    counts = invert_cumulative(probabilities.expand(len(draws), -1), draws).bincount(minlength=7).numpy()
    drawn = probabilities.numpy() > 0
    assert not counts[~drawn].any()
    assert chisquare(counts[drawn], probabilities.double().numpy()[drawn] * len(draws)).pvalue > 1e-3
