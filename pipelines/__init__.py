"""What a user runs: images from classes, images from images, and the command line."""

from .base import ImagePipelineOutput
from .class_conditional import ClassConditionalPipeline
from .reconstruction import ReconstructionPipeline

__all__ = ["ClassConditionalPipeline", "ImagePipelineOutput", "ReconstructionPipeline"]
