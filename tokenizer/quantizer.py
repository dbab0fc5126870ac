"""What every vector quantizer shares: nearest code, straight-through gradient, the output.

Shapes, here and in all of `wvq`:
    B batch, C image channels, H W image, h w token grid, N vectors (all positions of a batch), K codes, D codebook dim.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from .errors import InputError
from .nearest import nearest_codes


@dataclass
class QuantizerOutput:
    """What a quantizer returns.

    Attributes:
        quantized: the codes in place of the vectors, shape and dtype of the input; gradients pass straight through.
        indices: int64, the input's shape without the channel axis.
        loss: scalar float32, the weighted sum of `terms`.
        terms: each loss term by name, detached and without its weight.
    """

    quantized: Tensor
    indices: Tensor
    loss: Tensor
    terms: dict[str, Tensor]


class Quantizer(nn.Module):
    """Base of the quantizers: a codebook (K, D) and the way from vectors to codes and back.

    Always computed in float32, whatever autocast says: half precision merges neighbouring codes.

    Args:
        codebook_size: K >= 2.
        codebook_dim: D >= 1.
        init_std: standard deviation of the normal distribution from which the codes are drawn; 0.01 is the paper's.

    Raises:
        InputError: for a size, dimension or deviation outside these bounds.
    """

    def __init__(self, codebook_size: int, codebook_dim: int, init_std: float = 0.01):
        super().__init__()
        if codebook_size < 2:
            raise InputError(f"codebook_size is {codebook_size}; a codebook needs at least 2 codes")
        if codebook_dim < 1:
            raise InputError(f"codebook_dim is {codebook_dim}; it must be at least 1")
        if init_std <= 0:
            raise InputError(f"init_std is {init_std}; it must be above 0")
        self.codebook_size, self.codebook_dim = codebook_size, codebook_dim
        self.weight = nn.Parameter(torch.randn(codebook_size, codebook_dim) * init_std)

    @property
    def codebook(self) -> Tensor:
        """The codes, (K, D)."""
        return self.weight

    def lookup(self, indices: Tensor) -> Tensor:
        """Codes of indices (...) in [0, K), as (..., D)."""
        return F.embedding(indices, self.codebook)

    def objective(self, vectors: Tensor, quantized: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss (a scalar) and its terms for vectors (N, D) and their codes (N, D), both attached to the graph."""
        raise NotImplementedError(f"{type(self).__name__} defines no objective")  # what each quantizer is

    def forward(self, z: Tensor) -> QuantizerOutput:
        """Quantize z, (B, D, *spatial) or (N, D).

        Raises:
            InputError: if axis 1 of z is not D.
        """
        if z.ndim < 2 or z.shape[1] != self.codebook_dim:
            raise InputError(f"z has shape {tuple(z.shape)}; axis 1 must be codebook_dim, {self.codebook_dim}")
        with torch.autocast(z.device.type, enabled=False):
            vectors = rearrange(z.float(), "b d ... -> (b ...) d")
            indices = nearest_codes(vectors.detach(), self.codebook.detach())
            quantized = self.lookup(indices)
            loss, terms = self.objective(vectors, quantized)
            straight_through = vectors + (quantized - vectors).detach()
        grid = rearrange(straight_through, "(b n) d -> b d n", b=len(z)).reshape(z.shape)
        return QuantizerOutput(
            quantized=grid.to(z.dtype),
            indices=indices.reshape(z.shape[0], *z.shape[2:]),
            loss=loss,
            terms={name: term.detach() for name, term in terms.items()},
        )

    def extra_repr(self) -> str:
        return f"codebook_size={self.codebook_size}, codebook_dim={self.codebook_dim}"


def commitment_and_codebook_loss(vectors: Tensor, quantized: Tensor) -> tuple[Tensor, Tensor]:
    """The two halves of the VQ-VAE loss (arXiv 1711.00937, equation 3), as means over all N*D elements.

    The first moves the vectors to their codes, the second the codes to their vectors.
    """
    return F.mse_loss(vectors, quantized.detach()), F.mse_loss(quantized, vectors.detach())
