"""Scores, each with the protocol that makes it comparable."""

from wvq.tokenizer.usage import CodebookUsage

from .extractors import Extractor, build_extractor
from .feature_scores import FEATURE_SCORES, score_features
from .features import FeatureSet, extract_features
from .frechet import FrechetDistance
from .image_sources import ImageArchive, ImageFolder, open_images
from .reference import ReferenceStatistics
from .scores import (
    GenerationScores,
    ReconstructionScores,
    evaluate_generation,
    evaluate_reconstruction,
    reference_statistics,
    score_name,
)

__all__ = [
    "FEATURE_SCORES",
    "CodebookUsage",
    "Extractor",
    "FeatureSet",
    "FrechetDistance",
    "GenerationScores",
    "ImageArchive",
    "ImageFolder",
    "ReconstructionScores",
    "ReferenceStatistics",
    "build_extractor",
    "evaluate_generation",
    "evaluate_reconstruction",
    "extract_features",
    "open_images",
    "reference_statistics",
    "score_features",
    "score_name",
]
