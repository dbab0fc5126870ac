"""The blocked loss against torch's own on all logits at once."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from wvq.prior import PriorConfig, build_prior, loss
from wvq.prior.code_geometry import CodeGeometry, code_features
from wvq.prior.loss import TokenLoss, linear_cross_entropy
from wvq.prior.sampled_softmax import Sample


@given(
    count=st.integers(1, 20),
    vocabulary=st.integers(1, 30),
    block=st.integers(1, 200),
    smoothing=st.sampled_from([0.0, 0.1, 0.5]),
    seed=st.integers(0, 2**31),
)
@settings(max_examples=60, deadline=None)
def test_loss_and_gradients_equal_those_of_all_logits_at_once(count, vocabulary, block, smoothing, seed):
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(count, 6, generator=generator, requires_grad=True)
    weight = torch.randn(vocabulary, 6, generator=generator, requires_grad=True)
    targets = torch.randint(vocabulary, (count,), generator=generator)
    expected = F.cross_entropy(hidden @ weight.mT, targets, label_smoothing=smoothing)
    expected_gradients = torch.autograd.grad(3 * expected, [hidden, weight])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loss, "_CPU_BLOCK_ENTRIES", block)
        found = linear_cross_entropy(hidden, weight, targets, smoothing)
        gradients = torch.autograd.grad(3 * found, [hidden, weight])
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(gradients, expected_gradients, rtol=1e-4, atol=1e-6)


def test_only_wanted_gradients_are_computed():
    hidden, weight = torch.randn(5, 3), torch.randn(4, 3, requires_grad=True)
    linear_cross_entropy(hidden, weight, torch.tensor([0, 1, 2, 3, 0])).backward()
    assert hidden.grad is None
    assert weight.grad is not None
    assert not linear_cross_entropy(hidden, weight.detach(), torch.tensor([0, 1, 2, 3, 0])).requires_grad


def test_validation_computes_no_gradients(monkeypatch):
    """Two thirds of the time that a validation took: weights ask for gradients where none are recorded, too."""
    hidden, weight, targets = torch.randn(5, 3), nn.Parameter(torch.randn(4, 3)), torch.tensor([0, 1, 2, 3, 0])
    expected = linear_cross_entropy(hidden, weight, targets)
    monkeypatch.setattr(torch.Tensor, "softmax", None)  # of which the gradients by the logits are made
    with torch.no_grad():
        assert linear_cross_entropy(hidden, weight, targets) == expected
    with pytest.raises(TypeError):
        linear_cross_entropy(hidden, weight, targets)


def test_half_precision_is_that_of_autocast():
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(64, 32, generator=generator).bfloat16().requires_grad_()
    weight = torch.randn(50, 32, generator=generator).requires_grad_()
    targets = torch.randint(50, (64,), generator=generator)
    found = linear_cross_entropy(hidden, weight, targets)
    assert found.dtype == torch.float32
    gradients = torch.autograd.grad(found, [hidden, weight])
    assert [g.dtype for g in gradients] == [torch.bfloat16, torch.float32]
    exact = F.cross_entropy(hidden.float() @ weight.mT, targets)
    expected = torch.autograd.grad(exact, [hidden, weight])
    torch.testing.assert_close(found, exact, rtol=1e-2, atol=0)
    for gradient, reference in zip(gradients, expected, strict=True):
        assert (gradient.float() - reference.float()).norm() < 0.02 * reference.float().norm()


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_gradients_of_a_prior_are_those_of_its_own_logits(architecture, tied):
    torch.manual_seed(0)
    config = PriorConfig(
        architecture=architecture, hidden_size=32, num_layers=2, num_heads=2, num_codes=10, num_tokens=6,
        num_classes=3, tie_embeddings=tied,
    )  # fmt: skip
    prior: Any = build_prior(config)
    codes, labels = torch.randint(10, (4, 6)), torch.tensor([0, 1, 2, 3])
    logits = prior(input_ids=torch.cat([labels[:, None] + 10, codes[:, :-1]], dim=1), use_cache=False).logits
    expected = F.cross_entropy(logits.flatten(0, 1), codes.flatten(), label_smoothing=0.1)
    parameters = list(prior.parameters())
    expected_gradients = torch.autograd.grad(expected, parameters)
    found = TokenLoss(prior, 10, label_smoothing=0.1).train()(codes, labels)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(torch.autograd.grad(found, parameters), expected_gradients, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("with_geometry", [False, True])
@pytest.mark.parametrize("token_order", ["raster", "random"])
def test_a_prior_with_a_sample_of_all_ids_has_the_loss_and_gradients_of_all(token_order, with_geometry):
    torch.manual_seed(0)
    config = PriorConfig(
        hidden_size=32, num_layers=2, num_heads=2, num_codes=10, num_tokens=6, num_classes=3, token_order=token_order
    )
    prior = build_prior(config)
    geometry = CodeGeometry(code_features(torch.randn(10, 4), count=8), prior) if with_geometry else None
    if geometry is not None:
        nn.init.normal_(geometry.output_map)
    model = TokenLoss(prior, 10, geometry=geometry)
    codes, labels = torch.randint(10, (4, 6)), torch.tensor([0, 1, 2, 3])
    parameters, ids = list(model.parameters()), torch.randperm(prior.config.vocab_size)
    losses = [model(codes, labels), model(codes, labels, sample=Sample(ids, torch.zeros(len(ids))))]
    torch.testing.assert_close(*losses)
    gradients = [torch.autograd.grad(loss, parameters) for loss in losses]
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-6)
