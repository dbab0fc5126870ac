"""Priors for several codes at each position: each token is drawn from, and scored among, the codes whose turn it is."""

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from wvq.prior import PriorConfig, build_prior, sample_tokens
from wvq.prior.likelihood import log_likelihood
from wvq.prior.loading import load_prior
from wvq.tokenizer import InputError

SIZE: dict[str, Any] = {"hidden_size": 16, "num_layers": 1, "num_heads": 2}
CODES, TOKENS, PER_POSITION = 12, 6, 3  # 4 codes of each of 3 sub-quantizers, 2 positions
FIRST = torch.arange(TOKENS) % PER_POSITION * (CODES // PER_POSITION)


@pytest.fixture(scope="module")
def prior() -> Any:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    model: Any = build_prior(
        PriorConfig(**SIZE, num_codes=CODES, num_tokens=TOKENS, num_classes=2, codes_per_position=PER_POSITION)
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter *= 12 if parameter.ndim == 2 else 1
    return model.eval()


def draw(prior: Any, count: int = 500, **options: Any) -> torch.Tensor:
    options = {"generator": torch.Generator().manual_seed(0), "codes_per_position": PER_POSITION} | options
    return sample_tokens(prior, torch.arange(count) % 3, TOKENS, CODES, **options)


@pytest.mark.parametrize("options", [{}, {"guidance_scale": 2.5}, {"temperature": 4.0}, {"top_k": 2}, {"top_p": 0.9}])
def test_every_code_of_a_turn_is_drawn_and_no_other(prior, options):
    tokens = draw(prior, **options)
    codes = tokens - FIRST
    assert ((codes >= 0) & (codes < CODES // PER_POSITION)).all()
    assert len(tokens.unique()) > CODES // 2


def test_greedy_tokens_are_the_best_of_their_turn(prior):
    tokens = draw(prior, 3, temperature=0.0)
    inputs = torch.cat([CODES + torch.arange(3)[:, None], tokens[:, :-1]], dim=1)
    logits = prior(inputs).logits[:, :, :CODES].unflatten(-1, (PER_POSITION, -1))
    own = logits[:, torch.arange(TOKENS), torch.arange(TOKENS) % PER_POSITION]
    assert torch.equal(tokens, own.argmax(dim=-1) + FIRST)


def test_known_tokens_are_kept(prior):
    whole = draw(prior)
    hole = torch.rand(whole.shape, generator=torch.Generator().manual_seed(1)) < 0.5
    assert torch.equal(draw(prior, known_tokens=whole.masked_fill(hole, -1)), whole)


def test_probabilities_of_all_sequences_that_can_be_drawn_add_up_to_one(prior):
    turns = [range(first, first + 4) for first in FIRST.tolist()]
    every = torch.tensor(list(itertools.product(*turns)))
    nats = log_likelihood(prior, every, torch.zeros(len(every)).long(), CODES, codes_per_position=PER_POSITION)
    assert float(nats.exp().sum()) == pytest.approx(1, abs=1e-6)


def test_the_number_of_codes_is_saved_and_may_lack_in_older_folders(prior, tmp_path: Path):
    prior.save_pretrained(tmp_path)
    assert load_prior(tmp_path).config.codes_per_position == PER_POSITION
    description = json.loads((tmp_path / "config.json").read_text())
    for value in (0, 5, "3", True, None):
        (tmp_path / "config.json").write_text(json.dumps(description | {"codes_per_position": value}))
        with pytest.raises(InputError, match=r"has codes_per_position = .*; it must be an integer that divides"):
            load_prior(tmp_path)
    del description["codes_per_position"]
    (tmp_path / "config.json").write_text(json.dumps(description))
    assert load_prior(tmp_path).config.codes_per_position == 1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda p: draw(p, codes_per_position=5),
            "codes_per_position is 5; it must be at least 1 and divide num",
        ),
        (lambda p: draw(p, codes_per_position=0), "codes_per_position is 0; it must be at least 1"),
        (
            lambda p: draw(p, 1, known_tokens=torch.tensor([[0, 4, 8, 0, 3]])),
            r"known_tokens reach from 3 to 4 at tokens 1, 4, \.\.\.; valid there are 4 to 7",
        ),
        (
            lambda p: log_likelihood(p, FIRST[None] + 4 * (FIRST < 8), torch.tensor([0]), CODES, codes_per_position=3),
            r"tokens reach from 4 to 4 at tokens 0, 3, \.\.\.; valid there are 0 to 3",
        ),
        (lambda p: PriorConfig(num_codes=12, num_tokens=4, codes_per_position=3), "codes_per_position is 3; .* 4$"),
    ],
)
def test_what_does_not_fit_is_refused(prior, call, message):
    with pytest.raises(InputError, match=message):
        call(prior)
