"""Scores of features against brute force, closed forms, and torch-fidelity's own functions."""

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
from torch_fidelity.metric_isc import isc_features_to_metric
from torch_fidelity.metric_kid import kid_features_to_metric
from torch_fidelity.metric_prc import prc_features_to_metric

from wvq.eval import FeatureSet, ReferenceStatistics, score_features
from wvq.eval.feature_scores import FEATURE_SCORES
from wvq.eval.features.inception import INCEPTION_SHA256
from wvq.eval.metrics import kernel as kernels
from wvq.eval.metrics import precision_recall as manifolds
from wvq.eval.metrics.bootstrap import bootstrap_interval
from wvq.eval.metrics.by_class import class_accuracy, class_frechet_distances
from wvq.eval.metrics.frechet import frechet_distance, mean_and_factor
from wvq.eval.metrics.frechet_infinity import frechet_infinity
from wvq.eval.metrics.inception_score import inception_score
from wvq.eval.metrics.kernel import (
    clip_maximum_mean_discrepancy,
    kernel_inception_distance,
    polynomial_kernel,
    squared_mmd,
)
from wvq.eval.metrics.memorization import memorization_distance, memorization_informed_distance, nearest_training_images
from wvq.eval.metrics.precision_recall import density_coverage, precision_recall
from wvq.eval.metrics.sliced_wasserstein import sliced_wasserstein_distance
from wvq.tokenizer.errors import InputError


def normal(count: int, dim: int, seed: int, shift: float = 0.0) -> Tensor:
    return torch.randn(count, dim, generator=torch.Generator().manual_seed(seed)) + shift


