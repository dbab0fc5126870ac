"""Sequences of free order: their vocabulary, their orders, and the loss of a prior that learns them."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from wvq.prior import PriorConfig, build_prior, load_prior
from wvq.prior.likelihood import log_likelihood
from wvq.prior.loss import TokenLoss
from wvq.prior.order.sequences import pairs, raster_orders, training_orders, validation_orders
from wvq.tokenizer import InputError
from wvq.tokenizer.storage.atomic import write_json
from wvq.tokenizer.storage.untrusted import read_json

CODES, TOKENS, CLASSES = 10, 6, 3
FIRST_CLASS = CODES + TOKENS


def free_prior(**changes: Any) -> Any:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    sizes: dict[str, Any] = {"hidden_size": 32, "num_layers": 2, "num_heads": 2, "token_order": "random"}
    counts = {"num_codes": CODES, "num_tokens": TOKENS, "num_classes": CLASSES}
    return build_prior(PriorConfig(**{**sizes, **counts, **changes}))


def orders_of(count: int, share: float = 1.0, seed: int = 0) -> torch.Tensor:
    orders = training_orders(seed, 0, count, TOKENS, share)
    assert orders is not None
    return orders


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_positions_stand_between_codes_and_classes(architecture: str) -> None:
    config = free_prior(architecture=architecture).config
    assert (config.vocab_size, config.token_order) == (CODES + TOKENS + CLASSES + 1, "random")
    assert config.max_position_embeddings == 2 * TOKENS + 1
    raster = free_prior(architecture=architecture, token_order="raster").config
    assert (raster.vocab_size, raster.max_position_embeddings) == (CODES + CLASSES + 1, TOKENS + 1)
    assert not hasattr(raster, "token_order")  # nothing that earlier versions would not know


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_a_code_is_predicted_after_its_position_and_the_pairs_before_it(architecture: str) -> None:
    prior, codes, labels = free_prior(architecture=architecture), torch.randint(CODES, (4, TOKENS)), torch.arange(4)
    orders = orders_of(4)
    sequences = [
        [FIRST_CLASS + label, *(number for place in order for number in (CODES + place, row[place]))]
        for label, row, order in zip(labels.tolist(), codes.tolist(), orders.tolist(), strict=True)
    ]
    sequence = torch.tensor(sequences)
    logits = prior(input_ids=sequence, use_cache=False).logits[:, 1:-1:2]
    expected = F.cross_entropy(logits.flatten(0, 1), sequence[:, 2::2].flatten())
    parameters = list(prior.parameters())
    gradients = torch.autograd.grad(expected, parameters)
    found = TokenLoss(prior, CODES)(codes, labels, orders)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(torch.autograd.grad(found, parameters), gradients, rtol=1e-4, atol=1e-7)


def test_the_loss_without_orders_and_the_likelihood_are_those_in_raster_order() -> None:
    prior, codes, labels = free_prior(), torch.randint(CODES, (4, TOKENS)), torch.arange(4)
    model = TokenLoss(prior, CODES).eval()
    with torch.no_grad():
        in_raster = model(codes, labels, raster_orders(codes))
        assert torch.equal(model(codes, labels), in_raster)
        assert not torch.equal(model(codes, labels, orders_of(4)), in_raster)
    # Of codes alone, as they are drawn: the loss counts all ids as possible.
    expected = torch.zeros(4, dtype=torch.float64)
    for position in range(TOKENS):
        seen = pairs(codes, raster_orders(codes)[:, : position + 1], CODES)[:, :-1]
        with torch.no_grad():
            logits = prior(torch.cat([FIRST_CLASS + labels[:, None], seen], dim=1)).logits[:, -1, :CODES]
        expected += logits.double().log_softmax(-1).gather(1, codes[:, position, None])[:, 0]
    torch.testing.assert_close(log_likelihood(prior, codes, labels, CODES), expected, rtol=1e-5, atol=1e-5)


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 2**31), batch=st.integers(0, 10**6), share=st.floats(0.01, 1))
def test_orders_are_permutations_and_a_function_of_seed_and_batch(seed: int, batch: int, share: float) -> None:
    orders = training_orders(seed, batch, 8, TOKENS, share)
    assert orders is not None
    assert torch.equal(orders.sort(dim=1).values, torch.arange(TOKENS).expand(8, -1))
    again = training_orders(seed, batch, 8, TOKENS, share)
    assert again is not None
    assert torch.equal(orders, again)
    others = [training_orders(seed, batch + 1, 8, TOKENS, 1.0), training_orders(seed + 1, batch, 8, TOKENS, 1.0)]
    assert not any(torch.equal(orders, other) for other in others if other is not None)


def test_a_share_of_the_orders_is_random() -> None:
    raster = torch.arange(TOKENS)
    for share in (0.25, 0.75):
        random = (orders_of(4000, share) != raster).any(dim=1).float().mean()
        assert random == pytest.approx(share, abs=0.03)
    assert training_orders(0, 0, 4, TOKENS, 0.0) is None
    counts = torch.zeros(TOKENS, TOKENS).index_put_(
        (raster.expand(4000, -1), orders_of(4000)), torch.ones(()), accumulate=True
    )
    assert counts.min() > 0.8 * 4000 / TOKENS  # every position comes at every turn as often


def test_orders_of_validation_are_always_the_same_and_of_the_image() -> None:
    torch.manual_seed(1)
    all_orders = validation_orders(range(300), TOKENS)
    assert torch.equal(all_orders[[7, 290]], validation_orders([7, 290], TOKENS))
    assert len(all_orders.unique(dim=0)) > 100
    assert torch.equal(all_orders[:44], all_orders[256:])


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_a_prior_of_free_order_is_saved_and_loaded(tmp_path: Path, architecture: str) -> None:
    prior = free_prior(architecture=architecture).eval()
    prior.save_pretrained(tmp_path)
    loaded = load_prior(tmp_path).eval()
    assert type(loaded) is type(prior)
    assert loaded.config.token_order == "random"
    ids = torch.randint(prior.config.vocab_size, (2, 2 * TOKENS))
    assert torch.equal(loaded(ids).logits, prior(ids).logits)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"token_order": "annealed"}, "token_order = 'annealed'; valid are raster, random"),
        ({"token_order": 3}, "token_order = 3; valid are raster, random"),
        ({"token_order": "raster"}, r"vocab_size = 20; it must be num_codes \+ num_classes \+ 1"),
        ({"num_tokens": 5}, r"vocab_size = 20; it must be num_codes \+ num_tokens \+ num_classes \+ 1"),
    ],
)
def test_a_folder_of_another_order_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    free_prior().save_pretrained(tmp_path)
    write_json(tmp_path / "config.json", {**read_json(tmp_path / "config.json"), **changes})
    with pytest.raises(InputError, match=message):
        load_prior(tmp_path)


def test_an_unknown_order_is_refused() -> None:
    with pytest.raises(InputError, match="token_order is 'spiral'; valid are raster, random"):
        free_prior(token_order="spiral")
