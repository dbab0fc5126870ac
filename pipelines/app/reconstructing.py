"""A picture beside its reconstruction, and what both cost."""

import math
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from wvq.tokenizer.data.decoding import to_model

from ..base import to_pixels
from .models import Model


@dataclass(frozen=True)
class Reconstructed:
    """A reconstruction.

    Attributes:
        image: uint8 (C, H, W).
        psnr: dB, of all channels, range 255; infinite for an exact one.
        tokens, codes: T, and K of each token's codebook.
        bits: of the tokens, T log2 K.
        prior_bits: what the prior needs for them.
        raw_bits: of the pixels as they are.
    """

    image: Tensor
    psnr: float
    tokens: int
    codes: int
    bits: float
    prior_bits: float
    raw_bits: int

    def __str__(self) -> str:
        return (
            f"PSNR {self.psnr:.2f} dB; {self.tokens} tokens of {self.codes:,} codes are {self.bits:,.0f} bits, of "
            f"which the prior needs {self.prior_bits:,.0f}; the pixels have {self.raw_bits:,}"
        )


def reconstruct(model: Model, image: Tensor, class_name: Any) -> Reconstructed:
    """The reconstruction of an image, uint8 (C, H, W), whose class the prior is told.

    Raises:
        InputError: for a class that does not exist.
    """
    label, config = model.label_of(class_name), model.config
    tokenizer = model.pipeline.tokenizer
    made = to_pixels(tokenizer.decode(tokenizer.encode(to_model(image[None].to(tokenizer.device)))))[0].cpu()
    error = (image.float() - made.float()).square().mean().item()
    prior = model.pipeline.likelihood(image[None], label)["bits_per_token"].item() * config.num_tokens
    return Reconstructed(
        image=made,
        psnr=10 * math.log10(255**2 / error) if error else math.inf,
        tokens=config.num_tokens,
        codes=config.codebook_size,
        bits=config.num_tokens * math.log2(config.codebook_size),
        prior_bits=prior,
        raw_bits=8 * image.numel(),
    )
