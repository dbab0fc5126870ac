"""How probable a prior finds tokens: `wvq.prior.likelihood`."""

import copy
import itertools
import math

import pytest
import torch
from scipy.stats import chisquare

from wvq.prior import PriorConfig, build_prior, sample_tokens
from wvq.prior.likelihood import bits_per, log_likelihood
from wvq.tokenizer import InputError
from wvq.tokenizer.errors import NonFiniteError

CODES, TOKENS = 4, 2


@pytest.fixture(scope="module")
def prior():
    torch.manual_seed(0)
    torch.set_num_threads(1)
    config = PriorConfig(hidden_size=16, num_layers=1, num_heads=2, num_codes=CODES, num_tokens=TOKENS, num_classes=1)
    model = build_prior(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter *= 10 if parameter.ndim == 2 else 1
    return model


ALL = torch.tensor(list(itertools.product(range(CODES), repeat=TOKENS)))


def test_probabilities_of_all_sequences_add_up_to_one(prior):
    for label in (0, 1):
        nats = log_likelihood(prior, ALL, torch.full((len(ALL),), label), CODES, batch_size=5)
        assert float(nats.exp().sum()) == pytest.approx(1, abs=1e-6)


def test_100_000_sequences_are_drawn_as_often_as_their_likelihood_says(prior):
    labels = torch.zeros(100_000, dtype=torch.int64)
    tokens = sample_tokens(prior, labels, TOKENS, CODES, generator=torch.Generator().manual_seed(0))
    counts = (tokens[:, 0] * CODES + tokens[:, 1]).bincount(minlength=len(ALL)).numpy()
    expected = log_likelihood(prior, ALL, labels[: len(ALL)], CODES).exp().numpy()
    expected *= counts.sum() / expected.sum()
    assert expected.min() > 5
    assert chisquare(counts, expected).pvalue > 1e-3


def test_a_uniform_prior_needs_the_logarithm_of_its_codes():
    model = build_prior(
        PriorConfig(hidden_size=16, num_layers=1, num_heads=2, num_codes=8, num_tokens=6, num_classes=1)
    )
    torch.nn.init.zeros_(model.lm_head.weight)
    model.train()
    nats = log_likelihood(model, torch.randint(8, (3, 6)), torch.tensor([0, 1, 0]), 8)
    assert model.training
    torch.testing.assert_close(bits_per(nats, 6), torch.full((3,), 3.0, dtype=torch.float64), rtol=1e-6, atol=0)
    torch.testing.assert_close(bits_per(nats, 2), torch.full((3,), 9.0, dtype=torch.float64), rtol=1e-6, atol=0)
    assert math.isclose(float(nats[0]), -6 * math.log(8), rel_tol=1e-6)


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        (torch.tensor([[0, CODES]]), r"tokens reach from 0 to 4; valid are 0 to 3"),
        (torch.tensor([[-1, 0]]), r"tokens reach from -1 to 0"),
        (torch.zeros(2, 2, dtype=torch.int64), r"tokens have shape \(2, 2\); it must be \(B, T\) for 1 labels"),
        (torch.zeros(2, dtype=torch.int64), r"tokens have shape \(2,\)"),
    ],
)
def test_tokens_that_cannot_be_are_refused(prior, tokens, message):
    with pytest.raises(InputError, match=message):
        log_likelihood(prior, tokens, torch.tensor([0]), CODES)


@pytest.mark.parametrize("label", [-1, 2])
def test_labels_that_cannot_be_are_refused(prior, label):
    with pytest.raises(InputError, match=f"class_labels reach from {label} to {label}; valid are 0 to 1"):
        log_likelihood(prior, ALL[:1], torch.tensor([label]), CODES)


def test_a_bad_weight_is_named_instead_of_a_likelihood_that_is_no_number(prior):
    damaged = copy.deepcopy(prior)
    with torch.no_grad():
        damaged.lm_head.weight[1] = float("nan")
    with pytest.raises(NonFiniteError, match="the scores at position 0 are not finite"):
        log_likelihood(damaged, ALL, torch.zeros(len(ALL), dtype=torch.int64), CODES)


def test_likelihoods_are_ordinary_tensors(prior):
    nats = log_likelihood(prior, ALL, torch.zeros(len(ALL), dtype=torch.int64), CODES)
    assert not nats.is_inference()
    nats += 1
