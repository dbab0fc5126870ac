"""Wasserstein VQ (arXiv 2506.15078): the codebook is drawn to the distribution of the features."""

from torch import Tensor

from .distribution import gaussian_wasserstein_distance, mean_and_covariance
from .errors import InputError
from .moments import MomentWindow
from .quantizer import Quantizer, commitment_and_codebook_loss


class WassersteinQuantizer(Quantizer):
    """The VQ-VAE loss plus gamma times the 2-Wasserstein distance between features and codes, both taken as Gaussian.

    The features' side is detached, so the distance moves only the codebook; every code gets a gradient from it, used or
    not, which is what keeps codes from dying. As in the paper's VQ-VAE code path the distance is divided by the largest
    standard deviation of a feature channel (detached), so that gamma does not depend on the scale of the features.

    Args:
        codebook_size, codebook_dim, init_std: see `Quantizer`; codebook_size must be above codebook_dim, or the
            codes have no full covariance to match.
        commitment_weight: beta; 0.1 is the paper's.
        codebook_weight: alpha; 1.0 is the paper's.
        wasserstein_weight: gamma; 0.5 is the paper's.
        statistics_window: batches over which the features' mean and covariance are taken; 8 is the paper's.
    """

    def __init__(
        self,
        codebook_size: int,
        codebook_dim: int,
        init_std: float = 0.01,
        commitment_weight: float = 0.1,
        codebook_weight: float = 1.0,
        wasserstein_weight: float = 0.5,
        statistics_window: int = 8,
    ):
        super().__init__(codebook_size, codebook_dim, init_std)
        if codebook_size <= codebook_dim:
            raise InputError(f"codebook_size is {codebook_size}; it must be above codebook_dim, {codebook_dim}")
        if statistics_window < 1:
            raise InputError(f"statistics_window is {statistics_window}; it must be at least 1 batch")
        self.commitment_weight, self.codebook_weight = commitment_weight, codebook_weight
        self.wasserstein_weight = wasserstein_weight
        self.features = MomentWindow(codebook_dim, statistics_window)

    def objective(self, vectors: Tensor, quantized: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        commitment, codebook = commitment_and_codebook_loss(vectors, quantized)
        loss = self.commitment_weight * commitment + self.codebook_weight * codebook
        terms = {"commitment_loss": commitment, "codebook_loss": codebook}
        if self.training:
            self.features.push(vectors.detach())
            feature_mean, feature_covariance = self.features.mean_and_covariance()
            scale = feature_covariance.diagonal().max().clamp(min=1e-12).sqrt()
            code_mean, code_covariance = mean_and_covariance(self.codebook)
            distance = gaussian_wasserstein_distance(feature_mean, feature_covariance, code_mean, code_covariance)
            terms["wasserstein_distance"] = (distance / scale).float()
            loss = loss + self.wasserstein_weight * terms["wasserstein_distance"]
        return loss, terms
