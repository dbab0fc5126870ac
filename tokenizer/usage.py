"""How much of a codebook is used."""

import torch
from torch import Tensor
from torchmetrics import Metric

from .errors import InputError


def utilization(histogram: Tensor) -> Tensor:
    """Share of the codes with at least one count in histogram (K,); in [1/K, 1]. U of arXiv 2506.15078."""
    return (histogram > 0).double().mean()


def perplexity(histogram: Tensor) -> Tensor:
    """exp of the entropy of histogram (K,); in [1, K]. C of arXiv 2506.15078, without its 1e-10 in the logarithm."""
    shares = histogram.double() / histogram.sum()
    return torch.special.entr(shares).sum().exp()


class CodebookUsage(Metric):
    """Utilization and perplexity of a codebook, counted over everything given until `compute`, on all processes.

    Both depend on how much is counted, so they are never averaged over batches.

    Args:
        codebook_size: K.
    """

    full_state_update = False
    histogram: Tensor

    def __init__(self, codebook_size: int):
        super().__init__()
        self.codebook_size = codebook_size
        self.add_state("histogram", torch.zeros(codebook_size, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, indices: Tensor) -> None:
        """Count indices, int64 of any shape, in [0, K).

        Raises:
            InputError: if an index is out of range.
        """
        if indices.numel() and not 0 <= int(indices.min()) <= int(indices.max()) < self.codebook_size:
            raise InputError(
                f"indices reach from {int(indices.min())} to {int(indices.max())}; "
                f"valid are 0 to {self.codebook_size - 1}"
            )
        self.histogram += torch.bincount(indices.flatten(), minlength=self.codebook_size)

    def compute(self) -> dict[str, Tensor]:
        """{"utilization": in [1/K, 1], "perplexity": in [1, K]}, float64 scalars.

        Raises:
            InputError: before the first update.
        """
        if not self.histogram.any():
            raise InputError("no indices were counted; call update before compute")
        return {"utilization": utilization(self.histogram), "perplexity": perplexity(self.histogram)}
