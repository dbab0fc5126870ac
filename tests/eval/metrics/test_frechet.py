"""The Fréchet distance of Gaussians against scipy and closed forms."""

import time

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from wvq.eval.metrics.frechet import covariance_factor, frechet_distance, mean_and_factor, nuclear_norm
from wvq.tokenizer.quantizers.gaussian import gaussian_wasserstein_distance, mean_and_covariance


def vectors(count: int, dim: int, seed: int, decades: float = 2.0, rank: int | None = None) -> Tensor:
    """Rows (count, dim) of a Gaussian with a spectrum that falls by so many decades, and of this rank at most."""
    generator = torch.Generator().manual_seed(seed)
    rank = rank or dim
    scales = torch.logspace(0, -decades, rank, dtype=torch.float64)
    basis = torch.linalg.qr(torch.randn(dim, dim, dtype=torch.float64, generator=torch.Generator().manual_seed(9)))[0]
    return torch.randn(count, rank, dtype=torch.float64, generator=generator) * scales @ basis[:rank] + 0.01 * seed


def by_scipy(a: Tensor, b: Tensor) -> float:
    """From sqrtm of the product, where that has its digits: covariances of full rank."""
    (mean_a, cov_a), (mean_b, cov_b) = mean_and_covariance(a), mean_and_covariance(b)
    root = np.real(np.asarray(scipy.linalg.sqrtm(cov_a.numpy() @ cov_b.numpy())))
    return float((mean_a - mean_b).square().sum() + cov_a.trace() + cov_b.trace()) - 2 * float(np.trace(root))


def distance(a: Tensor, b: Tensor) -> float:
    (mean_a, cov_a), (mean_b, cov_b) = mean_and_covariance(a), mean_and_covariance(b)
    return float(frechet_distance(mean_a, covariance_factor(cov_a), mean_b, covariance_factor(cov_b)))


@pytest.mark.parametrize(
    ("count_a", "count_b", "decades", "rank"),
    [
        (500, 700, 0.0, None),
        (500, 700, 2.0, None),
        (500, 700, 5.0, None),
        (40, 50, 2.0, None),  # both with fewer vectors than dimensions
        (40, 700, 2.0, None),
        (500, 700, 1.0, 20),  # rank-deficient
        (100, 101, 1.0, None),
    ],
)
def test_equals_scipy_and_the_eigen_decomposition(count_a: int, count_b: int, decades: float, rank: int | None) -> None:
    a, b = vectors(count_a, 100, 1, decades, rank), 2 * vectors(count_b, 100, 2, decades, rank)
    (mean_a, cov_a), (mean_b, cov_b) = mean_and_covariance(a), mean_and_covariance(b)
    assert distance(a, b) == pytest.approx(by_scipy(a, b), rel=1e-6)
    assert distance(a, b) == pytest.approx(
        float(gaussian_wasserstein_distance(mean_a, cov_a, mean_b, cov_b)) ** 2, rel=1e-9
    )
    assert float(frechet_distance(*mean_and_factor(a), *mean_and_factor(b))) == pytest.approx(distance(a, b), rel=1e-7)


@pytest.mark.parametrize("count", [30, 100, 1000])
@pytest.mark.parametrize("decades", [0.0, 3.0, 6.0])
def test_a_set_is_at_distance_zero_from_itself(count: int, decades: float) -> None:
    a = 100 * vectors(count, 100, 1, decades)
    assert 0 <= distance(a, a) < 1e-6
    assert 0 <= distance(a, a[torch.randperm(count, generator=torch.Generator().manual_seed(0))]) < 1e-6


def test_collapsed_sets_have_the_distance_of_their_means() -> None:
    a, b = torch.full((5, 3), 1.0), torch.full((9, 3), 3.0)
    assert distance(a, b) == pytest.approx(12)
    assert distance(a, a) == 0


SCALES = st.floats(1e-6, 1e3) | st.just(0.0)  # the squares of still smaller ones are not told from 0 in float64


@settings(deadline=None, max_examples=50)
@given(
    scales=st.lists(st.tuples(SCALES, SCALES), min_size=1, max_size=6),
    shift=st.floats(-1e3, 1e3),
)
def test_equals_the_closed_form_of_commuting_covariances(scales: list[tuple[float, float]], shift: float) -> None:
    a, b = torch.tensor(scales, dtype=torch.float64).unbind(dim=1)
    rotation = torch.linalg.qr(
        torch.randn(len(a), len(a), dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    )[0]
    factors = [covariance_factor(rotation @ torch.diag(x.square()) @ rotation.mT) for x in (a, b)]
    mean = torch.zeros(len(a), dtype=torch.float64)
    expected = float((a - b).square().sum()) + len(a) * shift**2
    size = float(a.square().sum() + b.square().sum()) + len(a) * shift**2
    assert float(frechet_distance(mean, factors[0], mean + shift, factors[1])) == pytest.approx(
        expected, abs=1e-6 * size
    )


def test_small_singular_values_are_not_lost_to_the_gram_matrix() -> None:
    # 200 values of 1e-9 beside one of 1: the Gram matrix holds their squares to 1e-16 only.
    generator = torch.Generator().manual_seed(0)
    left, right = (
        torch.linalg.qr(torch.randn(201, 201, dtype=torch.float64, generator=generator))[0] for _ in range(2)
    )
    singular = torch.full((201,), 1e-9, dtype=torch.float64)
    singular[0] = 1
    norm, error = nuclear_norm(left * singular @ right)
    assert abs(float(norm) - 1 - 2e-7) < float(error)
    assert float(error) > 1e-7
    # The same values as roots of the covariances: they make up the whole distance.
    mean, factors = torch.zeros(201, dtype=torch.float64), (left * singular.sqrt(), left * singular.sqrt() * 1.001)
    assert float(frechet_distance(mean, factors[0], mean, factors[1])) == pytest.approx(1e-6 * (1 + 2e-7), rel=1e-6)


def test_a_factor_is_one() -> None:
    covariance = mean_and_covariance(vectors(30, 50, 1))[1]
    factor = covariance_factor(covariance)
    assert factor.shape == (50, 29)
    torch.testing.assert_close(factor @ factor.mT, covariance, rtol=1e-12, atol=1e-14)


@pytest.mark.slow
def test_is_five_times_faster_than_sqrtm_at_2048_dimensions() -> None:
    a, b = vectors(5000, 2048, 1), 1.1 * vectors(5000, 2048, 2)
    (mean_a, cov_a), (mean_b, cov_b) = mean_and_covariance(a), mean_and_covariance(b)
    frechet_distance(mean_a[:64], covariance_factor(cov_a[:64, :64]), mean_b[:64], covariance_factor(cov_b[:64, :64]))
    start = time.perf_counter()
    value = float(frechet_distance(mean_a, covariance_factor(cov_a), mean_b, covariance_factor(cov_b)))
    ours = time.perf_counter() - start
    start = time.perf_counter()
    root = np.real(np.asarray(scipy.linalg.sqrtm(cov_a.numpy() @ cov_b.numpy())))
    theirs = time.perf_counter() - start
    expected = float((mean_a - mean_b).square().sum() + cov_a.trace() + cov_b.trace()) - 2 * float(np.trace(root))
    print(f"ours {ours:.2f} s, sqrtm {theirs:.2f} s")
    assert value == pytest.approx(expected, rel=1e-6)
    assert theirs > 5 * ours
