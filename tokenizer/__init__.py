"""Stage one: images to a grid of tokens and back."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .errors import InputError
    from .metrics import CodebookUsage
    from .model import TokenizerConfig, VQTokenizer
    from .quantizers.base import QuantizerOutput
    from .quantizers.baselines.ema import EMAQuantizer
    from .quantizers.baselines.fixed_gaussian import GaussianQuantizer
    from .quantizers.baselines.fsq import FSQuantizer
    from .quantizers.baselines.linear import LinearQuantizer
    from .quantizers.baselines.online import OnlineQuantizer
    from .quantizers.baselines.sinkhorn import SinkhornQuantizer
    from .quantizers.baselines.spherical import SphericalQuantizer
    from .quantizers.composite import ProductQuantizer, ResidualQuantizer
    from .quantizers.gaussian import gaussian_transport_map, gaussian_wasserstein_distance
    from .quantizers.mmd import MMDQuantizer, maximum_mean_discrepancy
    from .quantizers.nearest import nearest_codes
    from .quantizers.registry import build_quantizer
    from .quantizers.transport import TransportQuantizer
    from .quantizers.vanilla import VanillaQuantizer
    from .quantizers.wasserstein import WassersteinQuantizer

__all__ = [
    "CodebookUsage",
    "EMAQuantizer",
    "FSQuantizer",
    "GaussianQuantizer",
    "InputError",
    "LinearQuantizer",
    "MMDQuantizer",
    "OnlineQuantizer",
    "ProductQuantizer",
    "QuantizerOutput",
    "ResidualQuantizer",
    "SinkhornQuantizer",
    "SphericalQuantizer",
    "TokenizerConfig",
    "TransportQuantizer",
    "VQTokenizer",
    "VanillaQuantizer",
    "WassersteinQuantizer",
    "build_quantizer",
    "gaussian_transport_map",
    "gaussian_wasserstein_distance",
    "maximum_mean_discrepancy",
    "nearest_codes",
]

_MODULES = {
    "CodebookUsage": ".metrics",
    "EMAQuantizer": ".quantizers.baselines.ema",
    "FSQuantizer": ".quantizers.baselines.fsq",
    "GaussianQuantizer": ".quantizers.baselines.fixed_gaussian",
    "InputError": ".errors",
    "LinearQuantizer": ".quantizers.baselines.linear",
    "MMDQuantizer": ".quantizers.mmd",
    "OnlineQuantizer": ".quantizers.baselines.online",
    "ProductQuantizer": ".quantizers.composite",
    "QuantizerOutput": ".quantizers.base",
    "ResidualQuantizer": ".quantizers.composite",
    "SinkhornQuantizer": ".quantizers.baselines.sinkhorn",
    "SphericalQuantizer": ".quantizers.baselines.spherical",
    "TokenizerConfig": ".model",
    "TransportQuantizer": ".quantizers.transport",
    "VQTokenizer": ".model",
    "VanillaQuantizer": ".quantizers.vanilla",
    "WassersteinQuantizer": ".quantizers.wasserstein",
    "build_quantizer": ".quantizers.registry",
    "gaussian_transport_map": ".quantizers.gaussian",
    "gaussian_wasserstein_distance": ".quantizers.gaussian",
    "maximum_mean_discrepancy": ".quantizers.mmd",
    "nearest_codes": ".quantizers.nearest",
}


def __getattr__(name: str) -> Any:
    """Import on first use: a command that is mistyped should not wait for torch, nor a quantizer for torchmetrics."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name], __name__), name)
