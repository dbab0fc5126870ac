"""How codes follow their vectors, and how gradients pass them."""

import pytest
import torch
import torch.nn.functional as F
from codebooks import TABLES, one_codebook
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from wvq.tokenizer import EMAQuantizer, OnlineQuantizer, nearest_codes
from wvq.tokenizer.quantizers.baselines.online import nearest_vectors
from wvq.tokenizer.quantizers.gradient import rotation_trick, straight_through


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


# Moving averages


def test_moving_averages_are_those_of_the_paper():
    """e = m / N with N and m averaged from 0 on, for a code that is used."""
    quantizer = EMAQuantizer(codebook_size=2, codebook_dim=1, initialization="normal", init_std=1.0, decay=0.9)
    quantizer.weight.data = torch.tensor([[0.0], [100.0]])
    counts, sums = torch.zeros(2), torch.zeros(2)
    for _ in range(20):
        z = torch.cat([torch.randn(5), torch.randn(3) + 100])
        quantizer(z[:, None])
        counts = 0.9 * counts + 0.1 * torch.tensor([5.0, 3.0])
        sums = 0.9 * sums + 0.1 * torch.tensor([z[:5].sum(), z[5:].sum()])
        torch.testing.assert_close(quantizer.codebook[:, 0], sums / counts)


def test_unused_codes_stay_where_they_are():
    quantizer = EMAQuantizer(codebook_size=3, codebook_dim=2, initialization="normal", decay=0.5)
    quantizer.weight.data = torch.tensor([[0.0, 0.0], [50.0, 0.0], [0.0, 50.0]])
    for _ in range(2000):  # long enough that a moving average of counts underflows
        quantizer(torch.randn(4, 2))
    assert torch.equal(quantizer.codebook[1:], torch.tensor([[50.0, 0.0], [0.0, 50.0]]))
    quantizer(torch.tensor([[49.0, 1.0], [49.0, 1.0]]))
    torch.testing.assert_close(quantizer.codebook[1], torch.tensor([49.0, 1.0]))


def test_decay_zero_is_a_step_of_k_means():
    quantizer = EMAQuantizer(codebook_size=8, codebook_dim=2, initialization="normal", init_std=1.0, decay=0)
    z = torch.randn(100, 2)
    indices = nearest_codes(z, quantizer.codebook)
    expected = torch.stack([z[indices == k].mean(dim=0) for k in indices.unique()])
    quantizer(z)
    torch.testing.assert_close(quantizer.codebook[indices.unique()], expected)


# Online clustering


def test_dead_codes_jump_to_their_nearest_vector():
    quantizer = OnlineQuantizer(codebook_size=3, codebook_dim=1, initialization="normal", decay=0.9)
    quantizer.weight.data = torch.tensor([[0.0], [50.0], [-9.0]])
    quantizer(torch.tensor([[0.1], [-0.2], [0.4]]))
    # Code 0 has every vector and stays; the others go to the vector nearest to each, not the farthest.
    torch.testing.assert_close(quantizer.codebook[:, 0], torch.tensor([0.0, 0.4, -0.2]), atol=0.06, rtol=0)
    assert quantizer.codebook[0, 0] == 0


def test_nearest_vectors_equal_brute_force():
    codes, vectors = torch.randn(30, 4), torch.randn(200, 4)
    assert torch.equal(nearest_vectors(codes, vectors), vectors[torch.cdist(codes, vectors).argmin(dim=1)])


# Gradient estimators


def vectors_and_codes(seed: int, dim: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    z, q = (torch.randn(20, dim, generator=generator, dtype=torch.float64) for _ in range(2))
    return z.requires_grad_(), q


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 1000), dim=st.integers(2, 16))
def test_rotation_keeps_angles_and_scales_lengths(seed: int, dim: int):
    """The gradient is |q| / |z| R^T g: its angle to z is that of g to q, its length |q| / |z| times that of g."""
    z, q = vectors_and_codes(seed, dim)
    g = torch.randn(20, dim, generator=torch.Generator().manual_seed(seed + 1), dtype=torch.float64)
    output = rotation_trick(z, q)
    torch.testing.assert_close(output, q, atol=1e-15, rtol=1e-15)
    (passed,) = torch.autograd.grad((output * g).sum(), z)
    ratio = q.norm(dim=1) / z.norm(dim=1)
    torch.testing.assert_close(passed.norm(dim=1), ratio * g.norm(dim=1))
    cosine = torch.nn.functional.cosine_similarity
    torch.testing.assert_close(cosine(passed, z, dim=1), cosine(g, q, dim=1))


@pytest.mark.parametrize("length", [0.0, 1e-38, 1e-12, 1e-6])
def test_vectors_much_shorter_than_their_codes_pass_the_gradient_straight_through(length: float):
    z = (F.normalize(torch.randn(3, 4), dim=1) * length).requires_grad_()
    g, codes = torch.randn(3, 4), torch.randn(3, 4) * 3
    output = rotation_trick(z, codes)
    assert torch.equal(output, codes)
    (passed,) = torch.autograd.grad((output * g).sum(), z)
    assert torch.equal(passed, g)


@settings(deadline=None, max_examples=30)
@given(power=st.floats(-45, 18), code_power=st.floats(-45, 18))
def test_rotation_is_finite_and_scales_by_a_thousand_at_most(power: float, code_power: float):
    z = (torch.randn(5, 4) * 10**power).requires_grad_()
    (passed,) = torch.autograd.grad(rotation_trick(z, torch.randn(5, 4) * 10**code_power).sum(), z)
    assert passed.norm(dim=1).max() <= 1001 * 2  # the gradient of the sum is all ones, of length 2


def test_straight_through_is_the_identity_for_the_gradient():
    z, q = vectors_and_codes(0, 4)
    (passed,) = torch.autograd.grad(straight_through(z, q).square().sum(), z)
    torch.testing.assert_close(passed, 2 * q)


@pytest.mark.parametrize("name", TABLES)
def test_every_quantizer_of_a_table_takes_the_rotation(name: str):
    quantizer = one_codebook(name, init_std=1.0, gradient_estimator="rotation").eval()
    z = torch.randn(10, 4, requires_grad=True)
    output = quantizer(z)
    torch.testing.assert_close(output.quantized, quantizer.lookup(output.indices))
    expected = rotation_trick(quantizer.project(z), quantizer.lookup(output.indices).detach())
    (passed,) = torch.autograd.grad(output.quantized.pow(3).sum(), z, retain_graph=True)
    torch.testing.assert_close(passed, torch.autograd.grad(expected.pow(3).sum(), z)[0])
