"""What a few seeds can tell: t intervals, paired t tests, Holm's correction, mean ranks (on scipy.stats).

Training runs of one method with different seeds are taken as independent draws from a normal distribution.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from ..metrics.bootstrap import Interval

CONFIDENCE = 0.95


@dataclass(frozen=True)
class PairedTest:
    """Mean of the differences of pairs with its t interval, and the two-sided p value that it is 0.

    One pair, or differences that are all the same, tell nothing of their spread: interval and p are NaN then.
    """

    difference: Interval
    p: float
    pairs: int


def t_interval(values: Sequence[float], confidence: float = CONFIDENCE) -> Interval:
    """Mean of values (n,) and its interval by Student's t with n - 1 degrees of freedom; NaN bounds for one value."""
    mean, count = float(np.mean(values)), len(values)
    if count < 2:
        return Interval(mean, math.nan, math.nan)
    half = stats.t.ppf((1 + confidence) / 2, count - 1) * stats.sem(values)  # stats.t.interval is NaN for equal values
    return Interval(mean, mean - float(half), mean + float(half))


def paired_t_test(values: Sequence[float], baseline: Sequence[float]) -> PairedTest:
    """Student's t test of the differences values - baseline, pair by pair; both (n,)."""
    differences = np.asarray(values) - np.asarray(baseline)
    rounding = 1e-12 * float(np.abs([values, baseline]).max())
    if len(differences) < 2 or np.ptp(differences) <= rounding:
        return PairedTest(Interval(float(differences.mean()), math.nan, math.nan), math.nan, len(differences))
    p = np.asarray(stats.ttest_1samp(differences, 0.0))[1]  # statistic, p
    return PairedTest(t_interval(differences.tolist()), float(p), len(differences))


def holm(p_values: Sequence[float]) -> list[float]:
    """p values (m,) adjusted for m tests by Holm's step-down method (1979); those that are NaN are no tests.

    Written out, since scipy has the methods of Benjamini alone.
    """
    adjusted = [math.nan] * len(p_values)
    tests = sorted((index for index, p in enumerate(p_values) if not math.isnan(p)), key=lambda index: p_values[index])
    largest = 0.0
    for done, index in enumerate(tests):
        largest = max(largest, (len(tests) - done) * p_values[index])
        adjusted[index] = min(1.0, largest)
    return adjusted


def mean_ranks(scores: np.ndarray, direction: int) -> np.ndarray:
    """Ranks of methods averaged over seeds: scores (methods, seeds) -> (methods,), 1 for the best.

    `direction` is 1 where higher scores are better, -1 where lower ones are; ties share the mean of their ranks. Only
    seeds with a score of every method are counted; without any the ranks are NaN.
    """
    complete = scores[:, ~np.isnan(scores).any(axis=0)]
    if not complete.shape[1]:
        return np.full(len(scores), math.nan)
    return stats.rankdata(-direction * complete, axis=0).mean(axis=1)


def least_significant_effect(pairs: int, level: float = 1 - CONFIDENCE) -> float:
    """The mean difference, in standard deviations of the differences, at which the paired t test of `pairs` (at least
    2) has p = level."""
    return float(stats.t.ppf(1 - level / 2, pairs - 1)) / math.sqrt(pairs)
