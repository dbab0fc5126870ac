"""Scores of one set of images against another by name, all from the same features, each with its settings."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from wvq.tokenizer.errors import InputError

from .features.feature_set import FeatureSet
from .features.inception import INCEPTION_SHA256
from .features.reference import ReferenceStatistics, differences
from .frechet_metric import check_enough_images
from .metrics.bootstrap import bootstrap_interval
from .metrics.by_class import class_accuracy, class_frechet_distances
from .metrics.frechet import frechet_distance
from .metrics.frechet_infinity import frechet_infinity
from .metrics.inception_score import inception_score
from .metrics.kernel import clip_maximum_mean_discrepancy, kernel_inception_distance
from .metrics.memorization import memorization_distance, memorization_informed_distance
from .metrics.precision_recall import density_coverage, precision_recall
from .metrics.sliced_wasserstein import sliced_wasserstein_distance

Values = dict[str, Any]
Real = FeatureSet | ReferenceStatistics


def score_features(
    real: Real,
    generated: FeatureSet,
    scores: Sequence[str] = ("fid",),
    allow_few_images: bool = False,
    resamples: int = 0,
) -> dict[str, Values]:
    """Scores of `generated` against `real`.

    Args:
        real: features of the reference images; their statistics are enough for fid, fid-infinity and is.
        generated: features of the images to be scored, of the same extractor.
        scores: any of `FEATURE_SCORES`.
        allow_few_images: whether to give a Fréchet distance of no more images than dimensions.
        resamples: of the bootstrap intervals of fid, is, cmmd and mind; 0 for none.

    Returns:
        By name {"score": what it may be called, "value": ..., further numbers and the settings}, JSON-able.

    Raises:
        InputError: for an unknown score, features of two extractors, too few images, or what a score needs and is not
            there: classes, the images of the reference.
    """
    unknown = [name for name in scores if name not in FEATURE_SCORES]
    if unknown or not scores:
        raise InputError(f"scores has {unknown[0] if unknown else 'nothing'}; valid are {', '.join(FEATURE_SCORES)}")
    if isinstance(real, ReferenceStatistics):
        real.check_extractor(dict(generated.extractor))
        check_statistics_suffice(scores)
    elif different := differences(dict(real.extractor), dict(generated.extractor)):
        raise InputError(f"the reference features are of another extractor: {different}")
    if {"fid", "fid-infinity", "mifid"} & set(scores):
        known = real.count if isinstance(real, ReferenceStatistics) else len(real)
        counts = {"generated": len(generated)} | ({} if known is None else {"reference": known})
        check_enough_images(counts, generated.vectors.shape[1], allow_few_images)
    if "class-fid" in scores:
        counts = {
            f"{side} class": int(_labels(of).unique(return_counts=True)[1].min())
            for side, of in (("generated", generated), ("reference", real))
            if isinstance(of, FeatureSet)
        }
        check_enough_images(counts, generated.vectors.shape[1], allow_few_images)
    results = {}
    for name in scores:
        label, score = FEATURE_SCORES[name]
        results[name] = {"score": score_label(label, generated.extractor), **score(real, generated)}
        if resamples and name in _RESAMPLED:
            results[name] |= _interval(score, real, generated, resamples)
    return results


def check_statistics_suffice(scores: Sequence[str]) -> None:
    """Refuse scores that need more of the reference than its statistics.

    Raises:
        InputError: that names the first of them.
    """
    needing = [name for name in scores if name not in _OF_STATISTICS]
    if needing:
        raise InputError(f"score {needing[0]} needs the images of the reference, not their statistics alone")


def score_label(label: str, extractor: Mapping[str, Any]) -> str:
    """A published name as it is only with Inception's standard weights; else with the extractor's name beside it."""
    if extractor.get("weights_sha256") == INCEPTION_SHA256:
        return label
    return f"{label.replace('FID', 'FD').replace('KID', 'KD')}[{extractor['name']}]"


def _interval(score: "FeatureScore", real: Real, generated: FeatureSet, resamples: int) -> Values:
    """A 95 % bootstrap interval; rows are drawn by position, so labels and logits stay with their features."""

    def redrawn(generated_rows: Tensor, *real_rows: Tensor) -> float:
        against = real.select(real_rows[0]) if isinstance(real, FeatureSet) else real
        return score(against, generated.select(generated_rows))["value"]

    rows = [torch.arange(len(generated)), *([torch.arange(len(real))] if isinstance(real, FeatureSet) else [])]
    interval = bootstrap_interval(redrawn, *rows, resamples=resamples)
    return {"low": interval.low, "high": interval.high, "resamples": resamples}


def _fid(real: Real, generated: FeatureSet) -> Values:
    return {"value": float(frechet_distance(*real.mean_and_factor(), *generated.mean_and_factor()))}


def _fid_infinity(real: Real, generated: FeatureSet) -> Values:
    side = real.vectors if isinstance(real, FeatureSet) else real.mean_and_factor()
    line = frechet_infinity(side, generated.vectors)
    return {"value": line.value, "low": line.low, "high": line.high, "counts": line.counts, "distances": line.distances}


def _kid(real: Any, generated: FeatureSet) -> Values:
    size = min(1000, len(real), len(generated))
    mean, deviation = kernel_inception_distance(real.vectors, generated.vectors, subset_size=size)
    return {"value": mean, "deviation": deviation, "subsets": 100, "subset_size": size}


def _inception_score(real: Real, generated: FeatureSet) -> Values:
    if generated.logits is None:
        raise InputError("score is needs the logits of the generated images; extract features with_logits")
    mean, deviation = inception_score(generated.logits)
    return {"value": mean, "deviation": deviation, "splits": 10}


def _precision(real: Any, generated: FeatureSet) -> Values:
    return {"value": precision_recall(real.vectors, generated.vectors)[0], "neighbours": 3}


def _recall(real: Any, generated: FeatureSet) -> Values:
    return {"value": precision_recall(real.vectors, generated.vectors)[1], "neighbours": 3}


def _density(real: Any, generated: FeatureSet) -> Values:
    return {"value": density_coverage(real.vectors, generated.vectors)[0], "neighbours": 5}


def _coverage(real: Any, generated: FeatureSet) -> Values:
    return {"value": density_coverage(real.vectors, generated.vectors)[1], "neighbours": 5}


def _cmmd(real: Any, generated: FeatureSet) -> Values:
    return {"value": clip_maximum_mean_discrepancy(real.vectors, generated.vectors)}


def _mind(real: Any, generated: FeatureSet) -> Values:
    return {"value": sliced_wasserstein_distance(real.vectors, generated.vectors), "projections": 1000}


def _mifid(real: Any, generated: FeatureSet) -> Values:
    distance = memorization_distance(generated.vectors, real.vectors)
    return {
        "value": memorization_informed_distance(_fid(real, generated)["value"], distance),
        "memorization_distance": distance,
    }


def _class_fid(real: Any, generated: FeatureSet) -> Values:
    by_class = class_frechet_distances(real.vectors, _labels(real), generated.vectors, _labels(generated))
    return {"value": sum(by_class.values()) / len(by_class), "by_class": by_class}


def _class_accuracy(real: Any, generated: FeatureSet) -> Values:
    value = class_accuracy(real.vectors, _labels(real), generated.vectors, _labels(generated))
    return {"value": value, "classifier": "linear discriminant analysis of the reference features"}


def _labels(features: FeatureSet) -> Tensor:
    if features.labels is None:
        raise InputError(
            f"scores by class need labelled images; those of {features.images.get('source')} have no classes"
        )
    return features.labels


FeatureScore = Callable[[Any, FeatureSet], Values]

FEATURE_SCORES: dict[str, tuple[str, FeatureScore]] = {
    "fid": ("FID", _fid),
    "fid-infinity": ("FID-infinity", _fid_infinity),
    "kid": ("KID", _kid),
    "is": ("IS", _inception_score),
    "precision": ("precision", _precision),
    "recall": ("recall", _recall),
    "density": ("density", _density),
    "coverage": ("coverage", _coverage),
    "cmmd": ("CMMD", _cmmd),
    "mind": ("MIND", _mind),
    "mifid": ("MiFID", _mifid),
    "class-fid": ("class FID", _class_fid),
    "class-accuracy": ("class accuracy", _class_accuracy),
}
"""What each score is called with the standard Inception, and how it is taken."""

_OF_STATISTICS = ("fid", "fid-infinity", "is")
_RESAMPLED = ("fid", "is", "cmmd", "mind")  # those without neighbours, which copies of an image would bring to 0
