"""Online clustered codebook, CVQ-VAE (arXiv 2307.15139)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..distributed import minimum_over_processes, sum_over_processes
from ..errors import InputError
from .nearest import nearest_codes
from .vanilla import VanillaQuantizer


@dataclass(kw_only=True, eq=False, repr=False)
class OnlineQuantizer(VanillaQuantizer):
    """The vanilla quantizer, whose rarely used codes are moved to the vector nearest to them.

    With p_k the moving average of a code's share of the vectors, it moves by a_k = exp(-10 p_k K / (1 - decay) - 1e-3)
    of the way to its anchor, the nearest vector of the step over all processes: a dead code jumps, a code of
    average use does not move.

    Args:
        codebook_size, codebook_dim, init_std, initialization, gradient_estimator: see `Quantizer`.
        commitment_weight: beta, weight of the term that moves the vectors.
        codebook_weight: alpha, weight of the term that moves the codes.
        decay: of the average use, in [0, 1).
    """

    decay: float = 0.99

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.decay < 1:
            raise InputError(f"decay is {self.decay}; it must be in [0, 1)")
        self.usage: Tensor
        self.register_buffer("usage", torch.zeros(self.codebook_size))

    @torch.no_grad()
    def codebook_step(self, vectors: Tensor, indices: Tensor) -> tuple[Tensor | None, dict[str, Tensor]]:
        counts = sum_over_processes(torch.bincount(indices, minlength=self.codebook_size).to(self.usage.dtype))
        self.usage.lerp_(counts / counts.sum(), 1 - self.decay)
        step = torch.exp(-10 * self.codebook_size / (1 - self.decay) * self.usage - 1e-3)
        moved = (step > torch.finfo(step.dtype).eps).nonzero().squeeze(1)  # the others would move by less than rounding
        if len(moved):
            codes = self.weight.data[moved]
            self.weight.data[moved] = codes.lerp(nearest_vectors(codes, vectors), step[moved, None])
        return None, {}


def nearest_vectors(codes: Tensor, vectors: Tensor) -> Tensor:
    """For each code (M, D) the nearest of the vectors (N, D) of all processes, (M, D); a collective call."""
    nearest = vectors[nearest_codes(codes, vectors)]
    distances = (nearest - codes).square().sum(dim=1)
    best = (distances == minimum_over_processes(distances)).to(codes.dtype)[:, None]
    found = sum_over_processes(torch.cat([best * nearest, best], dim=1))
    return found[:, :-1] / found[:, -1:]  # processes that tie share out
