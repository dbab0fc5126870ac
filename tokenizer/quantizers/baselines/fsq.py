"""Finite scalar quantization (arXiv 2309.15505): every coordinate is rounded, and nothing is searched."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from ...errors import InputError
from ..base import Quantizer
from ..gradient import straight_through

_SMALLEST, _LARGEST = 4, 8  # levels that are derived: the paper advises at least 5, and has 8 at most


@dataclass(kw_only=True, eq=False, repr=False)
class FSQuantizer(Quantizer):
    """Each of d coordinates is bounded by a tanh and rounded to one of its levels; the codes are all combinations.

    Between the D channels of the features and these d coordinates is a linear map each way, as
    vector-quantize-pytorch has it; without one where D = d, which is the paper's. There is no loss: the gradient of the
    reconstruction passes straight through the rounding.

    Source: arXiv 2309.15505.

    Args:
        codebook_size: K, the product of the levels.
        codebook_dim: D.
        levels: how many values each coordinate has, at least 2. None for the fewest of 4 to 8 whose product is K, and
            among these the most even ones, largest first: those of the paper's table 1 for its products (8, 6, 5 for
            240; 8, 5, 5, 5 for 1,000; 7, 5, 5, 5, 5 for 4,375; 8, 8, 8, 6, 5 for 15,360; 8, 8, 8, 5, 5, 5 for 64,000),
            and 8, 8, 8, 8, 4 for 16,384.

    Raises:
        InputError: for levels of another product, or a K that is no such product.
    """

    levels: Sequence[int] | None = None

    learns_by_loss: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        levels = levels_of(self.codebook_size) if self.levels is None else list(self.levels)
        if any(type(level) is not int or level < 2 for level in levels):
            raise InputError(f"levels is {self.levels}; each must be an integer, at least 2")
        if math.prod(levels) != self.codebook_size:
            raise InputError(
                f"levels is {self.levels}, of product {math.prod(levels)}; it must be codebook_size, "
                f"{self.codebook_size}"
            )
        mapped = len(levels) != self.codebook_dim
        self.project_in = nn.Linear(self.codebook_dim, len(levels)) if mapped else nn.Identity()
        self.project_out = nn.Linear(len(levels), self.codebook_dim) if mapped else nn.Identity()
        # Follow from the options, and so are no part of what is saved.
        self.counts: Tensor
        self.strides: Tensor
        self.register_buffer("counts", torch.tensor(levels), persistent=False)
        strides = torch.tensor([math.prod(levels[:place]) for place in range(len(levels))])
        self.register_buffer("strides", strides, persistent=False)

    @property
    def codebook(self) -> Tensor:
        return self.lookup(torch.arange(self.codebook_size, device=self.counts.device))

    def lookup(self, indices: Tensor) -> Tensor:
        digits = indices[..., None] // self.strides % self.counts
        return self.project_out(self._scaled(digits - self.counts // 2))

    def assign(self, vectors: Tensor) -> Tensor:
        digits = self._bounded(vectors).round().long() + self.counts // 2
        return (digits * self.strides).sum(dim=1)

    def unrounded(self, vectors: Tensor) -> Tensor:
        return self.project_out(self._scaled(self._bounded(vectors)))

    def estimate(self, vectors: Tensor, quantized: Tensor) -> Tensor:
        bounded = self._bounded(vectors)
        return self.project_out(self._scaled(straight_through(bounded, bounded.round())))

    def objective(self, vectors: Tensor, quantized: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        return vectors.new_zeros(()), {}

    def _bounded(self, vectors: Tensor) -> Tensor:
        """Vectors (N, D) to coordinates (N, d) that are rounded to -(L // 2), ..., (L - 1) // 2, where 0 stays 0."""
        half = (self.counts - 1) / 2 + 1e-3  # so that the outermost levels are reached
        offset = (self.counts % 2 == 0) / 2  # an even number of levels lies around -1/2
        return torch.tanh(self.project_in(vectors) + torch.atanh(offset / half)) * half - offset

    def _scaled(self, rounded: Tensor) -> Tensor:
        """Coordinates (..., d) to [-1, 1]."""
        return rounded / (self.counts // 2)


def levels_of(codebook_size: int) -> list[int]:
    """The fewest numbers from 4 to 8 of that product, and of these the most even, largest first.

    Raises:
        InputError: if there are none.
    """

    def products(rest: int, largest: int) -> list[list[int]]:
        """All ways to write rest, in factors from 4 to largest that do not grow."""
        if rest == 1:
            return [[]]
        factors = [factor for factor in range(largest, _SMALLEST - 1, -1) if rest % factor == 0]
        return [[factor, *others] for factor in factors for others in products(rest // factor, factor)]

    if not (found := products(codebook_size, _LARGEST)):
        raise InputError(
            f"codebook_size is {codebook_size}, which is no product of numbers from {_SMALLEST} to {_LARGEST}; give "
            "levels, or take another size, as a power of 2 (4 or more)"
        )
    return min(found, key=lambda levels: (len(levels), sum(levels)))
