"""A Gaussian codebook that is never trained, in the manner of Gaussian Quant (arXiv 2512.06609)."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ...errors import InputError
from ...precision import to_float64
from ..base import Quantizer
from ..gaussian import MomentWindow
from ..nearest import nearest_codes


@dataclass(kw_only=True, eq=False, repr=False)
class GaussianQuantizer(Quantizer):
    """Codes drawn from N(0, I) once and for all; features are whitened, and each gets the code that is nearest there.

    The codes that come out are put back to the mean and covariance of the features, so that they lie where the features
    are, and there the commitment loss is taken: where features are white its gradient would grow without bound as a
    direction loses its variance. Mean and covariance are those of the last steps; in evaluation they stay what they
    were.

    In the paper a VAE's posterior N(mu, sigma^2) is held near N(0, I) by a KL term, whose mean is driven to log2(K)
    bits for each code; the code is the one of the largest density ratio to N(0, I). Here there is neither a posterior
    nor a KL term: the whitening makes the features' mean 0 and their covariance I, and sigma is one for all, so that
    the code is the nearest one. The authors' program spreads the codes by a Sobol' sequence; here they are independent
    draws, as in the paper's text.

    Source: after Gaussian Quant, arXiv 2512.06609.

    Args:
        codebook_size, codebook_dim: see `Quantizer`.
        commitment_weight: beta, weight of the term that moves the vectors; 0.25 is VQ-VAE's, the paper has none.
        statistics_window: steps over which the features' mean and covariance are taken.

    Raises:
        InputError: for a statistics_window below 1, and as `Quantizer`.
    """

    commitment_weight: float = 0.25
    statistics_window: int = 8

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.statistics_window < 1:
            raise InputError(f"statistics_window is {self.statistics_window}; it must be at least 1 batch")
        dim = self.codebook_dim
        self.white_codes: Tensor
        self.mean: Tensor
        self.root: Tensor
        self.whitening: Tensor
        self.register_buffer("white_codes", torch.randn(self.codebook_size, dim))
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("root", torch.eye(dim))  # of the covariance
        self.register_buffer("whitening", torch.eye(dim))  # its inverse
        self.features = MomentWindow(dim, self.statistics_window)

    @property
    def codebook(self) -> Tensor:
        return self.white_codes @ self.root + self.mean

    def assign(self, vectors: Tensor) -> Tensor:
        return nearest_codes((vectors - self.mean) @ self.whitening, self.white_codes)

    def objective(self, vectors: Tensor, quantized: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        commitment = F.mse_loss(vectors, quantized)
        return self.commitment_weight * commitment, {"commitment_loss": commitment}

    @torch.no_grad()
    def codebook_step(self, vectors: Tensor, indices: Tensor) -> tuple[Tensor | None, dict[str, Tensor]]:
        self.features.push(vectors)
        mean, covariance = map(to_float64, self.features.mean_and_covariance())
        eigenvalues, axes = torch.linalg.eigh(covariance)
        # Directions without variance have no code but the mean, and are not made white.
        rounding = eigenvalues[-1] * len(eigenvalues) * torch.finfo(eigenvalues.dtype).eps
        deviations = torch.where(eigenvalues > rounding, eigenvalues.clamp(min=0), 0.0).sqrt()
        inverse = torch.where(deviations > 0, 1 / deviations, 0.0)
        self.mean.copy_(mean)
        self.root.copy_((axes * deviations) @ axes.mT)
        self.whitening.copy_((axes * inverse) @ axes.mT)
        return None, {}
