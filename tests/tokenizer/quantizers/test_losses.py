"""What each loss term moves, and nothing else."""

from typing import Any

import pytest
import torch
from codebooks import NAMES, PLAIN, one_codebook
from torch import Tensor

from wvq.tokenizer import LinearQuantizer, maximum_mean_discrepancy
from wvq.tokenizer.quantizers.registry import quantizer_options

LEARNT = ("vanilla", "online", "sinkhorn", "wasserstein", "mmd", "transport")  # codes that are parameters themselves
WEIGHTS = {
    "commitment_loss": "commitment_weight",
    "codebook_loss": "codebook_weight",
    "wasserstein_distance": "wasserstein_weight",
    "mmd": "mmd_weight",
}
REPORTED = {"transport": {"wasserstein_distance"}}  # terms that are no part of the loss


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def gradient(tensor: Tensor) -> Tensor:
    return torch.zeros_like(tensor) if tensor.grad is None else tensor.grad


def with_weight(name: str, **weight: float) -> Any:
    """A quantizer whose loss is this term alone."""
    options: dict[str, Any] = {option: 0.0 for option in quantizer_options(name) if option.endswith("_weight")}
    return one_codebook(name, **{"init_std": 1.0, **options, **weight})


@pytest.mark.parametrize("name", PLAIN)
def test_gradient_passes_straight_through(name: str):
    quantizer = one_codebook(name, init_std=1.0)
    z, downstream = torch.randn(3, 4, 5, 5, requires_grad=True), torch.randn(3, 4, 5, 5)
    (quantizer(z).quantized * downstream).sum().backward()
    assert torch.equal(gradient(z), downstream)
    assert not any(gradient(parameter).any() for parameter in quantizer.parameters())


@pytest.mark.parametrize("name", PLAIN)
def test_commitment_moves_only_the_vectors(name: str):
    quantizer = with_weight(name, commitment_weight=3.0)
    z = torch.randn(20, 4, requires_grad=True)
    codes = quantizer.codebook.detach().clone()
    output = quantizer(z)
    output.loss.backward()
    difference = z - codes[output.indices]
    torch.testing.assert_close(output.terms["commitment_loss"], difference.square().mean())
    torch.testing.assert_close(gradient(z), 3 * 2 * difference.detach() / z.numel())
    assert not any(gradient(parameter).any() for parameter in quantizer.parameters())


@pytest.mark.parametrize("name", LEARNT)
def test_codebook_loss_moves_only_the_codes(name: str):
    quantizer = with_weight(name, codebook_weight=2.0)
    z = torch.randn(20, 4, requires_grad=True)
    codes = quantizer.codebook.detach().clone()
    output = quantizer(z)
    output.loss.backward()
    expected = torch.zeros(16, 4).index_add_(0, output.indices, 2 * 2 * (codes[output.indices] - z).detach() / 80)
    torch.testing.assert_close(gradient(quantizer.weight), expected)
    assert not gradient(z).any()


def test_linear_codebook_loss_moves_only_the_map():
    quantizer = LinearQuantizer(
        codebook_size=16, codebook_dim=4, initialization="normal", commitment_weight=0, codebook_weight=2.0
    )
    z = torch.randn(20, 4, requires_grad=True)
    output = quantizer(z)
    output.loss.backward()
    error = 2 * 2 * (quantizer.codebook[output.indices] - z).detach() / 80
    torch.testing.assert_close(quantizer.map.weight.grad, error.T @ quantizer.weight[output.indices])
    torch.testing.assert_close(quantizer.map.bias.grad, error.sum(dim=0))
    assert quantizer.weight.grad is None
    assert not gradient(z).any()


def test_mmd_loss_moves_every_code_and_nothing_else():
    quantizer = with_weight("mmd", mmd_weight=0.25)
    z = torch.randn(200, 4, requires_grad=True)
    output = quantizer(z)
    output.loss.backward()
    codes = quantizer.codebook.detach().clone().requires_grad_()
    discrepancy = maximum_mean_discrepancy(z.detach(), codes)
    (0.25 * discrepancy).backward()
    torch.testing.assert_close(output.terms["mmd"], discrepancy.detach())
    torch.testing.assert_close(gradient(quantizer.weight), gradient(codes))
    assert (gradient(quantizer.weight).norm(dim=1) > 0).all()
    assert not gradient(z).any()


@pytest.mark.parametrize("name", NAMES)
def test_loss_is_the_weighted_sum_of_the_terms(name: str):
    quantizer = one_codebook(name)
    output = quantizer(torch.randn(50, 4, requires_grad=True))
    counted = output.terms.keys() - REPORTED.get(name, set())
    total = sum(getattr(quantizer, WEIGHTS[term]) * output.terms[term] for term in counted)
    torch.testing.assert_close(output.loss, torch.as_tensor(total, dtype=torch.float32))
    assert output.loss.requires_grad == bool(output.terms)
    assert not any(value.requires_grad for value in output.terms.values())
