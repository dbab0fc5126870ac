"""Wasserstein VQ (arXiv 2506.15078): the codebook is drawn to the distribution of the features."""

from dataclasses import dataclass

from torch import Tensor

from .moment_matching import MomentMatchingQuantizer


@dataclass(kw_only=True, eq=False, repr=False)
class WassersteinQuantizer(MomentMatchingQuantizer):
    """The VQ-VAE loss plus gamma times the 2-Wasserstein distance between features and codes, taken as Gaussian.

    The features' side is detached, so the distance moves only the codebook; every code gets a gradient from it, used or
    not, which is what keeps codes from dying.

    Source: arXiv 2506.15078.

    Args:
        codebook_size, codebook_dim, init_std, initialization, initialization_steps, gradient_estimator, revival: see
            `CodebookQuantizer`; codebook_size must be above codebook_dim, or the codes have no full covariance to
            match.
        commitment_weight: beta; 0.1 is the paper's.
        codebook_weight: alpha; 1.0 is the paper's.
        statistics_window: steps over which the features' mean and covariance are taken; 8 is the paper's.
        scale_free: whether the distance is divided by the features' largest standard deviation, so that gamma does not
            depend on their scale.
        wasserstein_weight: gamma; 0.5 is the paper's.

    Raises:
        InputError: for a codebook_size that is too small, a statistics_window below 1, and as `CodebookQuantizer`.
    """

    wasserstein_weight: float = 0.5

    def codebook_step(self, vectors: Tensor, indices: Tensor) -> tuple[Tensor | None, dict[str, Tensor]]:
        self.features.push(vectors)
        distance = self.wasserstein_distance(*self.features.mean_and_covariance())
        return self.wasserstein_weight * distance, {"wasserstein_distance": distance}
