"""Guidance for vLLM: what its engine would call, on tensors, with an engine of toy size around it."""

import random
from dataclasses import dataclass, field
from enum import Enum
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tiny_pipelines import tiny_prior

from wvq.prior import sample_tokens
from wvq.prior.paired_guidance import PairedGuidance, guided_requests
from wvq.tokenizer import InputError

Direction = Enum("Direction", ["UNIDIRECTIONAL", "SWAP"])


@dataclass
class Request:
    prompt: int
    params: Any
    tokens: list[int] = field(default_factory=list)


def requests(labels: list[int], scale: float) -> list[Request]:
    made = guided_requests(labels, num_codes=32, num_classes=3, guidance_scale=scale)
    return [
        Request(one.prompt_token_ids[0], SimpleNamespace(extra_args=one.extra_args, seed=one.seed, temperature=0.0))
        for one in made
    ]


def update(removed: Any = (), added: Any = (), moved: Any = ()) -> Any:
    return SimpleNamespace(
        removed=removed, added=[(row, r.params, [r.prompt], r.tokens) for row, r in added], moved=moved
    )


@torch.no_grad()
def test_an_engine_with_it_draws_greedily_what_the_sampler_draws():
    prior: Any = tiny_prior()
    guidance, batch = PairedGuidance(), requests([0, 2, 1], 2.5)
    assert [request.prompt for request in batch] == [32, 35, 34, 35, 33, 35]
    random.Random(0).shuffle(batch)
    guidance.update_state(update(added=enumerate(batch)))
    for step in range(16):
        if step % 5 == 2:  # the engine changes rows
            guidance.update_state(update(moved=[(0, 4, Direction.SWAP)]))
            batch[0], batch[4] = batch[4], batch[0]
        logits = prior(torch.tensor([[request.prompt, *request.tokens] for request in batch])).logits[:, -1]
        logits[:, 32:] = -float("inf")  # allowed_token_ids, which vLLM applies before
        for request, scores in zip(batch, guidance.apply(logits), strict=True):
            request.tokens.append(int(scores.argmax()))
        guidance.update_state(None)
    drawn = {request.prompt: request.tokens for request in batch if request.prompt != 35}
    expected = sample_tokens(prior, torch.tensor([0, 1, 2]), 16, 32, temperature=0, guidance_scale=2.5)
    assert [drawn[32], drawn[33], drawn[34]] == expected.tolist()
    assert sorted(drawn.values()) == sorted(request.tokens for request in batch if request.prompt == 35)


def test_both_halves_get_the_same_scores_and_other_rows_keep_theirs():
    plain = Request(33, SimpleNamespace(extra_args=None))
    guidance, (own, null) = PairedGuidance(), requests([1], 3.0)
    guidance.update_state(update(added=[(0, plain), (1, null), (2, own)]))
    logits = torch.randn(3, 36)
    logits[1:, 30:] = -float("inf")
    before = logits.clone()
    after = guidance.apply(logits)
    assert torch.equal(after[0], before[0])
    assert torch.equal(after[1], after[2])
    torch.testing.assert_close(after[1, :30], before[1, :30] + 3 * (before[2, :30] - before[1, :30]))
    assert bool(after[1, 30:].isneginf().all())


def test_rows_are_followed_when_requests_leave_and_others_take_their_place():
    guidance, first, second = PairedGuidance(), requests([0], 1.5), requests([2], 2.0)
    guidance.update_state(update(added=enumerate(first)))
    guidance.update_state(update(removed=[1, 0], added=[(1, second[0]), (3, second[1])]))
    guidance.update_state(update(moved=[(3, 0, Direction.UNIDIRECTIONAL)]))
    logits = torch.tensor([[0.0, 1.0], [1.0, 1.0]])
    assert guidance.apply(logits).tolist() == [[2.0, 1.0], [2.0, 1.0]]
    guidance.update_state(update(removed=[0, 1]))
    assert guidance.apply(torch.zeros(2, 2)).tolist() == [[0, 0], [0, 0]]


@pytest.mark.parametrize("missing", [0, 1])
def test_guidance_is_never_off_in_silence(missing: int):
    guidance, pair = PairedGuidance(), requests([1], 2.0)
    guidance.update_state(update(added=[(0, pair[1 - missing])]))
    with pytest.raises(InputError, match="pair 0 has only one of its requests in this step; give LLM an even max_num_"):
        guidance.apply(torch.zeros(1, 36))
    pair[missing].tokens.append(3)  # it is further than its other half
    guidance.update_state(update(added=[(1, pair[missing])]))
    with pytest.raises(InputError, match="pair 0 has only one"):
        guidance.apply(torch.zeros(2, 36))


def test_requests_that_cannot_be_guided_are_refused():
    for labels, classes in (([3], 3), ([-1], 3), ([0], 0)):
        with pytest.raises(InputError, match=r"class_labels are \[.*\]; valid are 0 to"):
            guided_requests(labels, 32, classes, 2.0)
    with pytest.raises(InputError, match="guidance_scale is -1"):
        guided_requests([0], 32, 3, -1.0)
    (own, _), check = requests([0], 2.0), PairedGuidance.validate_params
    check(own.params)
    check(SimpleNamespace(extra_args=None, seed=None, temperature=1.0))
    with pytest.raises(InputError, match="seed is None; both requests of a pair need the same"):
        check(SimpleNamespace(extra_args=own.params.extra_args, seed=None, temperature=1.0))
    with pytest.raises(InputError, match=r"extra_args have \['guidance_scale'\]; guidance needs"):
        check(SimpleNamespace(extra_args={"guidance_scale": 2.0}, seed=1, temperature=1.0))
    assert not PairedGuidance().is_argmax_invariant()
    assert PairedGuidance().needs_output_token_ids()
