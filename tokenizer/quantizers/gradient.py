"""How the gradient of the codes reaches the vectors that were rounded to them."""

from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import InputError

_LARGEST_SCALE = 1000

GradientEstimator = Literal["straight-through", "rotation"]


def check_gradient_estimator(name: str) -> None:
    """Check the name of a gradient estimator.

    Raises:
        InputError: if it is unknown.
    """
    if name not in get_args(GradientEstimator):
        raise InputError(f"gradient_estimator is '{name}'; valid are {', '.join(get_args(GradientEstimator))}")


def straight_through(vectors: Tensor, codes: Tensor) -> Tensor:
    """The codes (N, D) with the gradient of the vectors (N, D): dL/dz = dL/dq (arXiv 1308.3432)."""
    return vectors + (codes - vectors).detach()


def rotation_trick(vectors: Tensor, codes: Tensor) -> Tensor:
    """The codes (N, D), reached from the vectors by a rotation and a scaling that are held constant (arXiv 2410.06424).

    q = |q| / |z| R z with R = I - 2 r r^T + 2 q^ z^^T, r = (z^ + q^) / |z^ + q^|, ^ for unit length. The gradient is
    turned and scaled with it, so that vectors of one cell get gradients of different directions. A vector more than
    1,000 times shorter than its code has no direction worth the name, and the scale would be without bound: there the
    gradient passes straight through.
    """
    z, q = vectors.detach(), codes.detach()
    unit_z, unit_q = F.normalize(z, dim=1), F.normalize(q, dim=1)
    between = F.normalize(unit_z + unit_q, dim=1)
    lengths, code_lengths = z.norm(dim=1, keepdim=True), q.norm(dim=1, keepdim=True)
    shortest = (code_lengths / _LARGEST_SCALE).clamp(min=torch.finfo(z.dtype).tiny)
    scale = code_lengths / torch.maximum(lengths, shortest)
    turned = (
        vectors
        - 2 * (vectors * between).sum(dim=1, keepdim=True) * between
        + 2 * (vectors * unit_z).sum(dim=1, keepdim=True) * unit_q
    )
    moved = torch.where(lengths < shortest, vectors, scale * turned)
    return moved + (q - moved).detach()  # the value is the code itself, free of rounding
