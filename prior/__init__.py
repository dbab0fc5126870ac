"""Stage two: an autoregressive model over tokens, and its sampler."""

from .loading import load_prior
from .model import PriorConfig, PriorSize, build_prior
from .sampling import sample_tokens

__all__ = ["PriorConfig", "PriorSize", "build_prior", "load_prior", "sample_tokens"]
