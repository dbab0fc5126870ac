"""Quantizers by name."""

import difflib
import inspect
from typing import Any

from ..errors import InputError
from .base import Quantizer
from .ema import EMAQuantizer
from .linear import LinearQuantizer
from .mmd import MMDQuantizer
from .online import OnlineQuantizer
from .vanilla import VanillaQuantizer
from .wasserstein import WassersteinQuantizer

QUANTIZERS: dict[str, type[Quantizer]] = {
    "vanilla": VanillaQuantizer,
    "ema": EMAQuantizer,
    "online": OnlineQuantizer,
    "linear": LinearQuantizer,
    "wasserstein": WassersteinQuantizer,
    "mmd": MMDQuantizer,
}


def build_quantizer(name: str, codebook_size: int, codebook_dim: int, **options: Any) -> Quantizer:
    """The quantizer called `name`, with the options of its class.

    Raises:
        InputError: for an unknown name or option; the message lists the valid ones.
    """
    if name not in QUANTIZERS:
        near = difflib.get_close_matches(name, QUANTIZERS, n=1)
        hint = f" (did you mean '{near[0]}'?)" if near else ""
        raise InputError(f"quantizer is '{name}'{hint}; valid are {', '.join(QUANTIZERS)}")
    accepted = quantizer_options(name)
    unknown = sorted(set(options) - set(accepted))
    if unknown:
        raise InputError(f"quantizer '{name}' has no option '{unknown[0]}'; it has {', '.join(accepted)}")
    return QUANTIZERS[name](codebook_size, codebook_dim, **options)


def quantizer_options(name: str) -> tuple[str, ...]:
    """Names of the options of the quantizer called `name`, its size and dimension apart."""
    return tuple(inspect.signature(QUANTIZERS[name]).parameters)[2:]
