"""Scores by name: those of their functions, called as they may be, and refused where they cannot be."""

import json
import math

import pytest
import torch
from feature_sets import normal
from torch import Tensor

from wvq.eval import FeatureSet, ReferenceStatistics, score_features
from wvq.eval.feature_scores import FEATURE_SCORES
from wvq.eval.metrics.by_class import class_accuracy, class_frechet_distances
from wvq.eval.metrics.frechet import frechet_distance, mean_and_factor
from wvq.eval.metrics.frechet_infinity import frechet_infinity
from wvq.eval.metrics.inception_score import inception_score
from wvq.eval.metrics.kernel import clip_maximum_mean_discrepancy, kernel_inception_distance
from wvq.eval.metrics.memorization import memorization_distance, memorization_informed_distance
from wvq.eval.metrics.precision_recall import density_coverage, precision_recall
from wvq.eval.metrics.sliced_wasserstein import sliced_wasserstein_distance
from wvq.eval.score_names import INCEPTION_SHA256
from wvq.tokenizer.errors import InputError


def features(vectors: Tensor, **changes) -> FeatureSet:
    labels = torch.arange(len(vectors)) % 3
    extractor = {"name": "tiny", "dimension": vectors.shape[1], **changes}
    return FeatureSet(vectors, labels, vectors, extractor, {"source": "here"}, spatial=vectors[:, :3])


def test_every_score_by_name_is_that_of_its_function() -> None:
    real, generated = features(normal(200, 5, 0)), features(normal(150, 5, 1, 0.3))
    assert real.labels is not None
    assert generated.labels is not None
    results = score_features(real, generated, list(FEATURE_SCORES))
    a, b = real.vectors, generated.vectors
    distance = float(frechet_distance(*mean_and_factor(a), *mean_and_factor(b)))
    expected = {
        "fid": distance,
        "sfid": float(frechet_distance(*mean_and_factor(a[:, :3]), *mean_and_factor(b[:, :3]))),
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


def test_reconstructions_stay_with_their_images_in_intervals_and_subsets() -> None:
    images = normal(600, 8, 0)
    reconstructions = 0.95 * images + 0.1 * normal(600, 8, 1)
    names = ["fid", "sfid", "fid-infinity"]
    together, apart = (
        score_features(features(images), features(reconstructions), names, resamples=60, paired=paired)
        for paired in (True, False)
    )
    assert together["fid-infinity"]["value"] == frechet_infinity(images, reconstructions, paired=True).value
    for name in ("fid", "sfid"):
        assert together[name]["value"] == apart[name]["value"]
        assert together[name]["low"] < together[name]["value"] < together[name]["high"]
        widths = [scores[name]["high"] - scores[name]["low"] for scores in (together, apart)]
        assert widths[0] < widths[1] / 3, name


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
    with pytest.raises(InputError, match="scores has fdi; valid are fid, sfid, fid-infinity, kid"):
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
