"""Extractors by name."""

from pathlib import Path

from wvq.tokenizer.errors import InputError

from .efficientnet import EfficientNetLite0
from .extractor import Extractor
from .inception import InceptionV3


def build_extractor(name: str, weights: str | Path | None = None) -> Extractor:
    """The extractor called `name`: "inception", "efficientnet-lite0", "dinov2" or "clip"; never another in its place.

    Args:
        name: of the extractor.
        weights: its file of weights, if not where it looks by itself; of dinov2 and clip a folder or hub repository.

    Raises:
        InputError: for another name, a missing package, or weights that are missing or do not fit.
    """
    from .vision_transformers import CLIP, DINOv2

    extractors = {extractor.name: extractor for extractor in (EfficientNetLite0, InceptionV3, DINOv2, CLIP)}
    if name not in extractors:
        raise InputError(f"extractor is '{name}'; valid are {', '.join(extractors)}")
    return extractors[name](weights)
