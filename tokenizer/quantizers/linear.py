"""SimVQ: a frozen codebook behind a linear map (arXiv 2411.02038)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .gradient import GradientEstimator
from .initialization import Initialization
from .vanilla import VanillaQuantizer


class LinearQuantizer(VanillaQuantizer):
    """The vanilla loss on codes W e + b: e stays as it was drawn, W (D, D) and b (D,) are learnt.

    Every vector's gradient moves the whole codebook, used codes and unused ones alike.

    Args:
        codebook_size, codebook_dim, init_std, initialization, gradient_estimator: see `Quantizer`; init_std and
            initialization are those of e, and with codes from data W starts as the identity.
        commitment_weight: beta, weight of the term that moves the vectors.
        codebook_weight: alpha, weight of the term that moves the codes.
    """

    def __init__(
        self,
        codebook_size: int,
        codebook_dim: int,
        init_std: float = 1.0,
        initialization: Initialization = "normal",
        gradient_estimator: GradientEstimator = "straight-through",
        commitment_weight: float = 1.0,
        codebook_weight: float = 1.0,
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
        self.weight.requires_grad_(False)
        self.map = nn.Linear(codebook_dim, codebook_dim)

    @property
    def codebook(self) -> Tensor:
        return self.map(self.weight)

    def lookup(self, indices: Tensor) -> Tensor:
        return self.map(F.embedding(indices, self.weight))

    @torch.no_grad()
    def set_codes(self, codes: Tensor) -> None:
        self.weight.copy_(codes)
        nn.init.eye_(self.map.weight)
        nn.init.zeros_(self.map.bias)
