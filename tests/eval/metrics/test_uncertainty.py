"""FID-infinity and bootstrap intervals: bias taken out, and intervals that hold what they say."""

import pytest
import torch
from feature_sets import normal
from torch import Tensor

from wvq.eval.metrics.bootstrap import bootstrap_interval
from wvq.eval.metrics.frechet import frechet_distance, mean_and_factor
from wvq.eval.metrics.frechet_infinity import frechet_infinity
from wvq.tokenizer.errors import InputError


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_fid_infinity_of_one_law_holds_0_where_the_plain_distance_is_far_from_it(seed: int) -> None:
    real, generated = normal(2000, 64, 2 * seed), normal(2000, 64, 2 * seed + 1)
    line = frechet_infinity(real, generated)
    assert line.low < 0 < line.high
    plain = line.distances[0]
    assert plain == pytest.approx(float(frechet_distance(*mean_and_factor(real), *mean_and_factor(generated))))
    assert plain > 3 * line.high
    assert line.counts == (2000, 1000, 666)
    assert list(line.distances) == sorted(line.distances)


def test_fid_infinity_finds_a_known_distance_also_from_statistics() -> None:
    reference = torch.zeros(32).double(), torch.eye(32).double()
    lines = [frechet_infinity(reference, 1.5 * normal(300, 32, seed) + 0.2) for seed in range(8)]
    expected = 32 * (0.5**2 + 0.2**2)
    assert sum(line.low < expected < line.high for line in lines) >= 6
    errors = torch.tensor([[line.value - expected, line.distances[0] - expected] for line in lines])
    assert abs(errors[:, 0].mean()) < abs(errors[:, 1].mean()) / 3, "the bias must be gone"
    assert errors[:, 0].std() < 1.5 * errors[:, 1].std(), "at little cost in noise"


def test_fid_infinity_of_reconstructions_takes_pairs_together() -> None:
    images = normal(1000, 32, 0)
    reconstructions = 0.95 * images + 0.1 * normal(1000, 32, 1)
    known = 32 * (1 - (0.95**2 + 0.1**2) ** 0.5) ** 2
    line = frechet_infinity(images, reconstructions, paired=True)
    assert line.low < known < line.high
    assert line.high - line.low < known / 10
    assert line.value == pytest.approx(known, rel=0.05)
    apart = frechet_infinity(images, reconstructions)
    assert apart.value < known / 2, "subsets of different images take their difference off the distance"
    with pytest.raises(InputError, match="1000 features for 999 generated ones; pairs need both"):
        frechet_infinity(images, reconstructions[1:], paired=True)
    with pytest.raises(InputError, match="statistics alone for 1000 generated ones"):
        frechet_infinity(mean_and_factor(images), reconstructions, paired=True)


@pytest.mark.parametrize("options", [{"num_sizes": 1}, {"jackknife_groups": 1}, {"confidence": 0.0}])
def test_impossible_extrapolations_are_refused(options: dict) -> None:
    with pytest.raises(InputError, match="valid are at least 2, at least 2, and between 0 and 1"):
        frechet_infinity(normal(50, 3, 0), normal(50, 3, 1), **options)
    with pytest.raises(InputError, match="9 images are too few"):
        frechet_infinity(normal(50, 3, 0), normal(9, 3, 1))


def test_bootstrap_intervals_hold_the_mean_as_often_as_they_say() -> None:
    def mean(x: Tensor) -> float:
        return float(x.mean())

    intervals = [bootstrap_interval(mean, normal(100, 1, seed), confidence=0.9, seed=seed) for seed in range(100)]
    held = sum(interval.low < 0 < interval.high for interval in intervals)
    assert 80 <= held <= 98
    width = sum(interval.high - interval.low for interval in intervals) / 100
    assert width == pytest.approx(2 * 1.645 / 10, rel=0.1)
    with pytest.raises(InputError, match="resamples is 1"):
        bootstrap_interval(mean, normal(5, 1, 0), resamples=1)


def test_an_interval_is_one_of_the_score_it_stands_beside() -> None:
    def distance(a: Tensor, b: Tensor) -> float:
        return float(frechet_distance(*mean_and_factor(a), *mean_and_factor(b)))

    # Few images in many dimensions: the distance is mostly bias, which resampling adds once more.
    pairs = [(normal(60, 24, 2 * seed), normal(60, 24, 2 * seed + 1)) for seed in range(30)]
    intervals = [bootstrap_interval(distance, *pair, resamples=60) for pair in pairs]
    assert all(interval.low < interval.value < interval.high for interval in intervals)
    mean = sum(interval.value for interval in intervals) / len(intervals)  # what the score is on average
    assert sum(interval.low < mean < interval.high for interval in intervals) >= 24


def test_an_interval_is_as_wide_as_the_score_varies_over_independent_samples() -> None:
    def distance(a: Tensor, b: Tensor) -> float:
        return float(frechet_distance(*mean_and_factor(a), *mean_and_factor(b)))

    generator = torch.Generator().manual_seed(0)

    def draw() -> tuple[Tensor, Tensor]:
        real, generated = torch.randn(2, 200, 4, generator=generator)
        return real, 1.2 * generated + 0.5

    known = 4 * (0.2**2 + 0.5**2)
    scores = torch.tensor([distance(*draw()) for _ in range(500)])
    low, high = scores.quantile(torch.tensor([0.025, 0.975])).tolist()
    mean = float(scores.mean())
    assert low < known < mean < high, "the score is a little too large, as a distance of samples is"
    pairs = [draw() for _ in range(100)]
    intervals = [bootstrap_interval(distance, *pair, resamples=80, seed=seed) for seed, pair in enumerate(pairs)]
    assert [interval.value for interval in intervals] == [distance(*pair) for pair in pairs], "as it is printed"
    assert all(interval.low < interval.value < interval.high for interval in intervals)
    width = sum(interval.high - interval.low for interval in intervals) / len(intervals)
    assert width == pytest.approx(high - low, rel=0.2)
    assert sum(interval.low < mean < interval.high for interval in intervals) >= 87
