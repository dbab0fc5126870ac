"""Scores, each with the protocol that makes it comparable."""

from wvq.tokenizer.usage import CodebookUsage

from .extractors import Extractor, build_extractor
from .frechet import FrechetDistance, ReferenceStatistics
from .scores import (
    GenerationScores,
    ReconstructionScores,
    evaluate_generation,
    evaluate_reconstruction,
    reference_statistics,
    score_name,
)

__all__ = [
    "CodebookUsage",
    "Extractor",
    "FrechetDistance",
    "GenerationScores",
    "ReconstructionScores",
    "ReferenceStatistics",
    "build_extractor",
    "evaluate_generation",
    "evaluate_reconstruction",
    "reference_statistics",
    "score_name",
]
