"""SimVQ: a frozen codebook behind a linear map (arXiv 2411.02038)."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...errors import InputError
from ..vanilla import VanillaQuantizer


@dataclass(kw_only=True, eq=False, repr=False)
class LinearQuantizer(VanillaQuantizer):
    """The vanilla loss on codes W e + b: e stays as it was drawn, W (D, D) and b (D,) are learnt.

    Every vector's gradient moves the whole codebook, used codes and unused ones alike.

    Source: SimVQ, arXiv 2411.02038.

    Args:
        codebook_size, codebook_dim, init_std, initialization, initialization_steps, gradient_estimator, revival: see
            `CodebookQuantizer`; init_std and initialization are those of e, and with codes from data W starts as the
            identity. There is no revival.
        commitment_weight: beta, weight of the term that moves the vectors.
        codebook_weight: alpha, weight of the term that moves the codes.

    Raises:
        InputError: for a revival other than 0, and as `CodebookQuantizer`.
    """

    init_std: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.revival:
            raise InputError(f"revival is {self.revival}; a linear map moves all codes at once, it must be 0")
        self.weight.requires_grad_(False)
        self.map = nn.Linear(self.codebook_dim, self.codebook_dim)

    @property
    def codebook(self) -> Tensor:
        return self.map(self.weight)

    def lookup(self, indices: Tensor) -> Tensor:
        return self.map(F.embedding(indices, self.weight))

    @torch.no_grad()
    def set_codes(self, codes: Tensor) -> None:
        self.weight.copy_(codes)
        self.map.weight.copy_(torch.eye(self.codebook_dim, device=self.map.weight.device))
        nn.init.zeros_(self.map.bias)
