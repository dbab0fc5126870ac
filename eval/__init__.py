"""Scores, each with the protocol that makes it comparable."""

from wvq.tokenizer.metrics import CodebookUsage

from .feature_scores import FEATURE_SCORES, score_features
from .features.extractor import Extractor
from .features.feature_set import FeatureSet, extract_features
from .features.image_sources import ImageArchive, ImageFolder, open_images
from .features.reference import ReferenceStatistics
from .features.registry import build_extractor
from .frechet_metric import FrechetDistance
from .perturbation import PerturbationScores, SomeImages, evaluate_perturbation
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
    "PerturbationScores",
    "ReconstructionScores",
    "ReferenceStatistics",
    "SomeImages",
    "build_extractor",
    "evaluate_generation",
    "evaluate_perturbation",
    "evaluate_reconstruction",
    "extract_features",
    "open_images",
    "reference_statistics",
    "score_features",
    "score_name",
]