@pytest.fixture(scope="module")
def real_and_generated(fashion_images: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Pixels of real images, averaged to 7x7, and of brighter ones, in part of other classes: good enough features."""
    pixels = torch.nn.functional.avg_pool2d(fashion_images[0].float() / 64, 4).flatten(1)
    return pixels[:330], 1.1 * pixels[270:]


# --- against torch-fidelity's own functions, on the same features of real images ---


def test_scores_equal_torch_fidelity(real_and_generated: tuple[Tensor, Tensor]) -> None:
    real, generated = real_and_generated
    theirs = fid_statistics_to_metric(fid_features_to_statistics(generated), fid_features_to_statistics(real), False)
    ours = float(frechet_distance(*mean_and_factor(real), *mean_and_factor(generated)))
    assert ours == pytest.approx(theirs["frechet_inception_distance"], rel=1e-6)

    theirs = kid_features_to_metric(generated, real, kid_subsets=10, kid_subset_size=200, verbose=False)
    mean, deviation = kernel_inception_distance(real, generated, subsets=10, subset_size=200)
    assert mean == pytest.approx(theirs["kernel_inception_distance_mean"], rel=1e-3)
    assert deviation == pytest.approx(theirs["kernel_inception_distance_std"], rel=1e-3)

    theirs = prc_features_to_metric(generated, real, verbose=False)
    precision, recall = precision_recall(real, generated)
    assert (precision, recall) == pytest.approx((theirs["precision"], theirs["recall"]), rel=1e-6)
    assert 0.2 < precision < 1, "the comparison would say nothing"
    assert 0.2 < recall < 1, "the comparison would say nothing"

    theirs = isc_features_to_metric(generated)
    assert inception_score(generated) == pytest.approx(tuple(theirs.values()), rel=1e-9)


# --- kernel distances ---


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


# --- Inception score ---


def test_the_inception_score_is_1_without_variety_and_the_number_of_classes_at_best() -> None:
    assert inception_score(torch.zeros(100, 7))[0] == pytest.approx(1)
    assert inception_score(100 * torch.eye(5).repeat(20, 1), splits=1)[0] == pytest.approx(5)
    with pytest.raises(InputError, match="splits is 10; it must be from 1 to the 4 images"):
        inception_score(torch.zeros(4, 3))


# --- manifolds ---


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


# --- sliced Wasserstein ---


def test_mind_of_a_shift_is_three_times_its_square() -> None:
    # Each direction sees shift.u, whose square is ||shift||^2 / d on average.
    real = normal(200, 16, 0)
    shift = normal(1, 16, 5)
    value = sliced_wasserstein_distance(real, real + shift, projections=20_000)
    assert value == pytest.approx(3 * float(shift.square().sum()), rel=0.03)
    assert sliced_wasserstein_distance(real, real[torch.randperm(200)]) == 0


def test_mind_in_one_dimension_is_exact_transport() -> None:
    a, b = torch.tensor([[0.0], [1.0], [5.0]]), torch.tensor([[6.0], [0.0], [3.0]])
    assert sliced_wasserstein_distance(a, b, projections=4) == pytest.approx(3 * (0 + 4 + 1) / 3)
    assert sliced_wasserstein_distance(a, b[:2], projections=4, seed=1) >= 0
    with pytest.raises(InputError, match="0 images and 1000 projections"):
        sliced_wasserstein_distance(a[:0], b)


# --- memorisation ---


def test_copies_are_found_and_punished() -> None:
    training = normal(50, 12, 0)
    copied = torch.cat([training[[3, 7]] * 2, normal(8, 12, 1)])
    distances, indices = nearest_training_images(copied, training)
    assert indices[:2].tolist() == [3, 7]
    assert distances[:2] == pytest.approx(torch.zeros(2), abs=1e-6)
    assert (distances[2:] > 0.01).all()
    cosines = torch.nn.functional.cosine_similarity(copied[:, None].double(), training[None].double(), dim=2)
    assert distances == pytest.approx(1 - cosines.amax(dim=1), abs=1e-12)
    assert memorization_distance(copied, training) == pytest.approx(float(1 - cosines.abs().amax(dim=1).mean()))
    assert memorization_distance(training, training) == pytest.approx(0, abs=1e-12)
    assert memorization_informed_distance(5.0, 0.05) == pytest.approx(100)
    assert memorization_informed_distance(5.0, 0.3) == 5.0


# --- classes ---


def test_scores_by_class(fashion_images: tuple[Tensor, Tensor]) -> None:
    images, labels = fashion_images
    pixels = torch.nn.functional.avg_pool2d(images.float() / 64, 7).flatten(1)
    real, generated = slice(0, None, 2), slice(1, None, 2)
    sides = pixels[real], labels[real], pixels[generated], labels[generated]
    right = class_accuracy(*sides)
    assert right > 0.6
    assert class_accuracy(sides[0], sides[1], sides[2], (sides[3] + 1) % 10) < 0.2
    by_class = class_frechet_distances(*sides)
    assert list(by_class) == list(range(10))
    chosen = [x[y == 4] for x, y in (sides[:2], sides[2:])]
    assert by_class[4] == pytest.approx(
        float(frechet_distance(*mean_and_factor(chosen[0]), *mean_and_factor(chosen[1])))
    )
    with pytest.raises(InputError, match="class 0 has 30 real and 0 generated images"):
        class_frechet_distances(*sides[:3], torch.full((300,), 11))
    with pytest.raises(InputError, match="generated class 11 has no real images"):
        class_accuracy(*sides[:3], torch.full((300,), 11))


# --- uncertainty ---


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
    law = ReferenceStatistics(None, torch.zeros(32).double(), torch.eye(32).double(), {}, {})
    lines = [frechet_infinity(law, 1.5 * normal(300, 32, seed) + 0.2) for seed in range(8)]
    expected = 32 * (0.5**2 + 0.2**2)
    assert sum(line.low < expected < line.high for line in lines) >= 6
    errors = torch.tensor([[line.value - expected, line.distances[0] - expected] for line in lines])
    assert abs(errors[:, 0].mean()) < abs(errors[:, 1].mean()) / 3, "the bias must be gone"
    assert errors[:, 0].std() < 1.5 * errors[:, 1].std(), "at little cost in noise"


@pytest.mark.parametrize("options", [{"parts": 1}, {"groups": 1}, {"confidence": 0.0}])
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


# --- by name ---


def features(vectors: Tensor, **changes) -> FeatureSet:
    labels = torch.arange(len(vectors)) % 3
    extractor = {"name": "tiny", "dimension": vectors.shape[1], **changes}
    return FeatureSet(vectors, labels, vectors, extractor, {"source": "here"})


def test_every_score_by_name_is_that_of_its_function() -> None:
    real, generated = features(normal(200, 5, 0)), features(normal(150, 5, 1, 0.3))
    assert real.labels is not None
    assert generated.labels is not None
    results = score_features(real, generated, list(FEATURE_SCORES))
    a, b = real.vectors, generated.vectors
    distance = float(frechet_distance(*mean_and_factor(a), *mean_and_factor(b)))
    expected = {
        "fid": distance,
        "fid-infinity": frechet_infinity(a, b).value,
        "kid": kernel_inception_distance(a, b, subset_size=150)[0],
        "is": inception_score(b)[0],
        "precision": precision_recall(a, b)[0],
        "recall": precision_recall(a, b)[1],
        "density": density_coverage(a, b)[0],
        "coverage": density_coverage(a, b)[1],
        "cmmd": clip_maximum_mean_discrepancy(a, b),
        "mind": sliced_wasserstein_distance(a, b),
        "mifid": memorization_informed_distance(distance, memorization_distance(b, a)),
        "class-fid": sum(class_frechet_distances(a, real.labels, b, generated.labels).values()) / 3,
        "class-accuracy": class_accuracy(a, real.labels, b, generated.labels),
    }
    assert {name: result["value"] for name, result in results.items()} == pytest.approx(expected)
    assert results["fid"]["score"] == "FD[tiny]"
    assert results["kid"]["score"] == "KD[tiny]"
    assert results["mifid"]["score"] == "MiFD[tiny]"
    assert json.loads(json.dumps(results))["kid"]["subset_size"] == 150


def test_published_names_are_for_the_standard_inception_alone() -> None:
    real, generated = (features(normal(20, 2, seed), weights_sha256=INCEPTION_SHA256) for seed in range(2))
    results = score_features(real, generated, ["fid", "kid"])
    assert [result["score"] for result in results.values()] == ["FID", "KID"]


def test_intervals_are_given_where_asked_for() -> None:
    real, generated = features(normal(300, 4, 0)), features(normal(300, 4, 1, 1.0))
    results = score_features(real, generated, ["fid", "is", "precision"], resamples=50)
    for name in ("fid", "is"):
        assert results[name]["low"] < results[name]["value"] < results[name]["high"]
        assert results[name]["resamples"] == 50
    assert results["fid"]["low"] < 4 < results["fid"]["high"]
    assert "low" not in results["precision"]


def test_scores_of_statistics_are_those_that_need_no_images() -> None:
    real, generated = features(normal(300, 4, 0)), features(normal(200, 4, 1))
    mean, factor = mean_and_factor(real.vectors)
    reference = ReferenceStatistics(300, mean, factor @ factor.mT, dict(real.extractor), {})
    of_images = score_features(real, generated, ["fid", "is"])
    of_statistics = score_features(reference, generated, ["fid", "is"])
    assert of_statistics["fid"]["value"] == pytest.approx(of_images["fid"]["value"], rel=1e-9)
    assert of_statistics["is"] == of_images["is"]
    with pytest.raises(InputError, match="score kid needs the images of the reference"):
        score_features(reference, generated, ["fid", "kid"])


def test_what_cannot_be_scored_is_refused_with_the_reason() -> None:
    real, generated = features(normal(30, 5, 0)), features(normal(5, 5, 1))
    with pytest.raises(InputError, match="scores has fdi; valid are fid, fid-infinity, kid"):
        score_features(real, generated, ["fid", "fdi"])
    with pytest.raises(InputError, match="a Fréchet distance of 5 generated images in 5 dimensions is mostly bias"):
        score_features(real, generated)
    with pytest.raises(InputError, match="a Fréchet distance of 5 reference images in 5 dimensions"):
        score_features(generated, real)
    assert math.isfinite(score_features(real, generated, allow_few_images=True)["fid"]["value"])
    with pytest.raises(InputError, match="another extractor: resize is None there and '64x64' here"):
        score_features(real, features(normal(30, 5, 1), resize="64x64"))
    with pytest.raises(InputError, match="a Fréchet distance of 10 reference class images in 12 dimensions"):
        score_features(features(normal(30, 12, 0)), features(normal(90, 12, 1)), ["class-fid"])
    unlabelled = FeatureSet(real.vectors, None, None, real.extractor, {"source": "photos"})
    with pytest.raises(InputError, match="labelled images; those of photos have no classes"):
        score_features(real, unlabelled, ["class-fid"])
    with pytest.raises(InputError, match="score is needs the logits"):
        score_features(real, unlabelled, ["is"])
