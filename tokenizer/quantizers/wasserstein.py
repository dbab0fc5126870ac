"""Wasserstein VQ (arXiv 2506.15078): the codebook is drawn to the distribution of the features."""

from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import InputError
from .ema import RunningMeans
from .gaussian import MomentWindow, gaussian_transport_map, gaussian_wasserstein_distance, mean_and_covariance
from .gradient import GradientEstimator
from .initialization import Initialization
from .vanilla import VanillaQuantizer

Alignment = Literal["loss", "transport"]


class WassersteinQuantizer(VanillaQuantizer):
    """The VQ-VAE loss, and a codebook that is held at the mean and covariance of the features.

    With alignment "loss", the paper's method, gamma times the 2-Wasserstein distance between features and codes, both
    taken as Gaussian, is added to the loss. The features' side is detached, so the distance moves only the codebook;
    every code gets a gradient from it, used or not, which is what keeps codes from dying. As in the paper's VQ-VAE code
    path the distance is divided by the largest standard deviation of a feature channel (detached), so that gamma does
    not depend on the scale of the features.

    With alignment "transport" the codes are carried there instead: the optimal map between two Gaussians is affine and
    known in closed form, so the codebook goes the whole way once, after the first step, and a small part of it in each
    step that follows, while the encoder moves.

    Args:
        codebook_size, codebook_dim, init_std, initialization, gradient_estimator: see `Quantizer`; codebook_size must
            be above codebook_dim, or the codes have no full covariance to match.
        commitment_weight: beta; 0.1 is the paper's.
        codebook_weight: alpha; 1.0 is the paper's.
        wasserstein_weight: gamma, for alignment "loss"; 0.5 is the paper's.
        statistics_window: steps over which the features' mean and covariance are taken; 8 is the paper's.
        alignment: "loss" or "transport".
        transport_step: part of the way to the features that is gone in each step, in [0, 1].
        decay: with alignment "transport", codes follow their vectors by moving averages of this decay, in [0, 1),
            instead of by gradient; None for the gradient.
        scale_free: whether the distance is divided by the features' largest standard deviation.
    """

    def __init__(
        self,
        codebook_size: int,
        codebook_dim: int,
        init_std: float = 0.01,
        initialization: Initialization = "normal",
        gradient_estimator: GradientEstimator = "straight-through",
        commitment_weight: float = 0.1,
        codebook_weight: float = 1.0,
        wasserstein_weight: float = 0.5,
        statistics_window: int = 8,
        alignment: Alignment = "loss",
        transport_step: float = 0.05,
        decay: float | None = None,
        scale_free: bool = True,
    ):
        super().__init__(
            codebook_size,
            codebook_dim,
            init_std,
            initialization,
            gradient_estimator,
            commitment_weight,
            codebook_weight,
        )
        if codebook_size <= codebook_dim:
            raise InputError(f"codebook_size is {codebook_size}; it must be above codebook_dim, {codebook_dim}")
        if statistics_window < 1:
            raise InputError(f"statistics_window is {statistics_window}; it must be at least 1 batch")
        if alignment not in get_args(Alignment):
            raise InputError(f"alignment is '{alignment}'; valid are {', '.join(get_args(Alignment))}")
        if not 0 <= transport_step <= 1:
            raise InputError(f"transport_step is {transport_step}; it must be in [0, 1]")
        if decay is not None and alignment == "loss":
            raise InputError(f"decay is {decay}, but alignment 'loss' moves the codes by gradient; it must be None")
        if decay is not None and not 0 <= decay < 1:
            raise InputError(f"decay is {decay}; it must be in [0, 1), or None")
        self.wasserstein_weight, self.scale_free = wasserstein_weight, scale_free
        self.alignment, self.transport_step = alignment, transport_step
        self.features = MomentWindow(codebook_dim, statistics_window)
        self.means = None
        if decay is not None:
            self.means = RunningMeans(codebook_size, decay)
            self.weight.requires_grad_(False)

    def objective(self, vectors: Tensor, quantized: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        if self.means is None:
            return super().objective(vectors, quantized)
        commitment = F.mse_loss(vectors, quantized)  # the codes follow without gradient
        return self.commitment_weight * commitment, {"commitment_loss": commitment}

    def codebook_step(self, vectors: Tensor, indices: Tensor) -> tuple[Tensor | None, dict[str, Tensor]]:
        first = not self.features.position
        self.features.push(vectors)
        feature_mean, feature_covariance = self.features.mean_and_covariance()
        if self.alignment == "transport":
            with torch.no_grad():
                if self.means is not None and not first:
                    self.means.update(self.weight.data, vectors, indices)
                self._transport(feature_mean, feature_covariance, 1.0 if first else self.transport_step)
        scale = feature_covariance.diagonal().max().clamp(min=1e-12).sqrt() if self.scale_free else 1.0
        code_mean, code_covariance = mean_and_covariance(self.codebook)
        distance = gaussian_wasserstein_distance(feature_mean, feature_covariance, code_mean, code_covariance)
        distance = (distance / scale).float()
        loss = self.wasserstein_weight * distance if self.alignment == "loss" else None
        return loss, {"wasserstein_distance": distance}

    def _transport(self, feature_mean: Tensor, feature_covariance: Tensor, step: float) -> None:
        """Move the codes by `step` of the way to the features' mean and covariance."""
        code_mean, code_covariance = mean_and_covariance(self.weight)
        matrix, offset = gaussian_transport_map(code_mean, code_covariance, feature_mean, feature_covariance)
        codes = self.weight.double()
        self.weight.data.copy_(codes + step * (codes @ matrix.mT + offset - codes))
