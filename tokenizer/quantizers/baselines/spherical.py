"""Codes and vectors of unit length (ViT-VQGAN, arXiv 2110.04627)."""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from ..vanilla import VanillaQuantizer


@dataclass(kw_only=True, eq=False, repr=False)
class SphericalQuantizer(VanillaQuantizer):
    """The vanilla loss between vectors and codes that are both divided by their lengths: the nearest code is the one
    of the largest cosine (arXiv 2110.04627, section 3.2).

    What comes out is of unit length as well, and the gradient passes through the division. The paper takes 8,192 codes
    of 32 dimensions, to which a linear layer leads, as `TokenizerConfig`'s codebook_dim does here.

    Args:
        codebook_size, codebook_dim, init_std, initialization, initialization_steps, gradient_estimator, revival: see
            `CodebookQuantizer`; init_std is that of the codes before they are divided: the shorter they are, the
            faster a step turns them.
        commitment_weight: beta, weight of the term that moves the vectors; 0.25 is the paper's.
        codebook_weight: alpha, weight of the term that moves the codes.

    Raises:
        InputError: as `CodebookQuantizer`.
    """

    init_std: float = 1.0
    commitment_weight: float = 0.25

    @property
    def codebook(self) -> Tensor:
        return F.normalize(self.weight, dim=1)

    def project(self, vectors: Tensor) -> Tensor:
        return F.normalize(vectors, dim=1)
