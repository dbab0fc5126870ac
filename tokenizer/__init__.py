"""Stage one: images to a grid of tokens and back."""

from .build import build_quantizer
from .distribution import gaussian_transport_map, gaussian_wasserstein_distance
from .errors import InputError
from .model import TokenizerConfig, VQTokenizer
from .nearest import nearest_codes
from .quantizer import QuantizerOutput
from .usage import CodebookUsage
from .vanilla import VanillaQuantizer
from .wasserstein import WassersteinQuantizer

__all__ = [
    "CodebookUsage",
    "InputError",
    "QuantizerOutput",
    "TokenizerConfig",
    "VQTokenizer",
    "VanillaQuantizer",
    "WassersteinQuantizer",
    "build_quantizer",
    "gaussian_transport_map",
    "gaussian_wasserstein_distance",
    "nearest_codes",
]
