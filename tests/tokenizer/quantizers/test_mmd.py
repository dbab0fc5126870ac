"""MMD against the formula written out in float64."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from wvq.tokenizer import MMDQuantizer, maximum_mean_discrepancy


def written_out(x: np.ndarray, y: np.ndarray) -> float:
    """arXiv 2506.15078: d = |a - b|^2 / sqrt(D), b the mean d over the pooled points, exp(-d/b) + exp(-d/2b)."""

    def distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return ((a[:, None] - b[None]) ** 2).sum(-1) / np.sqrt(a.shape[1])

    pooled = np.concatenate([x, y])
    bandwidth = distances(pooled, pooled).mean()

    def kernel(a: np.ndarray, b: np.ndarray) -> float:
        d = distances(a, b)
        return (np.exp(-d / bandwidth) + np.exp(-d / (2 * bandwidth))).mean()

    return kernel(x, x) - 2 * kernel(x, y) + kernel(y, y)


@settings(deadline=None, max_examples=30)
@given(
    n=st.integers(2, 40), m=st.integers(2, 40), dim=st.integers(1, 9), shift=st.floats(-5, 5), seed=st.integers(0, 99)
)
def test_equals_the_formula(n: int, m: int, dim: int, shift: float, seed: int):
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(n, dim)) * 2, rng.normal(size=(m, dim)) + shift
    value = maximum_mean_discrepancy(torch.from_numpy(x), torch.from_numpy(y))
    np.testing.assert_allclose(value.item(), written_out(x, y), rtol=1e-9, atol=1e-12)


def test_of_equal_sets_is_zero_and_its_gradient_finite():
    x = torch.randn(50, 4)
    y = x.clone().requires_grad_()
    value = maximum_mean_discrepancy(x, y)
    value.backward()
    assert abs(value.item()) < 1e-6
    assert y.grad is not None
    assert y.grad.abs().max() < 1e-6


def test_of_a_single_point_is_finite():
    y = torch.ones(5, 3, requires_grad=True)
    maximum_mean_discrepancy(torch.ones(5, 3), y).backward()
    assert y.grad is not None
    assert y.grad.isfinite().all()


def test_gradient_pulls_the_codes_to_the_features():
    torch.manual_seed(0)
    x, y = torch.randn(300, 2) + 3, torch.randn(100, 2).requires_grad_()
    maximum_mean_discrepancy(x, y).backward()
    assert y.grad is not None
    assert (y.grad.mean(dim=0) < 0).all()


@pytest.mark.parametrize("steps", [1, 8])
def test_large_sets_are_thinned_to_others_in_every_step(steps: int):
    quantizer = MMDQuantizer(
        codebook_size=64, codebook_dim=2, initialization="normal", max_points=8, codebook_weight=0, init_std=1.0
    )
    touched = torch.zeros(64, dtype=torch.bool)
    for _ in range(steps):
        quantizer.weight.grad = None
        quantizer(torch.randn(100, 2)).loss.backward()
        assert quantizer.weight.grad is not None
        touched |= quantizer.weight.grad.abs().sum(dim=1) > 0
    assert touched.sum() == 8 * steps
