"""Priors that draw a scale a pass: what a position depends on, cached sampling, likelihood, what others load."""

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import AutoModelForCausalLM

from wvq.prior import PriorConfig, build_prior, sample_tokens
from wvq.prior.likelihood import log_likelihood
from wvq.prior.loading import load_prior
from wvq.prior.loss import TokenLoss
from wvq.prior.next_scale import next_scale_inputs, sample_scales, scale_maps
from wvq.tokenizer import InputError
from wvq.tokenizer.errors import NonFiniteError
from wvq.tokenizer.multi_scale import scale_ends

SCALES, CODES, TOKENS = (1, 2, 4), 12, 21
LABELS = torch.tensor([0, 1, 2, 0, 2])


def build(architecture: Any = "llama", scales: tuple[int, ...] = SCALES) -> Any:
    torch.manual_seed(3)
    size: Any = {"architecture": architecture, "hidden_size": 16, "num_layers": 2, "num_heads": 2}
    config = PriorConfig(**size, num_codes=CODES, num_tokens=scale_ends(scales)[-1], num_classes=2, scales=scales)
    prior = build_prior(config).eval()
    with torch.no_grad():
        for parameter in prior.parameters():
            parameter *= 12 if parameter.ndim == 2 else 1  # else all codes are nearly as probable
    return prior


def logits(prior: Any, tokens: Tensor, labels: Tensor, ids: int = CODES) -> Tensor:
    """Scores (B, T, K) of all tokens, in one pass without a cache; of so many ids."""
    given = torch.cat([labels[:, None] + CODES, tokens[:, :-1]], dim=1)
    scales = tuple(prior.config.scales)
    with torch.no_grad():
        return prior(**next_scale_inputs(prior.get_input_embeddings()(given), scales)).logits[:, :, :ids]


def generators(count: int, first: int = 0) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(first + number) for number in range(count)]


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
@given(scales=st.sets(st.integers(1, 4), min_size=1, max_size=3), data=st.data())
@settings(max_examples=8, deadline=None)
def test_scores_of_a_scale_depend_on_coarser_tokens_alone(architecture: str, scales: set[int], data: st.DataObject):
    grown = tuple(sorted(scales))
    ends = scale_ends(grown)
    prior = build(architecture, grown)
    number = data.draw(st.integers(0, len(grown) - 1))
    start = ends[number] - grown[number] ** 2
    tokens = torch.randint(CODES, (1, ends[-1]), generator=torch.Generator().manual_seed(0))
    others = tokens.clone()
    others[:, start:] = (others[:, start:] + 1) % CODES
    own, its = logits(prior, tokens, LABELS[:1]), logits(prior, others, LABELS[:1])
    assert torch.equal(own[:, : ends[number]], its[:, : ends[number]])
    if number + 1 < len(grown):
        assert not torch.equal(own[:, ends[number] :], its[:, ends[number] :])


def test_inputs_are_the_class_and_each_coarser_scale_once():
    mixing, mask = scale_maps(SCALES, torch.device("cpu"))
    assert mixing.sum(dim=1).tolist() == pytest.approx([1.0] + 4 * [2.0] + 16 * [3.0])
    assert (mixing[:, 0] == 1).all()
    assert mask.shape == (1, 1, TOKENS, TOKENS)
    assert mask[0, 0].sum(dim=1).tolist() == [1] + 4 * [5] + 16 * [21]


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
@pytest.mark.parametrize("scale", [1.0, 1.7])
def test_cached_greedy_tokens_are_those_of_whole_passes(architecture: str, scale: float):
    prior = build(architecture)
    drawn = sample_scales(prior, LABELS, TOKENS, CODES, guidance_scale=scale, temperature=0)
    tokens = torch.zeros(5, TOKENS, dtype=torch.int64)
    for start, end in itertools.pairwise([0, *scale_ends(SCALES)]):
        own, null = logits(prior, tokens, LABELS), logits(prior, tokens, torch.full_like(LABELS, 2))
        tokens[:, start:end] = (null + scale * (own - null)).argmax(dim=-1)[:, start:end]
    assert torch.equal(drawn, tokens)
    assert prior.training is False


