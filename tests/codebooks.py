"""Quantizers of one codebook, at toy size, for tests that go over all of them."""

from typing import Any

from wvq.tokenizer import build_quantizer
from wvq.tokenizer.quantizers.base import Quantizer
from wvq.tokenizer.quantizers.codebook import CodebookQuantizer
from wvq.tokenizer.quantizers.registry import QUANTIZERS

NAMES = tuple(QUANTIZERS)
TABLES = tuple(name for name, kind in QUANTIZERS.items() if issubclass(kind, CodebookQuantizer))  # drawn, then moved
PLAIN = tuple(name for name in NAMES if name not in ("spherical", "fsq"))  # vectors are compared with codes as they are


def one_codebook(name: str, codebook_size: int = 16, codebook_dim: int = 4, **options: Any) -> Any:
    """A `Quantizer` whose codes are drawn at once; init_std and initialization are for those that have them."""
    options = {"initialization": "normal", **options}
    own = {option: value for option, value in options.items() if name in TABLES or not option.startswith("init")}
    quantizer = build_quantizer(name, codebook_size, codebook_dim, **own)
    assert isinstance(quantizer, Quantizer)
    return quantizer
