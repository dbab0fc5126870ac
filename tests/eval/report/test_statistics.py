"""Statistics over seeds: equal to scipy, to values by hand, and to the laws they obey."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from wvq.eval.report.statistics import holm, least_significant_effect, mean_ranks, paired_t_test, t_interval

VALUES, BASELINE = [23.1, 23.4, 22.9, 23.6], [22.8, 23.3, 22.7, 23.1]


def test_t_interval_by_hand() -> None:
    interval = t_interval([1.0, 2.0, 6.0])  # mean 3, standard deviation sqrt(7), t = 4.302653 at 2 degrees of freedom
    half = 4.302653 * math.sqrt(7 / 3)
    assert (interval.value, interval.low, interval.high) == pytest.approx((3, 3 - half, 3 + half), abs=1e-5)


def test_paired_test_equals_scipy() -> None:
    test, expected = paired_t_test(VALUES, BASELINE), stats.ttest_rel(VALUES, BASELINE)
    assert test.p == pytest.approx(expected.pvalue, rel=1e-12)
    interval = expected.confidence_interval(0.95)
    assert (test.difference.low, test.difference.high) == pytest.approx((interval.low, interval.high), rel=1e-12)
    assert test.difference.value == pytest.approx(0.275)
    assert test.pairs == 4


@pytest.mark.parametrize("values", [[0.9], [0.9, 0.9, 0.9], [0.3 + 1e-16, 0.3, 0.3]])
def test_no_spread_is_no_test(values: list[float]) -> None:
    test = paired_t_test(values, [0.1 + 0.2] * len(values))
    assert test.difference.value == pytest.approx(values[0] - 0.3)
    assert all(map(math.isnan, (test.p, test.difference.low, test.difference.high)))
    if len(values) == 1:
        assert math.isnan(t_interval(values).low)


def test_holm_by_hand() -> None:
    # sorted 0.01, 0.02, 0.03, 0.04 times 4, 3, 2, 1 is 0.04, 0.06, 0.06, 0.04, and never below the one before
    assert holm([0.02, 0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.06, 0.04, 0.06])
    assert holm([0.6, 0.5]) == [1.0, 1.0]
    corrected = holm([0.02, math.nan, 0.04])  # two tests, not three
    assert (corrected[0], corrected[2]) == pytest.approx((0.04, 0.04))
    assert math.isnan(corrected[1])


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_rejects_as_its_definition_says(p_values: list[float]) -> None:
    corrected = holm(p_values)
    assert all(one >= p for one, p in zip(corrected, p_values, strict=True))
    assert all(one <= min(1, len(p_values) * p) or p == 0 for one, p in zip(corrected, p_values, strict=True))
    rejected = 0  # step down: the smallest against 0.05 / m, the next against 0.05 / (m - 1), until one fails
    while rejected < len(p_values) and (len(p_values) - rejected) * sorted(p_values)[rejected] <= 0.05:
        rejected += 1
    assert sum(p <= 0.05 for p in corrected) == rejected


def test_mean_ranks_by_hand() -> None:
    scores = np.array([[10.0, 30.0, 5.0], [20.0, 30.0, math.nan], [5.0, 40.0, 1.0]])  # the last seed lacks a method
    np.testing.assert_allclose(mean_ranks(scores, 1), [(2 + 2.5) / 2, (1 + 2.5) / 2, (3 + 1) / 2])
    np.testing.assert_allclose(mean_ranks(scores, -1), [(2 + 1.5) / 2, (3 + 1.5) / 2, (1 + 3) / 2])
    assert np.isnan(mean_ranks(np.array([[1.0, math.nan], [math.nan, 2.0]]), 1)).all()


@pytest.mark.parametrize("pairs", [2, 3, 5])
def test_the_least_significant_effect_is_significant_at_its_level(pairs: int) -> None:
    differences = np.arange(pairs, dtype=float)
    differences = (differences - differences.mean()) / differences.std(ddof=1) + least_significant_effect(pairs)
    assert paired_t_test(differences.tolist(), [0.0] * pairs).p == pytest.approx(0.05)
