"""Inception score, sliced Wasserstein distance, memorisation and scores by class, against closed forms."""

import pytest
import torch
from feature_sets import normal
from torch import Tensor

from wvq.eval.metrics.by_class import class_accuracy, class_frechet_distances
from wvq.eval.metrics.frechet import frechet_distance, mean_and_factor
from wvq.eval.metrics.inception_score import inception_score
from wvq.eval.metrics.memorization import memorization_distance, memorization_informed_distance, nearest_training_images
from wvq.eval.metrics.sliced_wasserstein import sliced_wasserstein_distance
from wvq.tokenizer.errors import InputError


def test_the_inception_score_is_1_without_variety_and_the_number_of_classes_at_best() -> None:
    assert inception_score(torch.zeros(100, 7))[0] == pytest.approx(1)
    assert inception_score(100 * torch.eye(5).repeat(20, 1), splits=1)[0] == pytest.approx(5)
    with pytest.raises(InputError, match="splits is 10; it must be from 1 to the 4 images"):
        inception_score(torch.zeros(4, 3))


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
