"""Precision, recall, density and coverage against brute force."""

import numpy as np
import pytest
from feature_sets import normal, real_and_brighter
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from wvq.eval.metrics import precision_recall as manifolds
from wvq.eval.metrics.precision_recall import density_coverage, precision_recall
from wvq.tokenizer.errors import InputError


@pytest.fixture(scope="module")
def real_and_generated(fashion_images: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    return real_and_brighter(fashion_images[0])


def manifolds_by_hand(real: np.ndarray, generated: np.ndarray, k: int) -> tuple[float, ...]:
    """Precision, recall, density, coverage, ball by ball."""

    def within(x: np.ndarray) -> np.ndarray:
        return np.linalg.norm(x[:, None] - x[None], axis=2)

    real_radii, generated_radii = (np.sort(within(x), axis=1)[:, k] for x in (real, generated))
    between = np.linalg.norm(real[:, None] - generated[None], axis=2)
    return (
        float((between <= real_radii[:, None]).any(axis=0).mean()),
        float((between <= generated_radii[None]).any(axis=1).mean()),
        float((between < real_radii[:, None]).sum() / (k * len(generated))),
        float((between.min(axis=1) < real_radii).mean()),
    )


@settings(deadline=None, max_examples=30)
@given(st.integers(6, 60), st.integers(6, 60), st.integers(1, 5), st.integers(1, 8), st.integers(0, 10**6))
def test_manifold_scores_equal_brute_force(real: int, generated: int, k: int, dim: int, seed: int) -> None:
    a, b = normal(real, dim, seed).double(), normal(generated, dim, seed + 1, 0.4).double()
    ours = (*precision_recall(a, b, k), *density_coverage(a, b, k))
    assert ours == pytest.approx(manifolds_by_hand(a.numpy(), b.numpy(), k), abs=1e-12)


def test_manifold_scores_are_the_same_in_any_blocks(
    real_and_generated: tuple[Tensor, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    real, generated = real_and_generated
    whole = (*precision_recall(real, generated), *density_coverage(real, generated))
    monkeypatch.setattr(manifolds, "_BLOCK", 7 * 330)
    assert (*precision_recall(real, generated), *density_coverage(real, generated)) == whole


def test_a_set_has_full_precision_recall_and_coverage_of_itself(real_and_generated: tuple[Tensor, Tensor]) -> None:
    real, _ = real_and_generated
    assert precision_recall(real, real) == (1, 1)
    assert density_coverage(real, real)[1] == 1
    assert precision_recall(real, real + 1e4) == (0, 0)
    assert density_coverage(real, real + 1e4) == (0, 0)


def test_too_few_images_for_neighbours_are_refused() -> None:
    with pytest.raises(InputError, match="neighbours is 3; it must be at least 1 and below the 3 real images"):
        precision_recall(normal(3, 2, 0), normal(9, 2, 1))
    with pytest.raises(InputError, match="below the 5 real images"):
        density_coverage(normal(5, 2, 0), normal(9, 2, 1))
    with pytest.raises(InputError, match="4 dimensions on the real side and 5"):
        precision_recall(normal(9, 4, 0), normal(9, 5, 1))
