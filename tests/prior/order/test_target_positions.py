"""A GPT-2 that is trained in random orders that anneal to raster, and the plain one that it is saved as."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from wvq.pipelines.train_prior import PriorTraining
from wvq.pipelines.training.sharding import whole_model
from wvq.prior import PriorConfig, PriorSize, build_prior
from wvq.prior.loss import TokenLoss
from wvq.prior.order.sequences import training_orders
from wvq.prior.order.target_positions import TargetPositions
from wvq.tokenizer import InputError

CODES, TOKENS, CLASSES = 10, 6, 3
GPT2 = PriorSize(architecture="gpt2")


def annealed_loss(learnt: bool = True) -> TokenLoss:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    counts = {"num_codes": CODES, "num_tokens": TOKENS, "num_classes": CLASSES}
    prior = build_prior(PriorConfig(architecture="gpt2", hidden_size=32, num_layers=2, num_heads=2, **counts))
    targets = TargetPositions(prior)
    if learnt:
        torch.nn.init.normal_(targets.table)
    return TokenLoss(prior, CODES, target_positions=targets).eval()


def test_a_folded_prior_is_a_plain_one_of_the_same_logits() -> None:
    model, codes, labels = annealed_loss(), torch.randint(CODES, (4, TOKENS)), torch.arange(4)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    folded = whole_model(model).eval()
    assert folded.target_positions is None
    prior: Any = folded.prior
    assert type(prior) is type(model.prior)
    assert prior.config.to_dict() == model.prior.config.to_dict()
    torch.testing.assert_close(folded(codes, labels), model(codes, labels), rtol=1e-6, atol=0)
    hidden: list[torch.Tensor] = []
    body: Any = model.prior.base_model
    handle = body.register_forward_hook(lambda module, inputs, output: hidden.append(output.last_hidden_state))
    model(codes, labels)
    handle.remove()
    ids = torch.cat([labels[:, None] + CODES, codes[:, :-1]], dim=1)
    torch.testing.assert_close(prior(ids).logits, hidden[0] @ prior.lm_head.weight.mT, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(prior(ids).logits, model.prior(ids).logits, atol=0.1)
    after = model.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_each_code_knows_its_own_position_and_the_next_one() -> None:
    """In any order: as if each code and its position were one token, and the position that comes next another."""
    model, codes, labels = annealed_loss(), torch.randint(CODES, (4, TOKENS)), torch.arange(4)
    orders = training_orders(0, 0, 4, TOKENS, 1.0)
    assert orders is not None
    prior: Any = model.prior
    tables, targets = prior.transformer, model.target_positions
    assert targets is not None
    shuffled = codes.gather(1, orders)
    inputs = torch.cat([labels[:, None] + CODES, shuffled[:, :-1]], dim=1)
    own = torch.cat([torch.zeros(4, 1, dtype=torch.int64), orders[:, :-1] + 1], dim=1)
    # GPT-2 adds positions 0, 1, ...: they are taken away here.
    added = tables.wpe.weight[own] - tables.wpe.weight[:TOKENS] + targets.table[orders]
    logits = prior(inputs_embeds=tables.wte(inputs) + added, use_cache=False).logits
    expected = F.cross_entropy(logits.flatten(0, 1), shuffled.flatten())
    torch.testing.assert_close(model(codes, labels, orders), expected)
    assert not torch.allclose(model(codes, labels), expected, rtol=0, atol=1e-5)


def test_training_begins_as_without_targets_and_reaches_all_of_them() -> None:
    model, codes, labels = annealed_loss(learnt=False), torch.randint(CODES, (4, TOKENS)), torch.arange(4)
    assert torch.equal(model(codes, labels), TokenLoss(model.prior, CODES)(codes, labels))
    model(codes, labels, training_orders(0, 0, 4, TOKENS, 1.0)).backward()
    assert model.target_positions is not None
    gradient = model.target_positions.table.grad
    assert gradient is not None
    assert (gradient.abs().sum(dim=1) > 0).all()


def test_random_orders_give_way_to_raster_between_two_shares_of_the_training() -> None:
    config = PriorTraining(order="annealed", model=GPT2, steps=100, annealing=(0.2, 0.6))
    shares = [config.random_share(step) for step in (0, 20, 30, 40, 59, 60, 99)]
    assert shares == pytest.approx([1, 1, 0.75, 0.5, 0.025, 0, 0])
    at_once = PriorTraining(order="annealed", model=GPT2, steps=100, annealing=(0.5, 0.5))
    assert [at_once.random_share(step) for step in (0, 49, 50, 99)] == [1, 1, 0, 0]
    assert {PriorTraining(order="random").random_share(step) for step in (0, 99_999)} == {1.0}
    assert {PriorTraining().random_share(step) for step in (0, 99_999)} == {0.0}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"order": "annealed"}, "order is 'annealed' with model.architecture 'llama'; only gpt2 has learnt positions"),
        ({"annealing": (0.7, 0.6)}, r"annealing is \(0.7, 0.6\); valid are 0 <= first <= last <= 1"),
        ({"annealing": (-0.1, 0.6)}, r"annealing is \(-0.1, 0.6\)"),
    ],
)
def test_what_cannot_be_annealed_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        PriorTraining(**changes)