def test_an_image_is_the_same_in_any_batch():
    prior = build()
    options: dict[str, Any] = {"guidance_scale": 1.5, "top_p": 0.9, "guidance_schedule": "linear"}
    together = sample_scales(prior, LABELS, TOKENS, CODES, generator=generators(5), **options)
    alone = [
        sample_scales(prior, LABELS[i : i + 1], TOKENS, CODES, generator=generators(1, i), **options) for i in range(5)
    ]
    assert torch.equal(torch.cat(alone), together)
    assert len(together.unique(dim=0)) == 5


def test_known_tokens_stay_and_a_callback_sees_a_scale_at_a_time():
    prior, seen = build(), []
    known = torch.full((5, 9), -1)
    known[:, 0], known[2, 7] = 3, 5
    drawn = sample_scales(
        prior, LABELS, TOKENS, CODES, known_tokens=known, on_token=lambda at, tokens: seen.append((at, tokens.shape))
    )
    assert drawn[:, 0].tolist() == [3] * 5
    assert drawn[2, 7] == 5
    assert seen == [(0, (5, 1)), (4, (5, 5)), (20, (5, 21))]


def test_frequencies_of_drawn_tokens_are_their_likelihood():
    prior = build(scales=(1, 2))
    labels = torch.zeros(4000, dtype=torch.int64)
    drawn = sample_scales(prior, labels, 5, CODES, generator=torch.Generator().manual_seed(0))
    first = torch.bincount(drawn[:, 0], minlength=CODES) / len(drawn)
    probable = logits(prior, drawn[:1], labels[:1])[0, 0].softmax(dim=0)
    torch.testing.assert_close(first, probable, rtol=0, atol=0.03)
    nats = log_likelihood(prior, drawn[:50], labels[:50], CODES)
    scores = logits(prior, drawn[:50], labels[:50]).log_softmax(dim=-1)
    expected = scores.gather(-1, drawn[:50, :, None]).double().sum(dim=(1, 2))
    torch.testing.assert_close(nats, expected)


def test_the_loss_is_the_cross_entropy_of_all_tokens():
    prior, tokens = build(), torch.randint(CODES, (5, TOKENS), generator=torch.Generator().manual_seed(0))
    expected = F.cross_entropy(logits(prior, tokens, LABELS, CODES + 3).flatten(0, 1), tokens.flatten())
    torch.testing.assert_close(TokenLoss(prior, CODES)(tokens, LABELS).detach(), expected)


def test_a_saved_prior_is_a_plain_model_of_transformers(tmp_path: Path):
    prior = build()
    prior.save_pretrained(tmp_path)
    tokens = sample_scales(prior, LABELS, TOKENS, CODES, temperature=0)
    for loaded in (load_prior(tmp_path), AutoModelForCausalLM.from_pretrained(tmp_path)):
        assert type(loaded) is type(prior)
        assert torch.equal(sample_scales(loaded, LABELS, TOKENS, CODES, temperature=0), tokens)


def test_bfloat16_draws_nearly_the_same_scores():
    prior = build()
    own = sample_scales(prior, LABELS, TOKENS, CODES, temperature=0)
    rounded = sample_scales(prior, LABELS, TOKENS, CODES, temperature=0, dtype=torch.bfloat16)
    assert float((own == rounded).double().mean()) > 0.5


def test_what_does_not_fit_is_refused():
    prior = build()
    with pytest.raises(InputError, match=r"the prior has scales \(1, 2, 4\); give it to sample_scales"):
        sample_tokens(prior, LABELS, TOKENS, CODES)
    with pytest.raises(InputError, match=r"has scales \(1, 2, 4\); 20 tokens of 1 do not fit"):
        sample_scales(prior, LABELS, 20, CODES)
    with pytest.raises(InputError, match=r"dtype is torch.int8 and block_size None; valid are"):
        sample_scales(prior, LABELS, TOKENS, CODES, dtype=torch.int8)
    with pytest.raises(InputError, match=r"scales are \(1, 2\); 21 tokens do not fit to them"):
        PriorConfig(num_codes=CODES, num_tokens=TOKENS, scales=(1, 2))
    with torch.no_grad():
        prior.get_output_embeddings().weight[0, 0] = torch.nan
    with pytest.raises(NonFiniteError, match="the scores of image 0 at scale 1 are not finite"):
        sample_scales(prior, LABELS, TOKENS, CODES)
