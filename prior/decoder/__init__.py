"""One step of decoding: the next code's logits from the newest tokens and a cache of all before them."""

from .build import build_decoder
from .kept import forget_decoder, kept_decoder

__all__ = ["build_decoder", "forget_decoder", "kept_decoder"]
