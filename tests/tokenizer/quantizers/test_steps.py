"""Which forwards belong to an optimizer step, and move codes and statistics."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from codebooks import NAMES, one_codebook
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from wvq.tokenizer import InputError, ResidualQuantizer
from wvq.tokenizer.quantizers.base import Quantizer

STILL = ("vanilla", "linear", "spherical", "fsq")  # nothing moves without an optimizer
MOVING = [name for name in NAMES if name not in (*STILL, "sinkhorn")]


def state(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return all(torch.equal(value, other[name]) for name, value in one.items())


def features(seed: int = 0) -> Tensor:
    return torch.randn(60, 4, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", NAMES)
def test_a_forward_without_gradients_moves_nothing(name: str):
    quantizer = one_codebook(name)
    quantizer.accumulation_steps = 2
    quantizer(features())
    before = state(quantizer)
    for context in (torch.no_grad, torch.inference_mode):
        with context():
            shown = quantizer(features(1))
            quantizer(features(2))
    assert same(state(quantizer), before)
    assert len(quantizer._seen) == 1
    assert torch.equal(shown.loss, quantizer.eval()(features(1)).loss)  # what evaluation mode says


def test_features_without_gradient_count_while_gradients_are_enabled():
    quantizer = one_codebook("ema")  # fitted to fixed features, without an optimizer
    before = state(quantizer)
    quantizer(features())
    assert not same(state(quantizer), before)


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("name", MOVING)
def test_a_forward_that_is_repeated_in_a_backward_pass_is_refused(name: str, reentrant: bool):
    encoder, quantizer = nn.Linear(4, 4), one_codebook(name)
    output: Any = checkpoint(lambda z: quantizer(encoder(z)).quantized, features().requires_grad_(),
                             use_reentrant=reentrant)  # fmt: skip
    before = state(quantizer)
    with pytest.raises(InputError, match="leave the quantizer out of what is checkpointed"):
        output.sum().backward()
    assert same(state(quantizer), before)


@pytest.mark.parametrize(
    ("name", "options"), [("vanilla", {"initialization": "data"}), ("vanilla", {"revival": 0.1}), ("sinkhorn", {})]
)
def test_no_quantizer_that_draws_or_shares_out_codes_can_be_repeated(name: str, options: dict[str, Any]):
    encoder, quantizer = nn.Linear(4, 4), one_codebook(name, **options)
    output: Any = checkpoint(lambda z: quantizer(encoder(z)).quantized, features(), use_reentrant=False)
    with pytest.raises(InputError, match="leave the quantizer out of what is checkpointed"):
        output.sum().backward()


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("name", STILL)
def test_quantizers_that_nothing_moves_can_be_repeated(name: str, reentrant: bool):
    quantizer = one_codebook(name)
    quantizer.accumulation_steps = 2
    gradients = []
    for run in (lambda z: quantizer(z), lambda z: _checkpointed(quantizer, z, reentrant)):
        z = features().requires_grad_()
        quantized, loss = run(z) if isinstance(run(z), tuple) else (run(z).quantized, run(z).loss)
        (quantized.square().sum() + loss).backward()
        gradients.append(z.grad)
    torch.testing.assert_close(*gradients)


def _checkpointed(quantizer: Quantizer, z: Tensor, reentrant: bool) -> Any:
    def forward(vectors: Tensor) -> tuple[Tensor, Tensor]:
        output = quantizer(vectors)
        return output.quantized, output.loss

    return checkpoint(forward, z, use_reentrant=reentrant)


@pytest.mark.parametrize("name", MOVING)
def test_an_encoder_can_be_checkpointed_without_its_quantizer(name: str):
    states = []
    for recompute in (False, True):
        torch.manual_seed(0)
        encoder, quantizer = nn.Linear(4, 4), one_codebook(name)
        made: Any = checkpoint(encoder, features(), use_reentrant=False) if recompute else encoder(features())
        output = quantizer(made)
        (output.quantized.square().sum() + output.loss).backward()
        states.append(state(quantizer) | {"gradient": encoder.weight.grad})
    assert same(*states)


FORGETTING: dict[str, Callable[[Quantizer], Any]] = {
    "abandon_step": lambda quantizer: quantizer.abandon_step(),
    "eval": lambda quantizer: quantizer.eval(),
    "eval of a model": lambda quantizer: nn.Sequential(quantizer).eval(),
    "load_state_dict": lambda quantizer: quantizer.load_state_dict(state(quantizer)),
    "load_state_dict of a model": lambda quantizer: _reload(nn.Sequential(quantizer)),
}


def _reload(model: nn.Module) -> None:
    model.load_state_dict(state(model))


@pytest.mark.parametrize("way", FORGETTING)
@pytest.mark.parametrize("name", MOVING)
def test_an_interrupted_step_does_not_leak_into_the_next(name: str, way: str):
    interrupted, whole = ([torch.manual_seed(0), one_codebook(name)][1] for _ in range(2))
    assert isinstance(interrupted, Quantizer)
    assert isinstance(whole, Quantizer)
    interrupted.accumulation_steps = whole.accumulation_steps = 3
    interrupted(features(7) + 5)
    interrupted(features(8) + 5)
    FORGETTING[way](interrupted)
    for quantizer in (interrupted.train(), whole):
        torch.manual_seed(1)
        for seed in range(3):
            quantizer(features(seed))
    assert same(state(interrupted), state(whole))
    assert not interrupted._seen


def test_train_in_every_micro_batch_forgets_nothing():
    quantizer = one_codebook("ema")
    quantizer.accumulation_steps = 2
    before = state(quantizer)
    for seed in range(2):
        quantizer.train()(features(seed))
    assert not same(state(quantizer), before)


def test_a_composite_abandons_the_step_of_each_of_its_quantizers():
    quantizers = [one_codebook("ema"), one_codebook("wasserstein")]
    composite = ResidualQuantizer(*quantizers)
    composite.accumulation_steps = 2
    composite(features())
    assert [len(quantizer._seen) for quantizer in quantizers] == [1, 1]
    composite.abandon_step()
    assert [quantizer._seen for quantizer in quantizers] == [[], []]
