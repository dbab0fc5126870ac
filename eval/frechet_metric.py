"""The Fréchet distance between two sets of images, in float64."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance

from wvq.tokenizer.errors import InputError
from wvq.tokenizer.precision import keeping_dtype

from .features.reference import ReferenceStatistics
from .metrics.frechet import covariance_factor, frechet_distance


class FrechetDistance(FrechetInceptionDistance):
    """torchmetrics' Fréchet distance without its traps, for any extractor.

    Only uint8 images are taken, the extractor is in eval mode at every update, and sums, covariances and the result are
    float64: the squared 2-Wasserstein distance between the Gaussians of the two sides' features, with unbiased
    covariances, >= 0. Every state is a sum, so any split over batches and processes gives the same distance.

    Args:
        extractor: any module from uint8 images to features (N, d). Its d is its int attribute num_features; without
            one, a blank image of image_shape is put through it.
        reset_real_features: whether `reset` also forgets the real side.
        reference: the real side, computed before by `wvq.eval.reference_statistics`; only images with real=False are
            then taken.
        image_shape: (C, H, W) of that blank image.
        **kwargs: of torchmetrics' `Metric`.

    Raises:
        InputError: if the reference is of an extractor with another protocol, or d cannot be found.

    Example:
        >>> distance = FrechetDistance(build_extractor("efficientnet-lite0"))
        >>> distance.update(originals, real=True)
        >>> distance.update(reconstructions, real=False)
        >>> distance.compute()
    """

    def __init__(
        self,
        extractor: nn.Module,
        reset_real_features: bool = True,
        reference: ReferenceStatistics | None = None,
        image_shape: tuple[int, int, int] = (3, 64, 64),
        **kwargs: Any,
    ):
        if reference is not None:
            reference.check_extractor(getattr(extractor, "protocol", {}))
        # torchmetrics reads the dimension from the module it is given; the user's module stays as it is.
        dimension = nn.Identity()
        dimension.num_features = torch.tensor(_dimension(extractor, image_shape))
        super().__init__(feature=dimension, reset_real_features=reset_real_features, **kwargs)
        self.inception = extractor.eval()
        self.reference = reference

    def _apply(self, fn: Callable[[Tensor], Tensor], exclude_state: Sequence[str] = "") -> nn.Module:
        return super()._apply(keeping_dtype(fn), exclude_state)

    @torch.no_grad()
    def update(self, imgs: Tensor, real: bool) -> None:
        """Count images, uint8 (B, C, H, W), on the real side (the reference) or the other one.

        Raises:
            InputError: for another dtype, for real=True beside a given reference, or if the extractor does not return
                (B, d).
        """
        if imgs.dtype != torch.uint8:
            raise InputError(f"images are {imgs.dtype}; they must be torch.uint8: clamp and round, then cast")
        if real and self.reference is not None:
            raise InputError("real is True, but the real side is the given reference; leave out one of the two")
        self.inception.eval()  # again, since its owner may have called train() in between
        features = self.inception(imgs).to(self.real_features_sum.device).to(self.real_features_sum.dtype)
        if features.shape != (len(imgs), len(self.real_features_sum)):
            raise InputError(
                f"the extractor returned {tuple(features.shape)} for {len(imgs)} images; "
                f"it must return {(len(imgs), len(self.real_features_sum))}"
            )
        if real:
            self.real_features_sum += features.sum(dim=0)
            self.real_features_cov_sum += features.mT @ features
            self.real_features_num_samples += len(imgs)
        else:
            self.fake_features_sum += features.sum(dim=0)
            self.fake_features_cov_sum += features.mT @ features
            self.fake_features_num_samples += len(imgs)

    def statistics(self, real: bool) -> tuple[int, Tensor, Tensor]:
        """Count, mean (d,) and unbiased covariance (d, d), float64, of what one side has counted.

        Raises:
            InputError: with fewer than 2 images.
        """
        if real:
            count, total, outer = self.real_features_num_samples, self.real_features_sum, self.real_features_cov_sum
        else:
            count, total, outer = self.fake_features_num_samples, self.fake_features_sum, self.fake_features_cov_sum
        if count < 2:
            side = "real" if real else "generated"
            raise InputError(f"the {side} side has {int(count)} images; a covariance needs at least 2")
        count = count.to(total.device)
        mean = total / count
        return int(count), mean, (outer - count * torch.outer(mean, mean)) / (count - 1)

    def compute(self) -> Tensor:
        """The distance, a float64 scalar >= 0.

        Raises:
            InputError: with fewer than 2 images on a side.
        """
        generated = self._mean_and_factor(real=False)
        real = self.reference.mean_and_factor() if self.reference else self._mean_and_factor(real=True)
        return frechet_distance(*real, *generated).to(generated[0])

    def _mean_and_factor(self, real: bool) -> tuple[Tensor, Tensor]:
        _, mean, covariance = self.statistics(real)
        return mean, covariance_factor(covariance)


def check_enough_images(counts: dict[str, int], dimension: int, allow_few_images: bool = False) -> None:
    """Refuse a Fréchet distance whose covariances are singular, since its bias then exceeds most differences.

    Args:
        counts: images of each side, by name.
        dimension: d.
        allow_few_images: whether to go on all the same.

    Raises:
        InputError: for a side with no more images than dimensions.
    """
    for side, count in counts.items():
        if count <= dimension and not allow_few_images:
            raise InputError(
                f"a Fréchet distance of {count} {side} images in {dimension} dimensions is mostly bias; use more than "
                f"{dimension} images, KID, or an extractor of fewer dimensions, or set allow_few_images to true"
            )


@torch.no_grad()
def _dimension(extractor: nn.Module, image_shape: tuple[int, int, int]) -> int:
    declared = getattr(extractor, "num_features", None)
    if declared is not None:
        return int(declared)
    parameter = next(extractor.parameters(), None)
    blank = torch.zeros(1, *image_shape, dtype=torch.uint8, device=parameter.device if parameter is not None else None)
    try:
        return extractor.eval()(blank).shape[-1]
    except Exception as error:  # whatever a foreign module raises on images it was not made for
        raise InputError(
            f"extractor {type(extractor).__name__} failed on a uint8 image of shape {tuple(blank.shape)}: {error}; "
            "set its num_features, or pass its image_shape"
        ) from error
