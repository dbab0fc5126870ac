"""Several quantizers as one: over slices of the channels, or each over what the ones before it left."""

import torch
from torch import Tensor, nn

from ..errors import InputError
from .base import Quantizer, QuantizerOutput, check_input


class CompositeQuantizer(nn.Module):
    """Base of the composites; the indices get a last axis, one index for each of the M quantizers.

    Args:
        quantizers: M >= 1 quantizers of any kinds.
    """

    def __init__(self, *quantizers: Quantizer):
        super().__init__()
        if not quantizers:
            raise InputError(f"{type(self).__name__} was given no quantizer; it needs at least one")
        self.quantizers = nn.ModuleList(quantizers)

    @property
    def sub_quantizers(self) -> list[Quantizer]:
        """The M quantizers."""
        return list(self.quantizers)  # pyright: ignore[reportReturnType]

    def lookup(self, indices: Tensor) -> Tensor:
        """Codes of indices (..., M), each in [0, K) of its quantizer, as (..., D)."""
        raise NotImplementedError(f"{type(self).__name__} defines no lookup")  # what each composite is

    def unquantized(self, z: Tensor) -> Tensor:
        """What would come out of z (B, D, *spatial) if nothing were rounded: see `Quantizer.unquantized`."""
        return z

    @property
    def accumulation_steps(self) -> int:
        """Forwards of an optimizer step, of every sub-quantizer."""
        return self.sub_quantizers[0].accumulation_steps

    @accumulation_steps.setter
    def accumulation_steps(self, steps: int) -> None:
        for quantizer in self.sub_quantizers:
            quantizer.accumulation_steps = steps

    def abandon_step(self) -> None:
        """Forget the forwards of an optimizer step that will not be made."""
        for quantizer in self.sub_quantizers:
            quantizer.abandon_step()

    @staticmethod
    def _joined(outputs: list[QuantizerOutput], quantized: Tensor) -> QuantizerOutput:
        return QuantizerOutput(
            quantized=quantized,
            indices=torch.stack([output.indices for output in outputs], dim=-1),
            loss=torch.stack([output.loss for output in outputs]).sum(),
            terms={f"{name}_{m}": value for m, output in enumerate(outputs) for name, value in output.terms.items()},
        )


class ProductQuantizer(CompositeQuantizer):
    """Each quantizer takes its own slice of the channels, in order; D is the sum of theirs.

    M codebooks of K codes have K^M combinations at the cost of M * K (Jegou et al., 2011).
    """

    @property
    def codebook_dim(self) -> int:
        """D, over all slices."""
        return sum(self._widths)

    @property
    def _widths(self) -> list[int]:
        return [quantizer.codebook_dim for quantizer in self.sub_quantizers]

    def lookup(self, indices: Tensor) -> Tensor:
        """Codes of indices (..., M), as (..., D)."""
        chosen = zip(self.sub_quantizers, indices.unbind(dim=-1), strict=True)
        return torch.cat([quantizer.lookup(index) for quantizer, index in chosen], dim=-1)

    def unquantized(self, z: Tensor) -> Tensor:
        slices = zip(self.sub_quantizers, z.split(self._widths, dim=1), strict=True)
        return torch.cat([quantizer.unquantized(own) for quantizer, own in slices], dim=1)

    def forward(self, z: Tensor) -> QuantizerOutput:
        """Quantize z, (B, D, *spatial) or (N, D).

        Raises:
            InputError, NonFiniteError: see `Quantizer.forward`.
        """
        check_input(z, self.codebook_dim, self.training, asks=not self.training)
        slices = z.split(self._widths, dim=1)
        outputs = [quantizer(own) for quantizer, own in zip(self.sub_quantizers, slices, strict=True)]
        return self._joined(outputs, torch.cat([output.quantized for output in outputs], dim=1))


class ResidualQuantizer(CompositeQuantizer):
    """Each quantizer takes what the ones before it left over; the codes are added up (arXiv 2107.03312, section III-C).

    Raises:
        InputError: if the quantizers differ in codebook_dim, or one learns by the gradient of what it gives out, which
            only the first would get.
    """

    def __init__(self, *quantizers: Quantizer):
        super().__init__(*quantizers)
        dims = sorted({quantizer.codebook_dim for quantizer in quantizers})
        if len(dims) > 1:
            raise InputError(f"the quantizers have codebook_dim {dims}; those of a ResidualQuantizer must be the same")
        if unfit := [type(quantizer).__name__ for quantizer in quantizers if not quantizer.learns_by_loss]:
            raise InputError(
                f"one of the quantizers is a {unfit[0]}, which learns by the reconstruction alone; only a "
                "ProductQuantizer can be made of such"
            )

    @property
    def codebook_dim(self) -> int:
        """D."""
        return self.sub_quantizers[0].codebook_dim

    def lookup(self, indices: Tensor) -> Tensor:
        """Sums of the codes of indices (..., M), as (..., D)."""
        chosen = zip(self.sub_quantizers, indices.unbind(dim=-1), strict=True)
        return torch.stack([quantizer.lookup(index) for quantizer, index in chosen]).sum(dim=0)

    def forward(self, z: Tensor) -> QuantizerOutput:
        """Quantize z, (B, D, *spatial) or (N, D).

        Raises:
            InputError, NonFiniteError: see `Quantizer.forward`.
        """
        outputs: list[QuantizerOutput] = []
        residual = z.float() if z.is_floating_point() else z  # half precision would round what is left over
        total = torch.zeros_like(residual)
        for quantizer in self.sub_quantizers:
            outputs.append(quantizer(residual))
            # The gradient of the sum is that of the first estimate alone: each residual's own would add up to M of it.
            code = outputs[-1].quantized if not outputs[1:] else outputs[-1].quantized.detach()
            total = total + code
            residual = residual - outputs[-1].quantized.detach()
        return self._joined(outputs, total.to(z.dtype))
