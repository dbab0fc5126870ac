"""`FrechetDistance` against scipy, with extractors of all kinds and with a reference computed before."""

from dataclasses import replace
from typing import ClassVar

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import Tensor, nn

from wvq.eval import Extractor, FrechetDistance, ReferenceStatistics
from wvq.tokenizer.errors import InputError


class Projection(nn.Module):
    """A foreign extractor as a user may bring one: with dropout and batch statistics, in train mode."""

    def __init__(self, dimension: int, pixels: int = 28 * 28):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.weight = nn.Parameter(torch.randn(dimension, pixels, generator=generator) / pixels**0.5)
        self.norm = nn.BatchNorm1d(dimension)
        self.dropout = nn.Dropout(0.5)

    def forward(self, images: Tensor) -> Tensor:
        features = images.flatten(1).float() / 255 @ self.weight.mT
        return self.dropout(self.norm(features))


class FixedProjection(Extractor):
    """An `Extractor` of its own, small and quick."""

    name = "projection"
    dimension: ClassVar[int] = 24
    input_size = 28
    resize = "none"
    weights_sha256 = "0" * 64

    def __init__(self):
        super().__init__()
        self.network = Projection(self.dimension, 3 * 28 * 28).eval()

    def features(self, images: Tensor) -> Tensor:
        return self.network(images)


def distance_of(real: Tensor, generated: Tensor, dimension: int, batch_size: int = 64) -> Tensor:
    distance = FrechetDistance(Projection(dimension), image_shape=(1, 28, 28))
    for images, side in ((real, True), (generated, False)):
        for batch in images.split(batch_size):
            distance.update(batch, real=side)
    return distance.compute()


def features_of(images: Tensor, dimension: int) -> np.ndarray:
    with torch.no_grad():
        return Projection(dimension).eval()(images).double().numpy()


def test_identical_images_are_at_distance_zero(fashion_images: tuple[Tensor, Tensor]) -> None:
    images = fashion_images[0][:300]
    value = distance_of(images, images, 32)
    assert value.dtype == torch.float64
    assert 0 <= value < 1e-6


def test_identical_images_are_at_distance_zero_in_fewer_images_than_dimensions(
    fashion_images: tuple[Tensor, Tensor],
) -> None:
    images = fashion_images[0][:40]
    assert 0 <= distance_of(images, images, 256) < 1e-6


def test_equals_scipy_sqrtm(fashion_images: tuple[Tensor, Tensor]) -> None:
    real, generated = fashion_images[0][:300], fashion_images[0][300:]
    a, b = features_of(real, 32), features_of(generated, 32)
    cov_a, cov_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    root = np.real(np.asarray(scipy.linalg.sqrtm(cov_a @ cov_b)))
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(cov_a + cov_b - 2 * root)
    assert float(distance_of(real, generated, 32)) == pytest.approx(expected, rel=1e-6)


def test_equals_the_exact_value_with_fewer_images_than_dimensions(fashion_images: tuple[Tensor, Tensor]) -> None:
    # sqrtm loses half its digits here. With S1 = X'X and S2 = Y'Y, tr (S1 S2)^1/2 is the nuclear norm of X Y'.
    real, generated = fashion_images[0][:50], fashion_images[0][50:90]
    a, b = features_of(real, 256), features_of(generated, 256)
    x, y = (a - a.mean(0)) / 49**0.5, (b - b.mean(0)) / 39**0.5
    cross = np.linalg.norm(x @ y.T, "nuc")
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + (x**2).sum() + (y**2).sum() - 2 * cross
    assert float(distance_of(real, generated, 256)) == pytest.approx(expected, rel=1e-6)


def test_the_split_into_batches_changes_nothing(fashion_images: tuple[Tensor, Tensor]) -> None:
    real, generated = fashion_images[0][:300], fashion_images[0][300:]
    whole = distance_of(real, generated, 16, batch_size=300)
    assert distance_of(real, generated, 16, batch_size=7) == pytest.approx(float(whole), rel=1e-5)


