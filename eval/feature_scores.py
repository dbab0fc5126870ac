"""Scores of one set of images against another by name, all from the same features, each with its settings."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from wvq.tokenizer.errors import InputError

from .features.classes import labels_by_name
from .features.feature_set import FeatureSet
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
from .score_names import score_label

Values = dict[str, Any]
Real = FeatureSet | ReferenceStatistics


def score_features(
    real: Real,
    generated: FeatureSet,
    scores: Sequence[str] = ("fid",),
    allow_few_images: bool = False,
    resamples: int = 0,
    paired: bool = False,
) -> dict[str, Values]:
    """Scores of `generated` against `real`.

    Args:
        real: features of the reference images; their statistics are enough for fid, sfid, fid-infinity and is.
        generated: features of the images to be scored, of the same extractor.
        scores: any of `FEATURE_SCORES`.
        allow_few_images: whether to give a Fréchet distance of no more images than dimensions.
        resamples: of the bootstrap intervals of fid, sfid, is, cmmd and mind; 0 for none.
        paired: whether image i of `generated` is the reconstruction of image i of `real`; fid-infinity and intervals
            then take or leave both together.

    Returns:
        By name {"score": what it may be called, "value": ..., further numbers and the settings}, JSON-able.

    Raises:
        InputError: for an unknown score, features of two extractors, too few images, or what a score needs and is not
            there: the images of the reference, classes of the same names on both sides.
    """
    unknown = [name for name in scores if name not in FEATURE_SCORES]
    if unknown or not scores:
        raise InputError(f"scores has {unknown[0] if unknown else 'nothing'}; valid are {', '.join(FEATURE_SCORES)}")
    if isinstance(real, ReferenceStatistics):
        real.check_extractor(dict(generated.extractor))
        check_statistics_suffice(scores, real)
    elif different := differences(dict(real.extractor), dict(generated.extractor)):
        raise InputError(f"the reference features are of another extractor: {different}")
    widths = [generated.vectors.shape[1]] if {"fid", "fid-infinity", "mifid"} & set(scores) else []
    if "sfid" in scores and generated.spatial is not None:
        widths = [*widths, generated.spatial.shape[1]]
    for width in widths:
        statistics = real if isinstance(real, ReferenceStatistics) else real.published
        known = statistics.count if statistics else len(real)  # pyright: ignore[reportArgumentType]
        counts = {"generated": len(generated)} | ({} if known is None else {"reference": known})
        check_enough_images(counts, width, allow_few_images)
    if "class-fid" in scores and isinstance(real, FeatureSet):
        numbered = labels_by_name(real.classes, generated.classes, same_classes=True)
        counts = {
            f"{side} class": int(labels.unique(return_counts=True)[1].min())
            for side, labels in (("reference", numbered[0]), ("generated", numbered[1]))
        }
        check_enough_images(counts, generated.vectors.shape[1], allow_few_images)
    results = {}
    for name in scores:
        label, score = FEATURE_SCORES[name]
        if paired and name == "fid-infinity":
            score = partial(_fid_infinity, paired=True)
        results[name] = {"score": score_label(label, generated.extractor), **score(real, generated)}
        if resamples and name in _RESAMPLED:
            results[name] |= _interval(score, real, generated, resamples, paired)
    return results


def check_statistics_suffice(scores: Sequence[str], statistics: ReferenceStatistics) -> None:
    """Refuse scores that need more of the reference than its statistics.

    Raises:
        InputError: that names the first of them.
    """
    needing = [name for name in scores if name not in OF_STATISTICS]
    if needing:
        raise InputError(f"score {needing[0]} needs the images of the reference, not their statistics alone")
    if "sfid" in scores:
        statistics.spatial_mean_and_factor()


def _interval(score: "FeatureScore", real: Real, generated: FeatureSet, resamples: int, paired: bool) -> Values:
    """A 95 % bootstrap interval; rows are drawn by position, so labels and logits stay with their features."""

    def redrawn(generated_rows: Tensor, *real_rows: Tensor) -> float:
        against = real.select((real_rows or [generated_rows])[0]) if isinstance(real, FeatureSet) else real
        return score(against, generated.select(generated_rows))["value"]

    rows = [torch.arange(len(generated))]
    if isinstance(real, FeatureSet) and not paired:
        rows.append(torch.arange(len(real)))
    interval = bootstrap_interval(redrawn, *rows, resamples=resamples)
    return {"low": interval.low, "high": interval.high, "resamples": resamples}


def _fid(real: Real, generated: FeatureSet) -> Values:
    return {"value": float(frechet_distance(*real.mean_and_factor(), *generated.mean_and_factor()))}


def _sfid(real: Real, generated: FeatureSet) -> Values:
    distance = frechet_distance(*real.spatial_mean_and_factor(), *generated.spatial_mean_and_factor())
    return {"value": float(distance), "features": "first 7 channels of mixed_6/conv, 17x17"}


def _fid_infinity(real: Real, generated: FeatureSet, paired: bool = False) -> Values:
    side = real.vectors if isinstance(real, FeatureSet) and not real.published else real.mean_and_factor()
    line = frechet_infinity(side, generated.vectors, paired=paired)
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
    there, here, names = labels_by_name(real.classes, generated.classes, same_classes=True)
    by_class = class_frechet_distances(real.vectors, there, generated.vectors, here)
    return {
        "value": sum(by_class.values()) / len(by_class),
        "by_class": {names[label]: distance for label, distance in by_class.items()},
    }


def _class_accuracy(real: Any, generated: FeatureSet) -> Values:
    there, here, _ = labels_by_name(real.classes, generated.classes, same_classes=False)
    value = class_accuracy(real.vectors, there, generated.vectors, here)
    return {"value": value, "classifier": "linear discriminant analysis of the reference features"}


FeatureScore = Callable[[Any, FeatureSet], Values]

FEATURE_SCORES: dict[str, tuple[str, FeatureScore]] = {
    "fid": ("FID", _fid),
    "sfid": ("sFID", _sfid),
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

BY_CLASS = {"class-fid": True, "class-accuracy": False}
"""Scores by class, and whether both sides must have the same classes."""

OF_STATISTICS = ("fid", "sfid", "fid-infinity", "is")
_RESAMPLED = ("fid", "sfid", "is", "cmmd", "mind")  # without neighbours, which copies of an image would bring to 0
