"""What is particular to the spherical, the finite scalar, the fixed Gaussian and the Sinkhorn quantizer."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from wvq.tokenizer import FSQuantizer, GaussianQuantizer, SinkhornQuantizer, SphericalQuantizer, nearest_codes
from wvq.tokenizer.quantizers.baselines.fsq import levels_of
from wvq.tokenizer.quantizers.baselines.sinkhorn import balanced_codes
from wvq.tokenizer.quantizers.gaussian import mean_and_covariance


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


# Spherical


def test_spherical_takes_the_code_of_the_largest_cosine_and_knows_no_length():
    quantizer, z = SphericalQuantizer(codebook_size=32, codebook_dim=4, initialization="normal"), torch.randn(50, 4)
    cosine = F.cosine_similarity(z[:, None], quantizer.weight, dim=2)
    output = quantizer(z)
    assert torch.equal(output.indices, cosine.argmax(dim=1))
    torch.testing.assert_close(output.quantized.norm(dim=1), torch.ones(50))
    # |a - b|^2 = 2 - 2 cos(a, b), as a mean over 4 coordinates.
    torch.testing.assert_close(output.terms["commitment_loss"], (2 - 2 * cosine.amax(dim=1)).mean() / 4)
    longer = quantizer(z * 10)
    assert torch.equal(longer.indices, output.indices)
    torch.testing.assert_close(longer.loss, output.loss)


def test_gradient_of_a_spherical_vector_is_across_it():
    quantizer, z = (
        SphericalQuantizer(codebook_size=32, codebook_dim=4, initialization="normal"),
        torch.randn(50, 4, requires_grad=True),
    )
    (quantizer(z).quantized * torch.randn(50, 4)).sum().backward()
    assert z.grad is not None
    torch.testing.assert_close((z.grad * z).sum(dim=1), torch.zeros(50), atol=1e-6, rtol=0)


# Finite scalars


@pytest.mark.parametrize(
    ("size", "levels"),
    [  # first the paper's table 1
        (240, [8, 6, 5]), (1000, [8, 5, 5, 5]), (4375, [7, 5, 5, 5, 5]), (15_360, [8, 8, 8, 6, 5]),
        (64_000, [8, 8, 8, 5, 5, 5]), (16_384, [8, 8, 8, 8, 4]), (1024, [8, 8, 4, 4]), (16, [4, 4]), (8, [8]),
    ],
)  # fmt: skip
def test_levels_that_are_derived(size: int, levels: list[int]):
    assert levels_of(size) == levels


@settings(deadline=None, max_examples=20)
@given(levels=st.lists(st.integers(2, 7), min_size=1, max_size=4))
def test_every_code_of_a_grid_is_its_own_and_is_reached(levels: list[int]):
    size = math.prod(levels)
    quantizer = FSQuantizer(codebook_size=size, codebook_dim=len(levels), levels=levels)
    assert len(quantizer.codebook.unique(dim=0)) == size
    for dim, count in enumerate(levels):
        assert len(quantizer.codebook[:, dim].unique()) == count
    half = (torch.tensor(levels) - 1) / 2 + 1e-3
    offset = (torch.tensor(levels) % 2 == 0) / 2
    inner = quantizer.codebook * (torch.tensor(levels) // 2)  # back through the bound
    z = torch.atanh((inner + offset) / half) - torch.atanh(offset / half)
    output = quantizer(z)
    assert torch.equal(output.indices, torch.arange(size))
    torch.testing.assert_close(output.quantized, quantizer.codebook)


def test_scalars_are_rounded_to_the_nearest_level():
    """Of an odd number of levels: the bound is 2 tanh, to a thousandth."""
    quantizer = FSQuantizer(codebook_size=125, codebook_dim=3, levels=[5, 5, 5])
    z = torch.randn(200, 3)
    torch.testing.assert_close(quantizer(z).quantized, (2.001 * z.tanh()).round() / 2)
    assert not list(quantizer.parameters())


def test_scalars_behind_linear_maps_learn_from_the_reconstruction_alone():
    quantizer, z = FSQuantizer(codebook_size=64, codebook_dim=6), torch.randn(50, 6, requires_grad=True)
    output = quantizer(z)
    assert output.loss == 0
    assert not output.terms
    output.quantized.square().sum().backward()
    parameters = list(quantizer.parameters())
    assert len(parameters) == 4
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in [*parameters, z])
    torch.testing.assert_close(output.quantized, quantizer.lookup(output.indices))


# A fixed Gaussian codebook


def test_gaussian_codes_have_the_moments_of_the_features_and_are_never_trained():
    quantizer = GaussianQuantizer(codebook_size=4096, codebook_dim=4, statistics_window=1)
    z = torch.randn(3000, 4) @ torch.randn(4, 4) + 10
    drawn = quantizer.codebook.clone()
    quantizer(z)
    mean, covariance = mean_and_covariance(z)
    codes = mean_and_covariance(quantizer.codebook)
    torch.testing.assert_close(codes[0], mean, atol=0.2, rtol=0)
    torch.testing.assert_close(codes[1], covariance, atol=0.1 * float(covariance.diagonal().max()), rtol=0)
    assert torch.equal(quantizer.white_codes, drawn)
    assert not list(quantizer.parameters())


def test_gaussian_codes_are_chosen_where_features_are_white():
    quantizer = GaussianQuantizer(codebook_size=64, codebook_dim=2, statistics_window=1)
    white = torch.randn(500, 2)
    scales = torch.tensor([100.0, 0.01])
    quantizer(white * scales + 5)
    output = quantizer.eval()(white * scales + 5)
    mean, covariance = mean_and_covariance(white)
    eigenvalues, axes = torch.linalg.eigh(covariance)
    own = (white.double() - mean) @ (axes / eigenvalues.sqrt()) @ axes.mT
    same = output.indices == nearest_codes(own.float(), quantizer.white_codes)
    assert same.float().mean() > 0.8  # the root of a product of scales is no product of roots, but nearly so


def test_features_without_variance_get_a_code():
    quantizer = GaussianQuantizer(codebook_size=16, codebook_dim=3)
    quantizer(torch.ones(20, 3))
    output = quantizer(torch.ones(20, 3))
    assert output.quantized.isfinite().all()
    assert output.loss.isfinite()


# Sinkhorn


def balance(vectors: Tensor, codes: Tensor) -> Tensor:
    """The whole matrix in float64, as the iterations are written down."""
    cost = torch.cdist(vectors.double(), codes.double())
    cost = (cost - cost.mean()) / cost.std(correction=0)
    plan = (-10 * cost).exp()
    for _ in range(5):
        plan = plan / plan.sum(dim=0, keepdim=True) / len(codes)
        plan = plan / plan.sum(dim=1, keepdim=True) / len(vectors)
    return plan.argmax(dim=1)


def test_assignment_is_that_of_the_plan():
    vectors, codes = torch.randn(300, 4), torch.randn(40, 4) * 0.5 + 1
    assert torch.equal(balanced_codes(vectors, codes, 0.1, 5), balance(vectors, codes))


def test_codes_far_from_all_vectors_are_used_in_training():
    quantizer = SinkhornQuantizer(codebook_size=32, codebook_dim=4, initialization="normal", init_std=1.0)
    z = torch.randn(4096, 4) + 3  # the codes lie around 0
    nearest, shared = (quantizer.train(mode)(z).indices.unique() for mode in (False, True))
    assert len(nearest) < len(shared) - 3


@pytest.mark.parametrize("scale", [1e-20, 1e10])
def test_an_outlier_or_another_scale_breaks_no_plan(scale: float):
    vectors, codes = torch.randn(500, 3) * scale, torch.randn(16, 3) * scale
    vectors[0] = codes[5] * 1000
    indices = balanced_codes(vectors, codes, 0.1, 5)
    assert 0 <= indices.min() <= indices.max() < 16
    assert len(indices.unique()) > 4
