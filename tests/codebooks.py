"""Quantizers of one codebook, at toy size, for tests that go over all of them."""

from typing import Any

from wvq.tokenizer import build_quantizer
from wvq.tokenizer.quantizers.base import Quantizer
from wvq.tokenizer.quantizers.registry import QUANTIZERS

NAMES = tuple(QUANTIZERS)


def one_codebook(name: str, codebook_size: int = 16, codebook_dim: int = 4, **options: Any) -> Quantizer:
    quantizer = build_quantizer(name, codebook_size, codebook_dim, **options)
    assert isinstance(quantizer, Quantizer)
    return quantizer
