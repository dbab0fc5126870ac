"""Images as a tokenizer sees them: sources, decoding, data sets, and the order in which they are seen."""

from .config import DataConfig
from .dataset import ImageDataset, load_splits
from .decoding import to_model, to_uint8

__all__ = ["DataConfig", "ImageDataset", "load_splits", "to_model", "to_uint8"]
