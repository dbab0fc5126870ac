"""What a user runs: images from classes, images from images, and the command line."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .base import ImagePipelineOutput
    from .class_conditional import ClassConditionalPipeline
    from .editing.pipeline import EditingPipeline
    from .reconstruction import ReconstructionPipeline
    from .tokenize_images import TokenizeImages

__all__ = [
    "ClassConditionalPipeline",
    "EditingPipeline",
    "ImagePipelineOutput",
    "ReconstructionPipeline",
    "TokenizeImages",
]

_MODULES = {
    "ClassConditionalPipeline": ".class_conditional",
    "EditingPipeline": ".editing.pipeline",
    "ImagePipelineOutput": ".base",
    "ReconstructionPipeline": ".reconstruction",
    "TokenizeImages": ".tokenize_images",
}


def __getattr__(name: str) -> Any:
    """Import on first use: `wvq --help` passes through here and should not wait for torch."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name], __name__), name)
