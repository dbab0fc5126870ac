"""Stage one: images to a grid of tokens and back."""

from typing import TYPE_CHECKING, Any

from .errors import InputError
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

if TYPE_CHECKING:
    from .metrics import CodebookUsage

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


def __getattr__(name: str) -> Any:
    """Import the metric on first use: torchmetrics brings matplotlib and transformers, which no quantizer needs."""
    if name != "CodebookUsage":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from .metrics import CodebookUsage

    return CodebookUsage
