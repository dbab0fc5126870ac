"""The loss by a sample of the ids against the loss by all."""

import itertools
import math
from typing import Any
from unittest.mock import patch

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from wvq.prior.sampled_softmax import Proposal, sampled_cross_entropy


@given(count=st.integers(1, 12), vocabulary=st.integers(2, 30), rows=st.integers(1, 13), seed=st.integers(0, 2**31))
@settings(max_examples=40, deadline=None)
def test_with_every_id_drawn_once_it_is_the_loss_of_all(count, vocabulary, rows, seed):
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(count, 6, generator=generator, requires_grad=True)
    weight = torch.randn(vocabulary, 6, generator=generator, requires_grad=True)
    targets = torch.randint(vocabulary, (count,), generator=generator)
    ids = torch.randperm(vocabulary, generator=generator)
    is_own = targets[:, None] == ids
    with patch("wvq.prior.sampled_softmax._CPU_BLOCK_ENTRIES", rows * vocabulary):
        found = sampled_cross_entropy(hidden, weight[targets], weight[ids], torch.zeros(vocabulary), is_own)
    expected = F.cross_entropy(hidden @ weight.mT, targets)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    gradients = (torch.autograd.grad(loss, [hidden, weight]) for loss in (found, expected))
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gradients_are_those_of_the_same_loss_written_out(dtype):
    generator = torch.Generator().manual_seed(0)
    hidden, own, others = (torch.randn(n, 6, generator=generator).requires_grad_() for n in (7, 7, 5))
    log_times, is_own = torch.randn(5, generator=generator), torch.rand(7, 5, generator=generator) < 0.3
    loss = sampled_cross_entropy(hidden.to(dtype), own, others, log_times, is_own)
    assert loss.dtype == torch.float32
    logits = torch.cat([(hidden * own).sum(1, keepdim=True), hidden @ others.mT - log_times], dim=1)
    excluded = F.pad(is_own, (1, 0), value=False)
    expected = F.cross_entropy(logits.masked_fill(excluded, -torch.inf), torch.zeros(7, dtype=torch.int64))
    tolerance: dict[str, Any] = {"rtol": 1e-5, "atol": 1e-6} if dtype == torch.float32 else {"rtol": 0.05, "atol": 0.02}
    torch.testing.assert_close(loss, expected, **tolerance)
    for found, right in zip(
        *(torch.autograd.grad(3 * x, [hidden, own, others]) for x in (loss, expected)), strict=True
    ):
        torch.testing.assert_close(found, right, **tolerance)


@pytest.mark.parametrize("count", [1, 3])
def test_the_mean_of_the_estimated_sums_over_all_samples_is_the_sum(count: int):
    generator = torch.Generator().manual_seed(0)
    hidden, weight = torch.randn(6, 4, generator=generator), torch.randn(6, 4, generator=generator)
    proposal, targets = Proposal(torch.tensor([5, 0, 1, 9]), 6).probabilities, torch.arange(6)
    others = torch.zeros(6, dtype=torch.float64)  # the sum over all ids but the own, over the own
    for drawn in itertools.product(range(6), repeat=count):
        ids, probability = torch.tensor(drawn), proposal[list(drawn)]
        log_times = torch.from_numpy(probability * count).log().float()
        is_own = targets[:, None] == ids
        rows = zip(hidden.split(1), weight.split(1), is_own.split(1), strict=True)
        losses = torch.stack([sampled_cross_entropy(h, w, weight[ids], log_times, own) for h, w, own in rows])
        others += probability.prod() * losses.double().expm1()
    expected = F.cross_entropy(hidden @ weight.mT, targets, reduction="none").double().expm1()
    torch.testing.assert_close(others, expected, rtol=1e-5, atol=1e-6)


def test_half_of_a_sample_follows_the_frequencies():
    proposal = Proposal(torch.tensor([0, 30, 10, 0]), 5)
    torch.testing.assert_close(proposal.probabilities.tolist(), [0.1, 0.1 + 0.375, 0.1 + 0.125, 0.1, 0.1])
    ids, log_times = proposal.draw(0, 3, 20_000)
    shares = torch.bincount(ids, minlength=5) / 20_000
    torch.testing.assert_close(shares.double(), torch.from_numpy(proposal.probabilities), rtol=0, atol=0.02)
    for one, times in zip(ids[:50].tolist(), log_times[:50].tolist(), strict=True):
        assert times == pytest.approx(math.log(20_000 * proposal.probabilities[one]))


def test_samples_are_new_in_each_batch_and_the_same_when_a_run_resumes():
    proposal = Proposal(torch.ones(40), 50)
    first, again, other = (proposal.draw(1, batch, 64).ids for batch in (2, 2, 3))
    assert first.equal(again)
    assert not first.equal(other)
