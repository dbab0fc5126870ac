"""torch.compile takes a tokenizer and a prior as one graph each, which computes what they do."""

from typing import Any

import pytest
import torch
from codebooks import NAMES
from tiny_pipelines import tiny_prior, tiny_tokenizer

from wvq.prior.loss import TokenLoss

CASES: dict[str, dict[str, Any]] = {
    **{name: {} for name in NAMES if name != "transport"},
    "wasserstein, transport": {"alignment": "transport", "decay": 0.9},
    "vanilla, rotation": {"gradient_estimator": "rotation"},
    "product": {"quantizer": "ema"},
    "residual": {"quantizer": "wasserstein"},
}
SHOWN = (("wasserstein", False), ("wasserstein, transport", True))  # each takes seconds
EACH = [
    pytest.param(case, training, marks=[] if (case, training) in SHOWN else [pytest.mark.slow])
    for case in CASES
    for training in (False, True)
]


@pytest.fixture(autouse=True)
def nothing_compiled() -> None:
    torch._dynamo.reset()


@pytest.mark.parametrize(("case", "training"), EACH)
def test_a_tokenizer_is_one_graph(case: str, training: bool):
    starts = {} if case in ("fsq", "gaussian") else {"initialization": "normal"}
    options = {"quantizer": case.split(",")[0], "quantizer_options": starts | CASES[case]}
    plain, other = (tiny_tokenizer(**options).train(training) for _ in range(2))
    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    compiled: Any = torch.compile(other, fullgraph=True, backend="eager")
    with torch.set_grad_enabled(training):
        expected, found = plain(images), compiled(images)
    torch.testing.assert_close(found.reconstructions, expected.reconstructions)
    assert torch.equal(found.quantizer.indices, expected.quantizer.indices)
    if training:
        for output in (expected, found):
            (output.reconstructions.square().mean() + output.quantizer.loss).backward()
    for (name, value), other_value in zip(plain.state_dict().items(), other.state_dict().values(), strict=True):
        torch.testing.assert_close(other_value, value, msg=lambda text, n=name: f"{n}: {text}")
    for (name, one), two in zip(plain.named_parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(two.grad, one.grad, msg=lambda text, n=name: f"gradient of {n}: {text}")


def test_a_tokenizer_is_one_graph_once_its_codes_are_drawn_from_data():
    images = torch.rand(8, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    options: Any = {"quantizer": "vanilla", "quantizer_options": {"initialization": "data"}}
    plain, other = (tiny_tokenizer(**options).train() for _ in range(2))
    for tokenizer in (plain, other):
        tokenizer(images)
    compiled: Any = torch.compile(other, fullgraph=True, backend="eager")
    assert torch.equal(compiled(images).quantizer.indices, plain(images).quantizer.indices)
    assert not plain.quantizer.waiting


def test_compiled_features_that_are_not_finite_move_nothing():
    tokenizer = tiny_tokenizer(quantizer="ema", quantizer_options={"initialization": "normal"}).train()
    compiled: Any = torch.compile(tokenizer, fullgraph=True, backend="eager")
    before = {name: value.clone() for name, value in tokenizer.state_dict().items()}
    assert compiled(torch.full((2, 3, 16, 16), float("nan"))).quantizer.loss.isnan()
    assert all(torch.equal(value, before[name]) for name, value in tokenizer.state_dict().items())


@pytest.mark.parametrize(("training", "smoothing"), [(True, 0.1), pytest.param(False, 0.0, marks=pytest.mark.slow)])
def test_a_prior_is_one_graph(training: bool, smoothing: float):
    plain, other = (TokenLoss(tiny_prior(), 32, smoothing).train(training) for _ in range(2))
    codes = torch.randint(32, (3, 16), generator=torch.Generator().manual_seed(0))
    compiled: Any = torch.compile(other, fullgraph=True, backend="eager")
    losses = [model(codes, torch.arange(3)) for model in (plain, compiled)]
    torch.testing.assert_close(losses[1], losses[0])
    for loss in losses:
        loss.backward()
    for one, two in zip(plain.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(two.grad, one.grad)
