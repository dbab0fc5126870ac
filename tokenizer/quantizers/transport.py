"""Transport VQ: the codebook is carried to the mean and covariance of the features by the optimal map."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..decided_there import moved_only_where
from ..errors import InputError
from ..precision import to_float64
from .gaussian import gaussian_transport_map, mean_and_covariance
from .moment_matching import MomentMatchingQuantizer
from .running_means import RunningMeans


@dataclass(kw_only=True, eq=False, repr=False)
class TransportQuantizer(MomentMatchingQuantizer):
    """The VQ-VAE loss, and codes that are carried to where the loss of `WassersteinQuantizer` would pull them.

    The optimal map between two Gaussians is affine and known in closed form, so the codebook goes the whole way once,
    after the first step, and a small part of it in each step that follows, while the encoder moves. Codes that start
    from data have no way to go at first.

    Source: this project.

    Args:
        codebook_size, codebook_dim, init_std, initialization, initialization_steps, gradient_estimator, revival: see
            `CodebookQuantizer`; codebook_size must be above codebook_dim, or the codes have no full covariance to
            match.
        commitment_weight: beta, weight of the term that moves the vectors.
        codebook_weight: alpha, weight of the term that moves the codes; without effect if a decay is given.
        statistics_window: steps over which the features' mean and covariance are taken.
        scale_free: whether the distance that is reported is divided by the features' largest standard deviation.
        transport_step: part of the way to the features that is gone in each step, in [0, 1].
        decay: codes follow their vectors by moving averages of this decay, in [0, 1), instead of by gradient; None for
            the gradient.

    Raises:
        InputError: for a transport_step outside [0, 1], a decay outside [0, 1), and as `WassersteinQuantizer`.
    """

    transport_step: float = 0.05
    decay: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_transport_step(self.transport_step)
        if self.decay is not None and not 0 <= self.decay < 1:
            raise InputError(f"decay is {self.decay}; it must be in [0, 1), or None")
        self.means = None
        if self.decay is not None:
            self.means = RunningMeans(self.codebook_size, self.decay)
            self.weight.requires_grad_(False)

    def objective(self, vectors: Tensor, quantized: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        if self.means is None:
            return super().objective(vectors, quantized)
        commitment = F.mse_loss(vectors, quantized)  # the codes follow without gradient
        return self.commitment_weight * commitment, {"commitment_loss": commitment}

    @torch.no_grad()
    def codebook_step(self, vectors: Tensor, indices: Tensor) -> tuple[Tensor | None, dict[str, Tensor]]:
        # Codes from data are where the features are.
        stays = (self.features.position > 0).to(self.weight.device) | self.starts_from_data
        self.features.push(vectors)
        features = self.features.mean_and_covariance()
        if self.means is not None:
            with moved_only_where(stays, [self.weight, self.means.counts]):
                self.means.update(self.weight.data, vectors, indices)
        self._transport(*features, step=torch.where(stays, self.transport_step, 1.0))
        return None, {"wasserstein_distance": self.wasserstein_distance(*features)}

    def _transport(self, feature_mean: Tensor, feature_covariance: Tensor, step: Tensor) -> None:
        """Move the codes by `step`, a scalar, of the way to the features' mean and covariance."""
        code_mean, code_covariance = mean_and_covariance(self.weight)
        matrix, offset = gaussian_transport_map(code_mean, code_covariance, feature_mean, feature_covariance)
        codes = to_float64(self.weight)
        way = codes @ matrix.mT + offset - codes
        self.weight.data.copy_((codes + step.to(way) * way).float())


def check_transport_step(step: float) -> None:
    """Raises: InputError: unless 0 <= step <= 1."""
    if not 0 <= step <= 1:
        raise InputError(f"transport_step is {step}; it must be in [0, 1]")