def test_a_foreign_extractor_is_put_and_kept_in_eval_mode(fashion_images: tuple[Tensor, Tensor]) -> None:
    images = fashion_images[0][:64]
    module = Projection(8).train()
    distance = FrechetDistance(module, image_shape=(1, 28, 28))
    assert not module.training
    module.train()
    distance.train()
    distance.update(images, real=True)
    distance.update(images, real=False)
    assert distance.compute() < 1e-6
    assert not module.dropout.training
    assert module.norm.num_batches_tracked == 0, "batch statistics must not move"
    assert not hasattr(module, "num_features")


def test_the_dimension_may_be_declared(fashion_images: tuple[Tensor, Tensor]) -> None:
    module = Projection(8)
    module.register_buffer("num_features", torch.tensor(8))
    distance = FrechetDistance(module)  # the default image_shape would not fit
    distance.update(fashion_images[0][:5], real=True)
    assert len(distance.real_features_sum) == 8


def test_a_module_that_fails_on_the_blank_image_says_what_to_do() -> None:
    with pytest.raises(InputError, match=r"Projection failed .*num_features, or pass its image_shape"):
        FrechetDistance(Projection(8))


def test_a_module_that_does_not_return_a_matrix_is_refused() -> None:
    distance = FrechetDistance(nn.Identity(), image_shape=(1, 4, 4))
    with pytest.raises(InputError, match=r"returned \(2, 1, 4, 4\) for 2 images"):
        distance.update(torch.zeros(2, 1, 4, 4, dtype=torch.uint8), real=True)


def test_only_uint8_is_taken() -> None:
    distance = FrechetDistance(FixedProjection())
    for images in (torch.rand(2, 3, 28, 28), torch.zeros(2, 3, 28, 28, dtype=torch.int64)):
        with pytest.raises(InputError, match=r"must be torch\.uint8"):
            distance.update(images, real=True)


@pytest.mark.parametrize("counts", [(1, 5), (5, 1), (0, 5)])
def test_fewer_than_two_images_are_refused(counts: tuple[int, int]) -> None:
    distance = FrechetDistance(FixedProjection())
    images = torch.zeros(5, 3, 28, 28, dtype=torch.uint8)
    for count, real in zip(counts, (True, False), strict=True):
        if count:
            distance.update(images[:count], real=real)
    with pytest.raises(InputError, match="at least 2"):
        distance.compute()


def test_reset_keeps_the_real_side_if_asked(fashion_images: tuple[Tensor, Tensor]) -> None:
    real, generated = fashion_images[0][:100], fashion_images[0][100:200]
    kept = FrechetDistance(FixedProjection(), reset_real_features=False)
    forgotten = FrechetDistance(FixedProjection())
    for distance in (kept, forgotten):
        distance.update(real, real=True)
        distance.update(generated, real=False)
        distance.compute()
        distance.reset()
        assert distance.fake_features_num_samples == 0
    assert kept.real_features_num_samples == 100
    assert forgotten.real_features_num_samples == 0
    kept.update(real, real=False)
    assert kept.compute() < 1e-6


# --- a reference computed before ---


def reference_of(images: Tensor, extractor: Extractor) -> ReferenceStatistics:
    distance = FrechetDistance(extractor)
    distance.update(images, real=True)
    return ReferenceStatistics(*distance.statistics(real=True), extractor.protocol, {"fingerprint": "f"})


def test_reference_statistics_replace_the_real_side(fashion_images: tuple[Tensor, Tensor]) -> None:
    real, generated = fashion_images[0][:300], fashion_images[0][300:]
    extractor = FixedProjection()
    both = FrechetDistance(extractor)
    both.update(real, real=True)
    both.update(generated, real=False)
    given = FrechetDistance(extractor, reference=reference_of(real, extractor))
    given.update(generated, real=False)
    assert given.compute() == both.compute()
    with pytest.raises(InputError, match="real side is the given reference"):
        given.update(real, real=True)


def test_a_reference_of_another_extractor_is_refused_with_the_difference(
    fashion_images: tuple[Tensor, Tensor],
) -> None:
    extractor = FixedProjection()
    reference = reference_of(fashion_images[0][:50], extractor)
    other = replace(reference, extractor={**extractor.protocol, "resize": "64x64"})
    with pytest.raises(InputError, match="another extractor: resize is '64x64' there and 'none' here"):
        FrechetDistance(extractor, reference=other)
    with pytest.raises(InputError, match="name is 'projection' there and None here"):
        FrechetDistance(Projection(24, 3 * 28 * 28), reference=reference)
