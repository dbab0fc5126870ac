"""What the quantizers share that hold their codebook at the mean and covariance of the features."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ..errors import InputError
from .gaussian import MomentWindow, gaussian_wasserstein_distance, mean_and_covariance
from .vanilla import VanillaQuantizer


@dataclass(kw_only=True, eq=False, repr=False)
class MomentMatchingQuantizer(VanillaQuantizer):
    """The VQ-VAE loss, and a window of the features' moments, which the codes are to have as well.

    Features and codes are both taken as Gaussian; how the codes get there is what a quantizer of this kind is.

    Args:
        codebook_size, codebook_dim, init_std, initialization, initialization_steps, gradient_estimator, revival: see
            `CodebookQuantizer`; codebook_size must be above codebook_dim, or the codes have no full covariance to
            match.
        commitment_weight: beta; 0.1 is the paper's (arXiv 2506.15078).
        codebook_weight: alpha; 1.0 is the paper's.
        statistics_window: steps over which the features' mean and covariance are taken; 8 is the paper's.
        scale_free: whether the distance between both is divided by the features' largest standard deviation.

    Raises:
        InputError: for a codebook_size that is too small, a statistics_window below 1, and as `CodebookQuantizer`.
    """

    step_terms: ClassVar[tuple[str, ...]] = ("wasserstein_distance",)

    commitment_weight: float = 0.1
    statistics_window: int = 8
    scale_free: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.codebook_size <= self.codebook_dim:
            raise InputError(
                f"codebook_size is {self.codebook_size}; it must be above codebook_dim, {self.codebook_dim}"
            )
        if self.statistics_window < 1:
            raise InputError(f"statistics_window is {self.statistics_window}; it must be at least 1 batch")
        self.features = MomentWindow(self.codebook_dim, self.statistics_window)

    def wasserstein_distance(self, mean: Tensor, covariance: Tensor) -> Tensor:
        """Between the codes and features of this mean (D,) and covariance (D, D), a float32 scalar >= 0.

        As in the VQ-VAE code path of the paper it is divided by the largest standard deviation of a feature channel
        (detached), so that it does not depend on the scale of the features; not so without `scale_free`.
        """
        scale = covariance.diagonal().max().clamp(min=1e-12).sqrt() if self.scale_free else 1.0
        distance = gaussian_wasserstein_distance(mean, covariance, *mean_and_covariance(self.codebook))
        return (distance / scale).float().to(self.weight.device)
