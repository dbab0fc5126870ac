"""Stage one: images to a grid of tokens and back."""

from .build import build_quantizer
from .composite import ProductQuantizer, ResidualQuantizer
from .discrepancy import maximum_mean_discrepancy
from .distribution import gaussian_transport_map, gaussian_wasserstein_distance
from .ema import EMAQuantizer
from .errors import InputError
from .linear import LinearQuantizer
from .mmd import MMDQuantizer
from .model import TokenizerConfig, VQTokenizer
from .nearest import nearest_codes
from .online import OnlineQuantizer
from .quantizer import QuantizerOutput
from .usage import CodebookUsage
from .vanilla import VanillaQuantizer
from .wasserstein import WassersteinQuantizer

__all__ = [
    "CodebookUsage",
    "EMAQuantizer",
    "InputError",
    "LinearQuantizer",
    "MMDQuantizer",
    "OnlineQuantizer",
    "ProductQuantizer",
    "QuantizerOutput",
    "ResidualQuantizer",
    "TokenizerConfig",
    "VQTokenizer",
    "VanillaQuantizer",
    "WassersteinQuantizer",
    "build_quantizer",
    "gaussian_transport_map",
    "gaussian_wasserstein_distance",
    "maximum_mean_discrepancy",
    "nearest_codes",
]
