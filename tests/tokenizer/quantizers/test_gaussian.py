"""The distance between Gaussians against an independent formula, its laws, its gradient, and the map."""

import warnings

import numpy as np
import numpy.typing as npt
import pytest
import scipy.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from wvq.tokenizer import gaussian_transport_map, gaussian_wasserstein_distance
from wvq.tokenizer.quantizers.gaussian import mean_and_covariance

Gaussian = tuple[Tensor, Tensor]


def random_gaussian(rng: np.random.Generator, dim: int, rank: int | None = None, scale: float = 1.0) -> Gaussian:
    """Mean (D,) and covariance (D, D) of the given rank, float64."""
    factor = rng.normal(size=(rank or dim, dim)) * scale
    return torch.from_numpy(rng.normal(size=dim) * scale), torch.from_numpy(factor.T @ factor / dim)


def distance_by_sqrtm(a: Gaussian, b: Gaussian) -> float:
    """The textbook formula, with SciPy's matrix square root."""
    (mean_a, cov_a), (mean_b, cov_b) = ([x.numpy() for x in side] for side in (a, b))

    def root(matrix: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", scipy.linalg.LinAlgWarning)  # singular, where the rank is deficient
            return np.real(scipy.linalg.sqrtm(matrix))

    cross = root(root(cov_a) @ cov_b @ root(cov_a))
    return float(np.sqrt(np.sum((mean_a - mean_b) ** 2) + np.trace(cov_a + cov_b - 2 * cross)))


def distance(a: Gaussian, b: Gaussian) -> float:
    return gaussian_wasserstein_distance(*a, *b).item()


gaussians = st.builds(
    lambda seed, rank: random_gaussian(np.random.default_rng(seed), dim=5, rank=rank),
    seed=st.integers(0, 2**32 - 1),
    rank=st.integers(1, 5),
)


@pytest.mark.parametrize("dim", [1, 2, 8, 32])
def test_distance_equals_sqrtm_formula(dim: int):
    rng = np.random.default_rng(dim)
    for scale in (1e-3, 1.0, 1e3):
        a, b = random_gaussian(rng, dim), random_gaussian(rng, dim, scale=scale)
        assert distance(a, b) == pytest.approx(distance_by_sqrtm(a, b), rel=1e-6)


@pytest.mark.parametrize(("rank_a", "rank_b"), [(1, 8), (8, 1), (1, 1), (4, 8), (3, 5)])
def test_distance_of_rank_deficient_covariances_equals_sqrtm_formula(rank_a: int, rank_b: int):
    rng = np.random.default_rng(10 * rank_a + rank_b)
    a, b = random_gaussian(rng, 8, rank_a), random_gaussian(rng, 8, rank_b)
    assert distance(a, b) == pytest.approx(distance_by_sqrtm(a, b), rel=1e-6)


def test_distance_of_commuting_covariances_is_that_of_the_deviations():
    rng = np.random.default_rng(0)
    axes = torch.from_numpy(np.linalg.qr(rng.normal(size=(6, 6)))[0])
    deviations_a, deviations_b = torch.from_numpy(rng.uniform(0.1, 3, size=(2, 6)))
    mean = torch.zeros(6, dtype=torch.float64)
    a, b = ((mean, axes * deviations.square() @ axes.mT) for deviations in (deviations_a, deviations_b))
    assert distance(a, b) == pytest.approx((deviations_a - deviations_b).norm().item(), rel=1e-12)


@given(gaussians, st.floats(1e-3, 1e3))
@settings(max_examples=50, deadline=None)
def test_distance_of_a_shift_is_its_length(a: Gaussian, length: float):
    shift = torch.full((5,), length / 5**0.5, dtype=torch.float64)
    assert distance(a, (a[0] + shift, a[1])) == pytest.approx(length, rel=1e-6)


@given(gaussians)
@settings(max_examples=50, deadline=None)
def test_distance_of_identical_distributions_is_zero(a: Gaussian):
    assert distance(a, a) == 0


@given(gaussians, gaussians)
@settings(max_examples=50, deadline=None)
def test_distance_is_symmetric(a: Gaussian, b: Gaussian):
    assert distance(a, b) == pytest.approx(distance(b, a), rel=1e-9)


@given(gaussians, gaussians, gaussians)
@settings(max_examples=50, deadline=None)
def test_distance_obeys_the_triangle_inequality(a: Gaussian, b: Gaussian, c: Gaussian):
    assert distance(a, c) <= (distance(a, b) + distance(b, c)) * (1 + 1e-9)


@given(gaussians, gaussians, st.floats(1e-4, 1e4), st.floats(-100, 100))
@settings(max_examples=50, deadline=None)
def test_distance_scales_with_both_and_ignores_a_common_translation(
    a: Gaussian, b: Gaussian, scale: float, move: float
):
    moved = [(scale * (mean + move), scale**2 * covariance) for mean, covariance in (a, b)]
    assert distance(*moved) == pytest.approx(scale * distance(a, b), rel=1e-6)


def test_distance_takes_any_precision_and_returns_float64():
    rng = np.random.default_rng(0)
    a, b = random_gaussian(rng, 4), random_gaussian(rng, 4)
    single = [x.float() for x in (*a, *b)]
    result = gaussian_wasserstein_distance(*single)
    assert result.dtype == torch.float64
    assert result.item() == pytest.approx(distance(a, b), rel=1e-5)


@pytest.mark.parametrize("dim", [1, 3, 6])
def test_gradient_passes_gradcheck(dim: int):
    rng = np.random.default_rng(dim)
    inputs = [x.requires_grad_() for x in (*random_gaussian(rng, dim), *random_gaussian(rng, dim, scale=2))]
    assert torch.autograd.gradcheck(gaussian_wasserstein_distance, inputs)


def conditioned_gaussian(rng: np.random.Generator, dim: int, condition: float) -> Gaussian:
    """Mean (D,) and covariance (D, D) with eigenvalues from 1 / condition to 1 and axes at random, float64."""
    axes = np.linalg.qr(rng.normal(size=(dim, dim)))[0]
    eigenvalues = condition ** -rng.uniform(size=dim)
    eigenvalues[0], eigenvalues[-1] = 1 / condition, 1
    return torch.from_numpy(rng.normal(size=dim)), torch.from_numpy(axes * eigenvalues @ axes.T)


def distance_and_map_by_scipy(a: Gaussian, b: Gaussian) -> tuple[float, npt.NDArray[np.float64]]:
    """W2 and the transport matrix from SciPy's square roots.

    The root of S_a^1/2 S_b S_a^1/2 is the polar factor of S_b^1/2 S_a^1/2: `sqrtm` of that product, conditioned up to
    1e16, would keep no digit of its smallest directions, which the map divides by.
    """
    (mean_a, cov_a), (mean_b, cov_b) = ([x.numpy() for x in side] for side in (a, b))
    root_a, root_b = np.real(scipy.linalg.sqrtm(cov_a)), np.real(scipy.linalg.sqrtm(cov_b))
    cross = scipy.linalg.polar(root_b @ root_a)[1]
    inverse = scipy.linalg.inv(root_a)
    return np.sqrt(np.sum((mean_a - mean_b) ** 2) + np.trace(cov_a + cov_b - 2 * cross)), inverse @ cross @ inverse


@given(
    seed=st.integers(0, 2**32 - 1),
    dim=st.integers(2, 64),
    conditions=st.tuples(st.floats(1, 8), st.floats(1, 8)).map(lambda powers: [10**power for power in powers]),
)
@settings(max_examples=100, deadline=None)
def test_distance_gradient_and_map_equal_scipys_for_ill_conditioned_covariances(
    seed: int, dim: int, conditions: list[float]
):
    rng = np.random.default_rng(seed)
    a, b = (conditioned_gaussian(rng, dim, condition) for condition in conditions)
    expected_distance, expected_map = distance_and_map_by_scipy(a, b)
    assert distance(a, b) == pytest.approx(expected_distance, rel=1e-5)
    matrix = gaussian_transport_map(*a, *b)[0].numpy()
    assert np.linalg.norm(matrix - expected_map) <= 1e-5 * np.linalg.norm(expected_map)

    covariance = a[1].clone().requires_grad_()
    gaussian_wasserstein_distance(a[0], covariance, *b).backward()
    assert covariance.grad is not None
    expected = (np.eye(dim) - expected_map) / (2 * expected_distance)
    assert np.linalg.norm(covariance.grad.numpy() - expected) <= 1e-5 * np.linalg.norm(expected)


def test_second_derivative_is_refused():
    rng = np.random.default_rng(0)
    inputs = [x.requires_grad_() for x in (*random_gaussian(rng, 3), *random_gaussian(rng, 3))]
    squared = gaussian_wasserstein_distance(*inputs) ** 2
    (gradient,) = torch.autograd.grad(squared, inputs[0], create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


def code_gradient(codes: Tensor, target: Gaussian) -> Tensor:
    codes = codes.clone().requires_grad_()
    gaussian_wasserstein_distance(*target, *mean_and_covariance(codes)).backward()
    assert codes.grad is not None
    return codes.grad


def test_gradient_is_the_displacement_of_optimal_transport():
    rng = np.random.default_rng(0)
    target, codes = random_gaussian(rng, 4), torch.from_numpy(rng.normal(size=(50, 4)) * 3 + 1)
    mean, covariance = mean_and_covariance(codes)
    matrix, offset = gaussian_transport_map(mean, covariance, *target)
    displacement = codes - (codes @ matrix.mT + offset)
    # The unbiased covariance divides by K - 1, the mean by K: the two parts of the displacement carry these weights.
    common = displacement.mean(dim=0)
    expected = (common / 50 + (displacement - common) / 49) / distance((mean, covariance), target)
    torch.testing.assert_close(code_gradient(codes, target), expected, rtol=1e-9, atol=1e-12)


def collapsed_codes(name: str) -> Tensor:
    codes = torch.randn(64, 8, generator=torch.Generator().manual_seed(0))
    if name == "all codes identical":
        return codes[:1].expand(64, 8) * 1.0
    if name == "codes on a line":
        return codes[:, :1] * codes[0]
    if name == "one direction gone":
        direction = torch.nn.functional.normalize(torch.ones(8), dim=0)
        return codes - torch.outer(codes @ direction, direction)
    return codes * torch.logspace(0, -12, 8)  # each direction far below the one before


COLLAPSED = ("all codes identical", "codes on a line", "one direction gone", "directions fading out")


@pytest.mark.parametrize("name", COLLAPSED)
@pytest.mark.parametrize("features", ["full rank", "rank deficient", "constant"])
def test_gradient_of_a_collapsed_codebook_is_bounded(name: str, features: str):
    rank = {"full rank": 8, "rank deficient": 3, "constant": 1}[features]
    mean, covariance = random_gaussian(np.random.default_rng(0), 8, rank)
    gradient = code_gradient(collapsed_codes(name).double(), (mean, covariance * (features != "constant")))
    # Root-mean-square displacement over W2 is 1, spread over 64 codes; the K - 1 adds a little.
    assert gradient.isfinite().all()
    assert 0 < gradient.norm().item() <= 1.05 / 64**0.5


@pytest.mark.parametrize(("rank_a", "rank_b"), [(1, 8), (4, 8), (3, 5), (8, 2)])
def test_gradient_of_rank_deficient_covariances_is_bounded(rank_a: int, rank_b: int):
    rng = np.random.default_rng(rank_a)
    inputs = [x.requires_grad_() for x in (*random_gaussian(rng, 8, rank_a), *random_gaussian(rng, 8, rank_b))]
    for gradient in torch.autograd.grad(gaussian_wasserstein_distance(*inputs), inputs):
        assert gradient.isfinite().all()
        assert gradient.abs().max() < 10


@pytest.mark.parametrize("name", ["spread", *COLLAPSED])
def test_gradient_at_identical_distributions_is_zero(name: str):
    codes = collapsed_codes(name).double() if name != "spread" else torch.randn(64, 8, dtype=torch.float64)
    assert code_gradient(codes, mean_and_covariance(codes)).abs().max() == 0


@given(gaussians.filter(lambda g: np.linalg.matrix_rank(g[1].numpy()) == 5), gaussians)
@settings(max_examples=50, deadline=None)
def test_transport_map_moves_moments_onto_moments(a: Gaussian, b: Gaussian):
    matrix, offset = gaussian_transport_map(*a, *b)
    size = float(b[1].trace())
    torch.testing.assert_close(matrix, matrix.mT)
    torch.testing.assert_close(matrix @ a[0] + offset, b[0], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(matrix @ a[1] @ matrix, b[1], rtol=0, atol=1e-6 * size)


def test_transport_map_moves_samples_by_the_distance():
    rng = np.random.default_rng(0)
    points = torch.from_numpy(rng.normal(size=(100, 3)))
    mean, covariance = mean_and_covariance(points)
    population = covariance * 99 / 100
    target = random_gaussian(rng, 3)
    matrix, offset = gaussian_transport_map(mean, population, *target)
    moved = points @ matrix.mT + offset
    root_mean_square = (moved - points).square().sum(dim=1).mean().sqrt().item()
    assert root_mean_square == pytest.approx(distance((mean, population), target), rel=1e-9)


def test_transport_map_leaves_out_directions_without_variance():
    # Features on one line, codes to be moved onto all of space: the map can only stretch the line.
    line = torch.tensor([1.0, 1.0, 0.0, 1.0], dtype=torch.float64) / 3**0.5
    zero = torch.zeros(4, dtype=torch.float64)
    matrix, _ = gaussian_transport_map(zero, torch.outer(line, line), zero, 4 * torch.eye(4, dtype=torch.float64))
    torch.testing.assert_close(matrix, 2 * torch.outer(line, line))


def test_mean_and_covariance_are_numpys():
    vectors = np.random.default_rng(0).normal(size=(20, 3)) * 2 + 5
    mean, covariance = mean_and_covariance(torch.from_numpy(vectors))
    np.testing.assert_allclose(mean.numpy(), vectors.mean(axis=0))
    np.testing.assert_allclose(covariance.numpy(), np.cov(vectors.T))
