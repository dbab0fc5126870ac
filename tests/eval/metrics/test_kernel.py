"""Kernel distances against their formulas."""

import pytest
import torch
from feature_sets import normal
from torch import Tensor

from wvq.eval.metrics import kernel as kernels
from wvq.eval.metrics.kernel import (
    clip_maximum_mean_discrepancy,
    kernel_inception_distance,
    polynomial_kernel,
    squared_mmd,
)
from wvq.tokenizer.errors import InputError


def mmd_by_hand(a: Tensor, b: Tensor) -> float:
    """The unbiased estimator as written: sums over pairs of different vectors."""
    a, b = a.double(), b.double()

    def kernel(x: Tensor, y: Tensor) -> float:
        return float((x @ y / len(x) + 1) ** 3)

    within = [
        sum(kernel(x[i], x[j]) for i in range(len(x)) for j in range(len(x)) if i != j) / (len(x) * (len(x) - 1))
        for x in (a, b)
    ]
    return sum(within) - 2 * sum(kernel(x, y) for x in a for y in b) / (len(a) * len(b))


def test_the_full_kernel_distance_equals_its_formula_in_any_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = normal(13, 5, 0), normal(9, 5, 1, 0.3)
    expected = mmd_by_hand(a, b)
    assert squared_mmd(a, b, polynomial_kernel) == pytest.approx(expected, rel=1e-9)
    monkeypatch.setattr(kernels, "_BLOCK", 25)
    assert squared_mmd(a, b, polynomial_kernel) == pytest.approx(expected, rel=1e-9)


def test_the_kernel_distance_of_equal_laws_is_unbiased() -> None:
    values = torch.tensor(
        [squared_mmd(normal(30, 8, 2 * s), normal(40, 8, 2 * s + 1), polynomial_kernel) for s in range(300)]
    )
    error = values.std() / len(values) ** 0.5
    assert abs(values.mean()) < 3 * error
    biased = squared_mmd(normal(30, 8, 0), normal(40, 8, 1), polynomial_kernel, unbiased=False)
    assert biased > 10 * error, "the test would not see the bias"


def test_subsets_of_all_images_are_the_full_kernel_distance() -> None:
    a, b = normal(50, 6, 0), normal(50, 6, 1, 0.5)
    mean, deviation = kernel_inception_distance(a, b, subsets=3, subset_size=50)
    assert mean == pytest.approx(squared_mmd(a, b, polynomial_kernel), rel=1e-9)
    assert deviation == pytest.approx(0, abs=1e-12)
    for size in (51, 1):
        with pytest.raises(InputError, match=rf"subset_size is {size}; it must be from 2 .*smaller side, 50"):
            kernel_inception_distance(a, b, subset_size=size)


def test_cmmd_equals_its_formula() -> None:
    a, b = normal(20, 6, 0), normal(30, 6, 1, 0.5)
    x, y = (v.double() / v.double().norm(dim=1, keepdim=True) for v in (a, b))
    k = [torch.exp(-(torch.cdist(p, q) ** 2) / 200).mean() for p, q in ((x, x), (y, y), (x, y))]
    assert clip_maximum_mean_discrepancy(a, b) == pytest.approx(1000 * float(k[0] + k[1] - 2 * k[2]), rel=1e-6)
    assert clip_maximum_mean_discrepancy(a, 3 * a) == pytest.approx(0, abs=1e-9)
