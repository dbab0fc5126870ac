"""Scores against torch-fidelity's own functions, on the same features of real images."""

import pytest
from feature_sets import real_and_brighter
from torch import Tensor
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
from torch_fidelity.metric_isc import isc_features_to_metric
from torch_fidelity.metric_kid import kid_features_to_metric
from torch_fidelity.metric_prc import prc_features_to_metric

from wvq.eval.metrics.frechet import frechet_distance, mean_and_factor
from wvq.eval.metrics.inception_score import inception_score
from wvq.eval.metrics.kernel import kernel_inception_distance
from wvq.eval.metrics.precision_recall import precision_recall


def test_scores_equal_torch_fidelity(fashion_images: tuple[Tensor, Tensor]) -> None:
    real, generated = real_and_brighter(fashion_images[0])
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
